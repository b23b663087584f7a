"""Measures the cost of the sidecar beside that of what it replaces: `make bench`."""
