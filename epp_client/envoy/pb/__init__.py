"""Compiled from `protos/xds/`: `make protos`. Never edited by hand."""
