"""The bootstrap configuration for an Envoy that serves InferencePools through this sidecar.

Pure: values in, YAML text out. What changes while Envoy runs (clusters, endpoints) travels over ADS
and is in here only for an Envoy without ADS.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import betterproto2
import envoy_data_plane.envoy.config.accesslog.v3 as accesslog_v3
import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap_v3
import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.extensions.access_loggers.stream.v3 as stream_log
import envoy_data_plane.envoy.extensions.filters.http.ext_proc.v3 as ext_proc_v3
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.retry.host.previous_hosts.v3 as previous_hosts
import envoy_data_plane.envoy.type.matcher.v3 as matcher_v3
import envoy_data_plane.envoy.type.v3 as type_v3
import yaml
from envoy_data_plane.google.protobuf import Any, Struct

from epp_client.errors import SettingsError
from epp_client.ext_proc.messages import POOL_KEY
from epp_client.ext_proc.replies import MARKS_NAMESPACE, REQUEST_TRAILERS_MARK
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED, SUBSET_NAMESPACE
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.settings import ResponseMode
from epp_client.settings import UpstreamMode
from epp_client.xds.clusters import (
    cluster_name,
    explicit_http2,
    over_ads,
    pool_cluster,
    raised_circuit_breakers,
    socket_address,
)
from epp_client.xds.listener import http_listener
from epp_client.xds.node import CLUSTER, EDITION, EDITION_KEY
from epp_client.xds.status_listener import admin_cluster, status_listener

EXT_PROC_FILTER = "envoy.filters.http.ext_proc"
SIDECAR_CLUSTER = "epp-client"
ADS_CLUSTER = "epp-client-xds"

# Only what cannot have reached a model server: a generation that has begun is not repeatable.
SAFE_RETRIES = "connect-failure,refused-stream,reset-before-request"
# Asking for a pick once more costs nothing, as long as the sidecar has not begun to answer: it died
# (reset) or drains (the statuses, with grpcio). Envoy keeps 64 KiB of a stream for it.
_PICK_RETRIES = "connect-failure,refused-stream,reset,unavailable,cancelled"

# A relay that is silent may be one to come: its socket is held for it, for up to a minute (`hold`). One
# that hangs is killed by its control process, which Envoy sees at once.
_RELAY_SILENCE = 50.0
_ADS_SILENCE = 5.0

_Mode = ext_proc_v3.ProcessingModeBodySendMode
_Send = ext_proc_v3.ProcessingModeHeaderSendMode


class Route(NamedTuple):
    """Requests whose path starts with `prefix` go to `pool`."""

    prefix: str
    pool: PoolName
    prefix_rewrite: str = ""
    """What takes the prefix's place; empty keeps the path."""


def default_routes(pools: Sequence[PoolName]) -> list[Route]:
    """One pool gets every path; several get `/<namespace>/<name>/` each, which is cut off again."""
    if len(pools) == 1:
        return [Route("/", pools[0])]
    return [Route(f"/{pool.namespace}/{pool.name}/", pool, prefix_rewrite="/") for pool in pools]


