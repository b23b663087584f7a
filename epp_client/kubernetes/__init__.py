"""All use of a Kubernetes API server: its client, the source of pools that follows it, the reporting of
status."""
