"""What every route to an InferencePool has: its ext_proc settings, retries, a twin for trailers. Pure.

Written with upb, as encoding with Envoy's whole messages takes 20 times as long. `routes` reads the result
into those for the bootstrap.
"""

from google.protobuf.duration_pb2 import Duration
from google.protobuf.wrappers_pb2 import UInt32Value, UInt64Value

from epp_client.envoy.edge import Terms
from epp_client.envoy.pb.routes_pb2 import (
    Any,
    ExtProcOverrides,
    ExtProcPerRoute,
    HeaderValue,
    MetadataMatcher,
    PathSegment,
    ProcessingMode,
    RetryBackOff,
    RetryPolicy,
    Route,
    ValueMatcher,
)
from epp_client.ext_proc.messages import POOL_KEY
from epp_client.ext_proc.replies import MARKS_NAMESPACE, REQUEST_TRAILERS_MARK
from epp_client.picker.pick import MAX_PICK_ENTRIES
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import Modes, RequestMode, ResponseMode

EXT_PROC_FILTER = "envoy.filters.http.ext_proc"
_PER_ROUTE = "type.googleapis.com/envoy.extensions.filters.http.ext_proc.v3.ExtProcPerRoute"
_SEND, _SKIP = 1, 2
_NONE, _FULL_DUPLEX_STREAMED = 0, 4

# Only failures before a request reached a model server: a generation must not be started twice.
SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"
SERVICE_RETRIES = 3
"""Retries of a request to a Service, each on an endpoint that Envoy chooses."""
_BACK_OFF = RetryBackOff(
    base_interval=Duration(nanos=5_000_000), max_interval=Duration(nanos=50_000_000)
)
_SEEN_TRAILERS = MetadataMatcher(
    filter=MARKS_NAMESPACE,
    path=[PathSegment(key=REQUEST_TRAILERS_MARK)],
    value=ValueMatcher(bool_match=True),
)


def processing_mode(modes: Modes) -> ProcessingMode:
    """What Envoy sends to the sidecar: no message that nobody reads."""
    headers = modes.request is RequestMode.HEADERS
    nothing = modes.response is ResponseMode.NONE
    shown = modes.response.shown
    return ProcessingMode(
        request_header_mode=_SEND,
        response_header_mode=_SKIP if nothing else _SEND,
        request_body_mode=_NONE if headers else _FULL_DUPLEX_STREAMED,
        response_body_mode=_FULL_DUPLEX_STREAMED if shown else _NONE,
        request_trailer_mode=_SKIP if headers else _SEND,
        response_trailer_mode=_SEND if shown else _SKIP,
    )


def per_route(pool: PoolName, terms: Terms) -> Any:
    """The ExtProcPerRoute that enables the filter for `pool`, on a route or on a weighted cluster."""
    modes = terms.modes.get(pool, Modes())
    overrides = ExtProcOverrides(
        processing_mode=None if modes.whole else processing_mode(modes),
        grpc_initial_metadata=[HeaderValue(key=POOL_KEY, value=str(pool))],
    )
    value = ExtProcPerRoute(overrides=overrides).SerializeToString()
    return Any(type_url=_PER_ROUTE, value=value)


def seconds(value: float) -> Duration:
    """A Duration, to the nanosecond."""
    whole, part = divmod(round(value * 1_000_000_000), 1_000_000_000)
    return Duration(seconds=whole, nanos=part)


def retry_policy(retries: int) -> RetryPolicy:
    """Up to so many retries that are safe."""
    return RetryPolicy(
        retry_on=SAFE_RETRIES, num_retries=UInt32Value(value=retries), retry_back_off=_BACK_OFF
    )


def pool_routes(route: Route, terms: Terms) -> list[bytes]:
    """`route` to pools, preceded by one without retries that matches once the sidecar has seen request
    trailers. `route` itself is changed."""
    if not terms.retries:
        return [route.SerializeToString()]
    name = route.name
    route.name = f"{name} with trailers"
    route.match.dynamic_metadata.append(_SEEN_TRAILERS)
    plain = route.SerializeToString()
    route.name = name
    del route.match.dynamic_metadata[:]
    route.request_body_buffer_limit.CopyFrom(UInt64Value(value=terms.retry_body_limit))
    # The maximum length of a list. Each entry is tried once; after the last one Envoy answers itself.
    route.route.retry_policy.MergeFrom(retry_policy(MAX_PICK_ENTRIES))
    return [plain, route.SerializeToString()]
