"""Envoy's routes to InferencePools. Pure."""

from collections.abc import Sequence
from typing import NamedTuple

import envoy_data_plane.envoy.config.route.v3 as route_v3

import epp_client.envoy.pb.routes_pb2 as pb
from epp_client.envoy.edge import Terms
from epp_client.envoy.pool_clusters import cluster_name
from epp_client.envoy.route_parts import EXT_PROC_FILTER, per_route, pool_routes, seconds
from epp_client.pool.inference_pool import PoolName


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
    made = pb.Route(name=str(route.pool), match=pb.RouteMatch(prefix=route.prefix))
    action = pb.RouteAction(
        cluster=cluster_name(route.pool),
        prefix_rewrite=route.prefix_rewrite,
        timeout=seconds(terms.request_timeout),
        idle_timeout=seconds(terms.idle_timeout),
    )
    made.route.CopyFrom(action)
    made.typed_per_filter_config[EXT_PROC_FILTER].CopyFrom(per_route(route.pool, terms))
    return [route_v3.Route.parse(value) for value in pool_routes(made, terms)]
