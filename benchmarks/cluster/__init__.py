"""What it costs to follow an API server: `python -m benchmarks.cluster`."""
