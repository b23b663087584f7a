"""Measures the cost of following an API server: `python -m benchmarks.cluster`."""
