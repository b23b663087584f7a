"""epp-client: the InferencePool data plane for Envoy."""
