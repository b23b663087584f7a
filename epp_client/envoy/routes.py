"""Envoy's routes to InferencePools. Pure."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple

import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher_v3

from epp_client.envoy.ext_proc_filter import of_pool
from epp_client.envoy.pool_clusters import cluster_name
from epp_client.ext_proc.replies import MARKS_NAMESPACE, REQUEST_TRAILERS_MARK
from epp_client.picker.pick import MAX_PICK_ENTRIES
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import ResponseMode

# Only failures before a request reached a model server: a generation must not be started twice.
SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"


class Route(NamedTuple):
    """Requests whose path starts with `prefix` go to `pool`."""

    prefix: str
    pool: PoolName
    prefix_rewrite: str = ""
    """Replaces the prefix; empty keeps the path."""


def default_routes(pools: Sequence[PoolName]) -> list[Route]:
    """`/<namespace>/<name>/` for each pool, which is removed from the path; for a single pool `/` as well.

    A pool keeps its own prefix when others come: only `/` goes, see `without_root`.
    """
    own = [Route(f"/{pool.namespace}/{pool.name}/", pool, prefix_rewrite="/") for pool in pools]
    return [Route("/", pools[0]), *own] if len(pools) == 1 else own


def without_root(routes: Sequence[Route]) -> str:
    """What to tell the user if default routes have no pool at `/`; empty if they have one."""
    if any(route.prefix == "/" for route in routes) or not routes:
        return ""
    prefixes = ", ".join(route.prefix for route in routes)
    return f"no pool is at /: use {prefixes}, or add --route /={routes[0].pool}"


class Terms(NamedTuple):
    """Settings of all routes. Times are in seconds; 0 is no limit."""

    idle_timeout: float
    request_timeout: float
    retry_body_limit: int
    """Bytes of a request body that Envoy keeps for a retry. Larger requests are not retried."""
    retries: bool
    modes: Mapping[PoolName, ResponseMode]
    """Pools that are not in it have mode `relay`."""


def route_configuration(
    routes: Sequence[Route], terms: Terms, *, validate_clusters: bool
) -> route_v3.RouteConfiguration:
    """All routes, longest prefix first, as Envoy takes the first match."""
    ordered = sorted(routes, key=lambda route: len(route.prefix), reverse=True)
    return route_v3.RouteConfiguration(
        name="inference",
        validate_clusters=validate_clusters,
        virtual_hosts=[
            route_v3.VirtualHost(
                name="inference",
                domains=["*"],
                routes=[made for route in ordered for made in _routes(route, terms)],
            )
        ],
    )


def _routes(route: Route, terms: Terms) -> list[route_v3.Route]:
    """The route, preceded by one without retries, for requests that the sidecar has marked: they have
    trailers, or may have some."""
    if not terms.retries:
        return [_route(route, terms)]
    plain, retrying = _route(route, terms), _route(route, terms)
    plain.name += " with trailers"
    assert plain.match is not None
    assert retrying.route is not None
    plain.match.dynamic_metadata = [_SEEN_TRAILERS]
    retrying.request_body_buffer_limit = terms.retry_body_limit
    retrying.route.retry_policy = route_v3.RetryPolicy(
        retry_on=SAFE_RETRIES,
        # The maximum length of a list. Each entry is tried once; after the last one Envoy answers itself.
        num_retries=MAX_PICK_ENTRIES,
        retry_back_off=route_v3.RetryPolicyRetryBackOff(
            base_interval=timedelta(milliseconds=5), max_interval=timedelta(milliseconds=50)
        ),
    )
    return [plain, retrying]


_SEEN_TRAILERS = matcher_v3.MetadataMatcher(
    filter=MARKS_NAMESPACE,
    path=[matcher_v3.MetadataMatcherPathSegment(key=REQUEST_TRAILERS_MARK)],
    value=matcher_v3.ValueMatcher(bool_match=True),
)


def _route(route: Route, terms: Terms) -> route_v3.Route:
    return route_v3.Route(
        name=str(route.pool),
        match=route_v3.RouteMatch(prefix=route.prefix),
        route=route_v3.RouteAction(
            cluster=cluster_name(route.pool),
            prefix_rewrite=route.prefix_rewrite,
            timeout=timedelta(seconds=terms.request_timeout),
            idle_timeout=timedelta(seconds=terms.idle_timeout),
        ),
        typed_per_filter_config=of_pool(
            route.pool, terms.modes.get(route.pool, ResponseMode.RELAY)
        ),
    )
