"""The listener for clients, with its HTTP connection manager and access log. Pure."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

import betterproto2
import envoy_data_plane.envoy.config.accesslog.v3 as accesslog_v3
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.config.overload.v3 as overload_v3
import envoy_data_plane.envoy.config.route.v3 as route_v3
import envoy_data_plane.envoy.config.trace.v3 as trace_v3
import envoy_data_plane.envoy.extensions.access_loggers.stream.v3 as stream_log
import envoy_data_plane.envoy.extensions.filters.http.router.v3 as router_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.resource_monitors.downstream_connections.v3 as connections_v3
import envoy_data_plane.envoy.extensions.tracers.opentelemetry.samplers.v3 as samplers_v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3
import envoy_data_plane.envoy.type.v3 as type_v3
from envoy_data_plane.google.protobuf import Any, Struct

from epp_client.envoy.clusters import MAX_HEADERS, MAX_HEADERS_KB
from epp_client.envoy.edge import Edge, SidecarShape, Tracing
from epp_client.envoy.ext_proc_filter import ext_proc_filter
from epp_client.envoy.listener import http_listener
from epp_client.envoy.local_replies import local_replies
from epp_client.envoy.own_clusters import COLLECTOR_CLUSTER
from epp_client.ext_proc.replies import MARKS_NAMESPACE, PICKER_SAID_MARK
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED


class Named(NamedTuple):
    """Names that differ by what the routes are."""

    stat_prefix: str = "inference"
    subject: str = "InferencePool %ROUTE_NAME%"
    """How a local reply begins."""
    log_key: str = "pool"
    """Key of the route's name in the access log."""


NAMED = Named()


def inference_listener(
    address: tuple[str, int],
    edge: Edge,
    routes: route_v3.RouteConfiguration,
    *,
    access_log: bool,
    sidecar: SidecarShape,
) -> listener_v3.Listener:
    """The listener at `address` (host, port)."""
    listener = http_listener(
        "inference",
        address,
        connection_manager(edge, routes, access_log=access_log, sidecar=sidecar),
    )
    if edge.tls is not None:
        [chain] = listener.filter_chains
        chain.transport_socket = _tls(*edge.tls)
    return listener


def _tls(certificate: Path, key: Path) -> core_v3.TransportSocket:
    context = tls_v3.DownstreamTlsContext(
        common_tls_context=tls_v3.CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_certificates=[
                tls_v3.TlsCertificate(
                    certificate_chain=core_v3.DataSource(filename=str(certificate)),
                    private_key=core_v3.DataSource(filename=str(key)),
                )
            ],
        )
    )
    return core_v3.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=Any.pack(context)
    )


def connection_limit(edge: Edge) -> overload_v3.OverloadManager | None:
    """The limit on client connections, which the status listener is exempt from."""
    if not edge.max_connections:
        return None
    monitor = connections_v3.DownstreamConnectionsConfig(
        max_active_downstream_connections=edge.max_connections
    )
    return overload_v3.OverloadManager(
        resource_monitors=[
            overload_v3.ResourceMonitor(
                name="envoy.resource_monitors.global_downstream_max_connections",
                typed_config=Any.pack(monitor),
            )
        ]
    )


