"""epp-client: the InferencePool data plane for Envoy."""

__version__ = "0.1.0"
