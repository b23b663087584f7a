"""Micro-benchmarks of what a request runs through, without sockets: `make bench-micro`."""