def envoy_config(
    pools: Sequence[PoolName],
    *,
    routes: Sequence[Route] | None = None,
    listener: tuple[str, int] = ("0.0.0.0", 8080),
    admin: tuple[str, int] | None = ("127.0.0.1", 9901),
    status: tuple[str, int] | None = None,
    ext_proc_sockets: Sequence[Path],
    ads_socket: Path | None,
    upstream_mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST,
    response_mode: ResponseMode = ResponseMode.RELAY,
    app_protocols: Mapping[PoolName, AppProtocol] | None = None,
    node_id: str = "envoy",
    access_log: bool = True,
    retry_body_limit: int = 16 * 1024 * 1024,
    stream_idle_timeout: float = 600.0,
) -> str:
    """Render a bootstrap that Envoy 1.40 accepts, as YAML.

    `listener`, `admin` and `status` (a listener for probes and Prometheus) are (address, port);
    `ext_proc_sockets` one Unix socket per relay worker.
    Without `ads_socket` the pools' clusters are static, with `app_protocols` (default HTTP/1.1).
    `retry_body_limit` in bytes: a larger request body still flows, but Envoy cannot retry it.
    `stream_idle_timeout` in seconds: a stream with no byte in either direction for so long ends; it
    must outlast the longest silent prefill.

    Raises:
        SettingsError: no pool, no socket, a route to an unknown pool, `override_host` without ADS,
            or `status` without `admin`.
    """
    routes = default_routes(pools) if routes is None else routes
    if not pools or not routes:
        raise SettingsError("envoy-config: at least one pool and one route are needed")
    if not ext_proc_sockets:
        raise SettingsError("envoy-config: at least one ext_proc socket is needed")
    if unknown := [str(route.pool) for route in routes if route.pool not in pools]:
        raise SettingsError(f"envoy-config: routes to unknown pools: {', '.join(unknown)}")
    if ads_socket is None and upstream_mode is UpstreamMode.OVERRIDE_HOST:
        raise SettingsError("envoy-config: override_host needs endpoints over ADS: give its socket")
    if status is not None and admin is None:
        raise SettingsError(
            "envoy-config: the status listener shows pages of Envoy's admin: keep it"
        )

    clusters = [_socket_cluster(SIDECAR_CLUSTER, ext_proc_sockets, _RELAY_SILENCE)]
    if ads_socket is not None:
        clusters.append(_socket_cluster(ADS_CLUSTER, [ads_socket], _ADS_SILENCE))
    else:
        protocols = app_protocols or {}
        clusters += [
            pool_cluster(pool, protocols.get(pool, AppProtocol.HTTP), upstream_mode)
            for pool in pools
        ]
    if status is not None and admin is not None:
        clusters.append(admin_cluster(admin))
    idle = timedelta(seconds=stream_idle_timeout)
    manager = _connection_manager(
        _route_configuration(
            routes,
            retries=upstream_mode is UpstreamMode.OVERRIDE_HOST,
            body_limit=retry_body_limit,
            idle=idle,
            validate_clusters=ads_socket is None,
        ),
        _ext_proc(response_mode),
        idle=idle,
        access_log=access_log,
    )
    bootstrap = bootstrap_v3.Bootstrap(
        node=core_v3.Node(
            id=node_id, cluster=CLUSTER, metadata=Struct.from_dict({EDITION_KEY: EDITION})
        ),
        admin=bootstrap_v3.Admin(address=socket_address(*admin)) if admin else None,
        static_resources=bootstrap_v3.BootstrapStaticResources(
            listeners=[
                http_listener("inference", listener, manager),
                *([status_listener(status)] if status else []),
            ],
            clusters=clusters,
        ),
        dynamic_resources=_dynamic_resources() if ads_socket is not None else None,
    )
    document = bootstrap.to_dict(
        casing=betterproto2.Casing.SNAKE, output_format=betterproto2.OutputFormat.PROTO_JSON
    )
    return yaml.safe_dump(document, sort_keys=False, width=100)


def _dynamic_resources() -> bootstrap_v3.BootstrapDynamicResources:
    return bootstrap_v3.BootstrapDynamicResources(
        cds_config=over_ads(),
        ads_config=core_v3.ApiConfigSource(
            api_type=core_v3.ApiConfigSourceApiType.GRPC,
            transport_api_version=core_v3.ApiVersion.V3,
            set_node_on_first_message_only=True,
            grpc_services=[
                core_v3.GrpcService(
                    envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(
                        cluster_name=ADS_CLUSTER,
                        # Envoy's own goes up to 30 s: endpoints would be that old after a restart, which
                        # waits half a second for Envoy before it serves.
                        retry_policy=core_v3.RetryPolicy(
                            retry_back_off=core_v3.BackoffStrategy(
                                base_interval=timedelta(milliseconds=50),
                                max_interval=timedelta(milliseconds=250),
                            )
                        ),
                    )
                )
            ],
        ),
    )


