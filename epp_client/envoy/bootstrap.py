"""Renders the bootstrap configuration of an Envoy that serves InferencePools with this sidecar.

Pure. Clusters and endpoints are sent over ADS; the bootstrap has clusters only for an Envoy without ADS.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import betterproto2
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap_v3
import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import yaml
from envoy_data_plane.google.protobuf import Struct

from epp_client.envoy.clusters import pool_cluster, socket_address
from epp_client.envoy.edge import EDGE, RETRY_BODY_LIMIT, Edge, SidecarShape, Terms
from epp_client.envoy.inference_listener import connection_limit, inference_listener
from epp_client.envoy.node import CLUSTER, EDITION, EDITION_KEY, GATEWAY_KEY
from epp_client.envoy.own_clusters import (
    ads_cluster,
    collector_cluster,
    dynamic_resources,
    sidecar_cluster,
)
from epp_client.envoy.routes import Route, default_routes, route_configuration
from epp_client.envoy.status_listener import admin_cluster, status_listener
from epp_client.errors import SettingsError
from epp_client.gateway.regex import MAX_PROGRAM_SIZE
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.settings import Modes
from epp_client.settings import UpstreamMode


def envoy_config(
    pools: Sequence[PoolName],
    *,
    routes: Sequence[Route] | None = None,
    listener: tuple[str, int] = ("0.0.0.0", 8080),
    edge: Edge = EDGE,
    admin: tuple[str, int] | None = ("127.0.0.1", 9901),
    status: tuple[str, int] | None = None,
    ext_proc_sockets: Sequence[Path],
    ads_socket: Path | None,
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST,
    modes: Mapping[PoolName, Modes] | None = None,
    app_protocols: Mapping[PoolName, AppProtocol] | None = None,
    node_id: str = "envoy",
    access_log: bool = True,
    retry_body_limit: int = RETRY_BODY_LIMIT,
) -> str:
    """Render a bootstrap that Envoy 1.36 to 1.40 accepts, as YAML.

    `listener`, `admin` and `status` (a listener for probes and Prometheus) are (address, port).
    `ext_proc_sockets` has one Unix socket per relay worker.
    Without `ads_socket` the pools' clusters are static, with `app_protocols` (default HTTP/1.1).
    `modes`: what the pickers get, by default everything.
    `retry_body_limit` in bytes: Envoy cannot retry a request with a larger body.

    Raises:
        SettingsError: no pool, no socket, a route to an unknown pool, `override_host` without ADS,
            or `status` without `admin`.
    """
    routes = default_routes(pools) if routes is None else routes
    _check(pools, routes, ext_proc_sockets, ads_socket, upstream_mode)
    clusters = [sidecar_cluster(ext_proc_sockets)]
    if edge.tracing is not None:
        clusters.append(collector_cluster(edge.tracing.collector))
    if ads_socket is not None:
        clusters.append(ads_cluster(ads_socket))
    else:
        clusters += _pool_clusters(pools, app_protocols or {}, upstream_mode)
    terms = Terms(
        idle_timeout=edge.idle_timeout,
        request_timeout=edge.request_timeout,
        retry_body_limit=retry_body_limit,
        retries=upstream_mode is UpstreamMode.OVERRIDE_HOST,
        modes=modes or {},
    )
    configuration = route_configuration(routes, terms, validate_clusters=ads_socket is None)
    sidecar = SidecarShape(upstream_mode, len(ext_proc_sockets))
    inference = inference_listener(
        listener, edge, configuration, access_log=access_log, sidecar=sidecar
    )
    return _yaml(
        _bootstrap(
            [inference],
            clusters,
            edge=edge,
            admin=admin,
            status=status,
            node=_node(node_id, gateway=False),
            dynamic=dynamic_resources(gateway=False) if ads_socket is not None else None,
        )
    )


def gateway_config(
    *,
    edge: Edge = EDGE,
    admin: tuple[str, int] | None = ("127.0.0.1", 9901),
    status: tuple[str, int] | None = None,
    ext_proc_sockets: Sequence[Path],
    ads_socket: Path,
    node_id: str = "envoy",
) -> str:
    """Render a bootstrap as `envoy_config`, without listener and routes: the sidecar sends those of its
    Gateway. Of `edge` it has `max_connections`.

    Raises:
        SettingsError: `status` without `admin`.
    """
    clusters = [sidecar_cluster(ext_proc_sockets), ads_cluster(ads_socket)]
    bootstrap = _bootstrap(
        [],
        clusters,
        edge=edge,
        admin=admin,
        status=status,
        node=_node(node_id, gateway=True),
        dynamic=dynamic_resources(gateway=True),
    )
    bootstrap.layered_runtime = bootstrap_v3.LayeredRuntime(
        layers=[
            bootstrap_v3.RuntimeLayer(
                name="gateway", static_layer=Struct.from_dict({_REGEX_SIZE: MAX_PROGRAM_SIZE})
            ),
            # What Envoy has by default: its admin page can change flags.
            bootstrap_v3.RuntimeLayer(
                name="admin", admin_layer=bootstrap_v3.RuntimeLayerAdminLayer()
            ),
        ]
    )
    return _yaml(bootstrap)


_REGEX_SIZE = "re2.max_program_size.error_level"


def _bootstrap(
    listeners: list[listener_v3.Listener],
    clusters: list[cluster_v3.Cluster],
    *,
    edge: Edge,
    admin: tuple[str, int] | None,
    status: tuple[str, int] | None,
    node: core_v3.Node,
    dynamic: bootstrap_v3.BootstrapDynamicResources | None,
) -> bootstrap_v3.Bootstrap:
    if status is not None:
        if admin is None:
            raise SettingsError("envoy-config: the status listener needs Envoy's admin listener")
        clusters.append(admin_cluster(admin))
        listeners.append(status_listener(status))
    return bootstrap_v3.Bootstrap(
        node=node,
        admin=bootstrap_v3.Admin(address=socket_address(*admin)) if admin else None,
        static_resources=bootstrap_v3.BootstrapStaticResources(
            listeners=listeners, clusters=clusters
        ),
        overload_manager=connection_limit(edge),
        dynamic_resources=dynamic,
    )


def _node(name: str, *, gateway: bool) -> core_v3.Node:
    known: dict[str, object] = {EDITION_KEY: EDITION}
    if gateway:
        known[GATEWAY_KEY] = True
    return core_v3.Node(id=name, cluster=CLUSTER, metadata=Struct.from_dict(known))


def _pool_clusters(
    pools: Sequence[PoolName], protocols: Mapping[PoolName, AppProtocol], mode: UpstreamMode
) -> list[cluster_v3.Cluster]:
    return [pool_cluster(pool, protocols.get(pool, AppProtocol.HTTP), mode) for pool in pools]


def _check(
    pools: Sequence[PoolName],
    routes: Sequence[Route],
    sockets: Sequence[Path],
    ads_socket: Path | None,
    upstream_mode: UpstreamMode,
) -> None:
    if not pools or not routes:
        raise SettingsError("envoy-config: at least one pool and one route are needed")
    if not sockets:
        raise SettingsError("envoy-config: at least one ext_proc socket is needed")
    if unknown := [str(route.pool) for route in routes if route.pool not in pools]:
        raise SettingsError(f"envoy-config: routes to unknown pools: {', '.join(unknown)}")
    if ads_socket is None and upstream_mode is UpstreamMode.OVERRIDE_HOST:
        raise SettingsError("envoy-config: override_host needs ADS: give its socket")


def _yaml(bootstrap: bootstrap_v3.Bootstrap) -> str:
    document = bootstrap.to_dict(
        casing=betterproto2.Casing.SNAKE, output_format=betterproto2.OutputFormat.PROTO_JSON
    )
    return yaml.safe_dump(document, sort_keys=False, width=100)
