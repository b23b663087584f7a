"""Imports envoy-data-plane once, without the deprecation warnings of its own generated code."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore", DeprecationWarning)
    import epp_client.envoy.bootstrap  # noqa: F401
