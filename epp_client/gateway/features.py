"""The features of the Gateway API that Gateways of ours have, as GatewayClasses say them. Pure.

Names are those of the Gateway API's conformance suite, which tests what is listed here.
"""

CORE = ("Gateway", "HTTPRoute", "ReferenceGrant")
EXTENDED = (
    "GatewayHTTPListenerIsolation",
    "GatewayInfrastructurePropagation",
    "GatewayPort8080",
    "HTTPRoute303RedirectStatusCode",
    "HTTPRoute307RedirectStatusCode",
    "HTTPRoute308RedirectStatusCode",
    "HTTPRouteBackendProtocolH2C",
    "HTTPRouteBackendProtocolWebSocket",
    "HTTPRouteBackendRequestHeaderModification",
    "HTTPRouteBackendTimeout",
    "HTTPRouteDestinationPortMatching",
    "HTTPRouteHostRewrite",
    "HTTPRouteMethodMatching",
    "HTTPRouteNamedRouteRule",
    "HTTPRouteParentRefPort",
    "HTTPRoutePathRedirect",
    "HTTPRoutePathRewrite",
    "HTTPRoutePortRedirect",
    "HTTPRouteQueryParamMatching",
    "HTTPRouteRequestTimeout",
    "HTTPRouteResponseHeaderModification",
    "HTTPRouteSchemeRedirect",
)
"""Features that not every implementation has. Mirrors work (tests/e2e/test_gateway.py), but the suite looks
for copies in the logs of Pods, which the cluster of `make conformance` does not serve."""
SUPPORTED = tuple(sorted({*CORE, *EXTENDED}))
