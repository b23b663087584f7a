"""The features of the Gateway API that Gateways of ours have, as GatewayClasses say them. Pure.

Names are those of the Gateway API's conformance suite, which tests what is listed here.
"""

CORE = ("Gateway", "HTTPRoute", "ReferenceGrant")
EXTENDED: tuple[str, ...] = ()
"""Features that not every implementation has."""
SUPPORTED = tuple(sorted({*CORE, *EXTENDED}))