def _socket_cluster(name: str, sockets: Sequence[Path], silence: float) -> cluster_v3.Cluster:
    """gRPC to Unix sockets of ours, streams balanced one by one. After `silence` seconds without an answer
    to a ping a connection is given up.
    """
    http2 = core_v3.Http2ProtocolOptions(
        max_concurrent_streams=65_536,
        connection_keepalive=core_v3.KeepaliveSettings(
            interval=timedelta(seconds=10), timeout=timedelta(seconds=silence)
        ),
    )
    return cluster_v3.Cluster(
        name=name,
        type=cluster_v3.ClusterDiscoveryType.STATIC,
        connect_timeout=timedelta(seconds=1),
        lb_policy=cluster_v3.ClusterLbPolicy.LEAST_REQUEST,
        circuit_breakers=raised_circuit_breakers(),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(
                explicit_http2(http2)
            )
        },
        load_assignment=endpoint_v3.ClusterLoadAssignment(
            cluster_name=name,
            endpoints=[
                endpoint_v3.LocalityLbEndpoints(
                    lb_endpoints=[
                        endpoint_v3.LbEndpoint(
                            endpoint=endpoint_v3.Endpoint(
                                address=core_v3.Address(pipe=core_v3.Pipe(path=str(path)))
                            )
                        )
                        for path in sockets
                    ]
                )
            ],
        ),
    )


def _ext_proc(mode: ResponseMode) -> ext_proc_v3.ExternalProcessor:
    skip = mode is ResponseMode.SKIP
    return ext_proc_v3.ExternalProcessor(
        grpc_service=core_v3.GrpcService(
            envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(cluster_name=SIDECAR_CLUSTER),
            retry_policy=core_v3.RetryPolicy(
                retry_on=_PICK_RETRIES,
                # About 10 s in all, as long as a pick may take: a lone worker is back by then, and so is
                # a sidecar that finishes its streams and starts anew.
                num_retries=80,
                retry_back_off=core_v3.BackoffStrategy(
                    base_interval=timedelta(milliseconds=5),
                    max_interval=timedelta(milliseconds=250),
                ),
                # A dead worker has the fewest streams, so LEAST_REQUEST would choose it again.
                retry_host_predicate=[
                    core_v3.RetryPolicyRetryHostPredicate(
                        name="envoy.retry_host_predicates.previous_hosts",
                        typed_config=Any.pack(previous_hosts.PreviousHostsPredicate()),
                    )
                ],
                host_selection_retry_max_attempts=5,
            ),
        ),
        failure_mode_allow=False,
        # Envoy enforces it only where a direction is not full-duplex (`skip`).
        message_timeout=timedelta(seconds=10),
        status_on_error=type_v3.HttpStatus(code=type_v3.StatusCode.ServiceUnavailable),
        processing_mode=ext_proc_v3.ProcessingMode(
            request_header_mode=_Send.SEND,
            response_header_mode=_Send.SEND,
            request_body_mode=_Mode.FULL_DUPLEX_STREAMED,
            response_body_mode=_Mode.NONE if skip else _Mode.FULL_DUPLEX_STREAMED,
            request_trailer_mode=_Send.SEND,
            response_trailer_mode=_Send.SKIP if skip else _Send.SEND,
        ),
        response_attributes=["upstream.address"],
        metadata_options=ext_proc_v3.MetadataOptions(
            forwarding_namespaces=ext_proc_v3.MetadataOptionsMetadataNamespaces(
                untyped=[LB_NAMESPACE, SUBSET_NAMESPACE]
            ),
            receiving_namespaces=ext_proc_v3.MetadataOptionsMetadataNamespaces(
                untyped=[LB_NAMESPACE, MARKS_NAMESPACE]
            ),
        ),
    )


def _route_configuration(
    routes: Sequence[Route],
    *,
    retries: bool,
    body_limit: int,
    idle: timedelta,
    validate_clusters: bool,
) -> route_v3.RouteConfiguration:
    # Envoy takes the first route that matches: the longest prefix has to come first.
    ordered = sorted(routes, key=lambda route: len(route.prefix), reverse=True)
    return route_v3.RouteConfiguration(
        name="inference",
        validate_clusters=validate_clusters,
        virtual_hosts=[
            route_v3.VirtualHost(
                name="inference",
                domains=["*"],
                routes=[
                    made for route in ordered for made in _routes(route, retries, body_limit, idle)
                ],
            )
        ],
    )