def connection_manager(
    edge: Edge,
    routes: route_v3.RouteConfiguration | hcm_v3.Rds,
    *,
    access_log: bool,
    sidecar: SidecarShape,
    named: Named = NAMED,
) -> hcm_v3.HttpConnectionManager:
    """What serves the connections of clients."""
    return hcm_v3.HttpConnectionManager(
        codec_type=hcm_v3.HttpConnectionManagerCodecType.AUTO,
        stat_prefix=named.stat_prefix,
        route_config=routes if isinstance(routes, route_v3.RouteConfiguration) else None,
        rds=routes if isinstance(routes, hcm_v3.Rds) else None,
        http_filters=[
            ext_proc_filter(sidecar),
            hcm_v3.HttpFilter(
                name="envoy.filters.http.router", typed_config=Any.pack(router_v3.Router())
            ),
        ],
        # Escaped slashes are not changed: model names in paths contain them.
        normalize_path=True,
        merge_slashes=True,
        use_remote_address=True,
        upgrade_configs=[
            hcm_v3.HttpConnectionManagerUpgradeConfig(upgrade_type=name) for name in edge.upgrades
        ],
        stream_idle_timeout=timedelta(seconds=edge.idle_timeout),
        request_headers_timeout=timedelta(seconds=10),
        max_request_headers_kb=MAX_HEADERS_KB,
        common_http_protocol_options=core_v3.HttpProtocolOptions(
            idle_timeout=timedelta(hours=1), max_headers_count=MAX_HEADERS
        ),
        http2_protocol_options=core_v3.Http2ProtocolOptions(
            max_concurrent_streams=1000,
            allow_connect=bool(edge.upgrades),
            initial_stream_window_size=1024 * 1024,
            initial_connection_window_size=16 * 1024 * 1024,
        ),
        local_reply_config=local_replies(named.subject),
        access_log=[_access_log(named.log_key)] if access_log else [],
        tracing=_tracing(edge.tracing) if edge.tracing is not None else None,
    )


def _tracing(tracing: Tracing) -> hcm_v3.HttpConnectionManagerTracing:
    """W3C Trace Context to pickers and model servers, and Envoy's spans to the collector.

    `random_sampling` of the connection manager would discard the decisions of clients too.
    """
    ratio = samplers_v3.TraceIdRatioBasedSamplerConfig(
        sampling_percentage=type_v3.FractionalPercent(
            numerator=round(tracing.share * 10_000),
            denominator=type_v3.FractionalPercentDenominatorType.MILLION,
        )
    )
    sampler = samplers_v3.ParentBasedSamplerConfig(
        wrapped_sampler=_sampler("trace_id_ratio_based", ratio)
    )
    provider = trace_v3.OpenTelemetryConfig(
        grpc_service=core_v3.GrpcService(
            envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(cluster_name=COLLECTOR_CLUSTER),
            timeout=timedelta(seconds=1),
        ),
        service_name="envoy",
        sampler=_sampler("parent_based", sampler),
    )
    return hcm_v3.HttpConnectionManagerTracing(
        provider=trace_v3.TracingHttp(
            name="envoy.tracers.opentelemetry", typed_config=Any.pack(provider)
        ),
    )


def _sampler(name: str, config: betterproto2.Message) -> core_v3.TypedExtensionConfig:
    return core_v3.TypedExtensionConfig(
        name=f"envoy.tracers.opentelemetry.samplers.{name}", typed_config=Any.pack(config)
    )


def _access_log(log_key: str) -> accesslog_v3.AccessLog:
    # REQ and RESP instead of their longer names, which Envoy 1.36 does not know.
    fields: Mapping[str, object] = {
        "time": "%START_TIME%",
        "method": "%REQ(:METHOD)%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
        "protocol": "%PROTOCOL%",
        "status": "%RESPONSE_CODE%",
        "flags": "%RESPONSE_FLAGS%",
        "details": "%RESPONSE_CODE_DETAILS%",
        "error": "%RESP(X-INFERENCE-ERROR)%",
        "fallback": "%RESP(X-INFERENCE-FALLBACK)%",
        log_key: "%ROUTE_NAME%",
        "picker_said": f"%DYNAMIC_METADATA({MARKS_NAMESPACE}:{PICKER_SAID_MARK})%",
        "picked": f"%DYNAMIC_METADATA({LB_NAMESPACE}:{DESTINATION})%",
        "served": f"%DYNAMIC_METADATA({LB_NAMESPACE}:{SERVED})%",
        "upstream": "%UPSTREAM_HOST%",
        "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "bytes_received": "%BYTES_RECEIVED%",
        "bytes_sent": "%BYTES_SENT%",
        "duration_ms": "%DURATION%",
        "request_id": "%REQ(X-REQUEST-ID)%",
    }
    return accesslog_v3.AccessLog(
        name="envoy.access_loggers.stdout",
        typed_config=Any.pack(
            stream_log.StdoutAccessLog(
                log_format=core_v3.SubstitutionFormatString(json_format=Struct.from_dict(fields))
            )
        ),
    )
