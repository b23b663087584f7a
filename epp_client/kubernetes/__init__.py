"""What the sidecar has to do with a Kubernetes API server: the API itself, reflectors, the pool source."""