def _routes(route: Route, retries: bool, body_limit: int, idle: timedelta) -> list[route_v3.Route]:
    """The route, behind one without retries that is chosen once the sidecar has seen trailers."""
    if not retries:
        return [_route(route, idle)]
    plain, retrying = _route(route, idle), _route(route, idle)
    plain.name += " with trailers"
    assert plain.match is not None
    assert retrying.route is not None
    plain.match.dynamic_metadata = [_SEEN_TRAILERS]
    retrying.request_body_buffer_limit = body_limit
    retrying.route.retry_policy = route_v3.RetryPolicy(
        retry_on=SAFE_RETRIES,
        num_retries=3,
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


def _route(route: Route, idle: timedelta) -> route_v3.Route:
    return route_v3.Route(
        name=str(route.pool),
        match=route_v3.RouteMatch(prefix=route.prefix),
        route=route_v3.RouteAction(
            cluster=cluster_name(route.pool),
            prefix_rewrite=route.prefix_rewrite,
            timeout=timedelta(0),
            idle_timeout=idle,
        ),
        typed_per_filter_config={
            EXT_PROC_FILTER: Any.pack(
                ext_proc_v3.ExtProcPerRoute(
                    overrides=ext_proc_v3.ExtProcOverrides(
                        grpc_initial_metadata=[
                            core_v3.HeaderValue(key=POOL_KEY, value=str(route.pool))
                        ]
                    )
                )
            )
        },
    )


def _connection_manager(
    routes: route_v3.RouteConfiguration,
    ext_proc: ext_proc_v3.ExternalProcessor,
    *,
    idle: timedelta,
    access_log: bool,
) -> hcm_v3.HttpConnectionManager:
    return hcm_v3.HttpConnectionManager(
        codec_type=hcm_v3.HttpConnectionManagerCodecType.AUTO,
        stat_prefix="inference",
        route_config=routes,
        http_filters=[
            hcm_v3.HttpFilter(name=EXT_PROC_FILTER, typed_config=Any.pack(ext_proc)),
            hcm_v3.HttpFilter(
                name="envoy.filters.http.router", typed_config=Any.pack(router_v3.Router())
            ),
        ],
        # Escaped slashes stay as they are: model names in paths contain them.
        normalize_path=True,
        merge_slashes=True,
        use_remote_address=True,
        stream_idle_timeout=idle,
        request_headers_timeout=timedelta(seconds=10),
        common_http_protocol_options=core_v3.HttpProtocolOptions(
            idle_timeout=timedelta(hours=1),
        ),
        http2_protocol_options=core_v3.Http2ProtocolOptions(
            max_concurrent_streams=1000,
            initial_stream_window_size=1024 * 1024,
            initial_connection_window_size=16 * 1024 * 1024,
        ),
        access_log=[_access_log()] if access_log else [],
    )


def _access_log() -> accesslog_v3.AccessLog:
    fields: Mapping[str, object] = {
        "time": "%START_TIME%",
        "method": "%REQUEST_HEADER(:METHOD)%",
        "path": "%REQUEST_HEADER(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "error": "%RESPONSE_HEADER(X-INFERENCE-ERROR)%",
        "pool": "%ROUTE_NAME%",
        "picked": f"%DYNAMIC_METADATA({LB_NAMESPACE}:{DESTINATION})%",
        "served": f"%DYNAMIC_METADATA({LB_NAMESPACE}:{SERVED})%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "request_id": "%REQUEST_HEADER(X-REQUEST-ID)%",
    }
    return accesslog_v3.AccessLog(
        name="envoy.access_loggers.stdout",
        typed_config=Any.pack(
            stream_log.StdoutAccessLog(
                log_format=core_v3.SubstitutionFormatString(json_format=Struct.from_dict(fields))
            )
        ),
    )
