"""Micro-benchmarks of the hot path without sockets: `make bench-micro`."""
