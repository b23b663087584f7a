"""Chaos: runs real load through the real Envoy while parts fail, and accounts for every request."""
