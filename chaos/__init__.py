"""Chaos: real load through the real Envoy while everything around it fails; an account of each request."""
