"""Envoy's second listener, for probes and Prometheus, with only `/ready` and `/stats/prometheus`. Pure.

Envoy's admin page can stop Envoy, so it stays on loopback, and only these two pages are reachable from
outside.
"""

from datetime import timedelta

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.type.matcher.v3 as matcher_v3
from envoy_data_plane.google.protobuf import Any

from epp_client.envoy.clusters import socket_address
from epp_client.envoy.listener import http_listener

ADMIN_CLUSTER = "envoy-admin"
PAGES = ("/ready", "/stats/prometheus")
_TIMEOUT = timedelta(seconds=10)


def admin_cluster(admin: tuple[str, int]) -> cluster_v3.Cluster:
    """The cluster of Envoy's own admin page."""
    return cluster_v3.Cluster(
        name=ADMIN_CLUSTER,
        type=cluster_v3.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        load_assignment=endpoint_v3.ClusterLoadAssignment(
            cluster_name=ADMIN_CLUSTER,
            endpoints=[
                endpoint_v3.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint_v3.LbEndpoint(
                            endpoint=endpoint_v3.Endpoint(address=socket_address(*admin))
                        )
                    ]
                )
            ],
        ),
    )


def status_listener(listen: tuple[str, int]) -> listener_v3.Listener:
    """The listener. Everything but a GET of one of the pages is answered with 404."""
    manager = hcm_v3.HttpConnectionManager(
        codec_type=hcm_v3.HttpConnectionManagerCodecType.AUTO,
        stat_prefix="status",
        route_config=route_v3.RouteConfiguration(
            name="status",
            virtual_hosts=[
                route_v3.VirtualHost(
                    name="status", domains=["*"], routes=[_route(page) for page in PAGES]
                )
            ],
        ),
        http_filters=[
            hcm_v3.HttpFilter(
                name="envoy.filters.http.router", typed_config=Any.pack(router_v3.Router())
            )
        ],
        stream_idle_timeout=_TIMEOUT,
        request_headers_timeout=_TIMEOUT,
    )
    listener = http_listener("status", listen, manager)
    listener.ignore_global_conn_limit = True
    return listener


def _route(page: str) -> route_v3.Route:
    return route_v3.Route(
        name=page,
        match=route_v3.RouteMatch(
            path=page,
            headers=[
                route_v3.HeaderMatcher(
                    name=":method", string_match=matcher_v3.StringMatcher(exact="GET")
                )
            ],
        ),
        route=route_v3.RouteAction(cluster=ADMIN_CLUSTER, timeout=_TIMEOUT),
    )
