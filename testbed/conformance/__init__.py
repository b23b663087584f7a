"""Runs the official conformance suites of Gateway API and of its Inference Extension on a cluster of one
machine (`testbed.cluster.machine`): `make conformance`."""
