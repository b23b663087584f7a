"""Envoy's Cluster of an InferencePool, which connects to the endpoint in the request's metadata.

Pure. Endpoints are not part of it; they are sent over EDS.
"""

from datetime import timedelta

import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.extensions.load_balancing_policies.override_host.v3 as override_host
import envoy_data_plane.envoy.extensions.load_balancing_policies.round_robin.v3 as round_robin
import envoy_data_plane.envoy.extensions.load_balancing_policies.subset.v3 as subset
import envoy_data_plane.envoy.extensions.upstreams.http.v3 as upstreams_http
import envoy_data_plane.envoy.type.metadata.v3 as metadata_v3
from betterproto2 import Message
from envoy_data_plane.google.protobuf import Any

from epp_client.envoy.pool_clusters import cluster_name
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.settings import UpstreamMode

UPSTREAM_CONNECT_TIMEOUT = 2.0
"""Seconds to connect to a model server. Short, so that Envoy soon tries the next endpoint of the list."""

UNBOUNDED = 1_000_000
"""A circuit breaker threshold that is never reached: sidecar and picker limit the load."""

MAX_HEADERS = 200
"""Headers of a request or response. Envoy's default of 100 includes what Envoy and the sidecar add when
ext_proc changes headers: requests with 96 to 100 headers got an empty 503."""
MAX_HEADERS_KB = 96
"""KiB of all headers of a request or response. Envoy's default is 60."""


def socket_address(host: str, port: int) -> core_v3.Address:
    """A TCP address."""
    return core_v3.Address(socket_address=core_v3.SocketAddress(address=host, port_value=port))


def pool_cluster(
    pool: PoolName,
    app_protocol: AppProtocol,
    mode: UpstreamMode,
    connect_timeout: float = UPSTREAM_CONNECT_TIMEOUT,
) -> cluster_v3.Cluster:
    """The pool's cluster. `connect_timeout` in seconds."""
    cluster = _upstream(cluster_name(pool), app_protocol, connect_timeout)
    match mode:
        case UpstreamMode.OVERRIDE_HOST:
            cluster.type = cluster_v3.ClusterDiscoveryType.EDS
            cluster.eds_cluster_config = cluster_v3.ClusterEdsClusterConfig(eds_config=over_ads())
            cluster.load_balancing_policy = _policy(
                "envoy.load_balancing_policies.override_host", _override_host()
            )
            # A Pod that left the pool must not keep serving because it is still healthy.
            cluster.ignore_health_on_host_removal = True
        case UpstreamMode.ORIGINAL_DST:
            cluster.type = cluster_v3.ClusterDiscoveryType.ORIGINAL_DST
            cluster.lb_policy = cluster_v3.ClusterLbPolicy.CLUSTER_PROVIDED
            cluster.original_dst_lb_config = cluster_v3.ClusterOriginalDstLbConfig(
                metadata_key=_metadata_key(DESTINATION)
            )
    return cluster


def service_cluster(name: str, app_protocol: AppProtocol) -> cluster_v3.Cluster:
    """The cluster of a Service, whose endpoints Envoy balances over."""
    cluster = _upstream(name, app_protocol, UPSTREAM_CONNECT_TIMEOUT)
    cluster.type = cluster_v3.ClusterDiscoveryType.EDS
    cluster.eds_cluster_config = cluster_v3.ClusterEdsClusterConfig(eds_config=over_ads())
    cluster.lb_policy = cluster_v3.ClusterLbPolicy.LEAST_REQUEST
    return cluster


def _upstream(name: str, app_protocol: AppProtocol, connect_timeout: float) -> cluster_v3.Cluster:
    return cluster_v3.Cluster(
        name=name,
        connect_timeout=timedelta(seconds=connect_timeout),
        circuit_breakers=raised_circuit_breakers(),
        typed_extension_protocol_options={
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": Any.pack(
                _http_options(app_protocol)
            )
        },
        upstream_connection_options=cluster_v3.UpstreamConnectionOptions(
            tcp_keepalive=core_v3.TcpKeepalive(
                keepalive_probes=3, keepalive_time=30, keepalive_interval=10
            )
        ),
    )


def over_ads() -> core_v3.ConfigSource:
    """The config source for the ADS stream, in the v3 API."""
    return core_v3.ConfigSource(
        ads=core_v3.AggregatedConfigSource(), resource_api_version=core_v3.ApiVersion.V3
    )


def raised_circuit_breakers() -> cluster_v3.CircuitBreakers:
    """Thresholds that are never reached. Envoy's defaults (1024 requests, 3 retries) are too low for LLM
    responses, which hold their streams for long."""
    return cluster_v3.CircuitBreakers(
        thresholds=[
            cluster_v3.CircuitBreakersThresholds(
                max_connections=UNBOUNDED,
                max_pending_requests=UNBOUNDED,
                max_requests=UNBOUNDED,
                max_retries=UNBOUNDED,
            )
        ]
    )


def explicit_http2(options: core_v3.Http2ProtocolOptions) -> upstreams_http.HttpProtocolOptions:
    """Upstream HTTP/2 without negotiation (h2c)."""
    return upstreams_http.HttpProtocolOptions(
        explicit_http_config=upstreams_http.HttpProtocolOptionsExplicitHttpConfig(
            http2_protocol_options=options
        )
    )


def _http_options(app_protocol: AppProtocol) -> upstreams_http.HttpProtocolOptions:
    match app_protocol:
        case AppProtocol.H2C:
            keepalive = core_v3.KeepaliveSettings(
                interval=timedelta(seconds=30), timeout=timedelta(seconds=10)
            )
            options = explicit_http2(core_v3.Http2ProtocolOptions(connection_keepalive=keepalive))
        case AppProtocol.HTTP:
            options = upstreams_http.HttpProtocolOptions(
                explicit_http_config=upstreams_http.HttpProtocolOptionsExplicitHttpConfig(
                    http_protocol_options=core_v3.Http1ProtocolOptions()
                )
            )
    options.common_http_protocol_options = core_v3.HttpProtocolOptions(
        max_headers_count=MAX_HEADERS, max_response_headers_kb=MAX_HEADERS_KB
    )
    return options


def _override_host() -> override_host.OverrideHost:
    # No header source: clients can send headers, but not metadata.
    strict = subset.Subset(
        fallback_policy=subset.SubsetLbSubsetFallbackPolicy.NO_FALLBACK,
        subset_lb_policy=_policy(
            "envoy.load_balancing_policies.round_robin", round_robin.RoundRobin()
        ),
    )
    return override_host.OverrideHost(
        override_host_sources=[
            override_host.OverrideHostOverrideHostSource(metadata=_metadata_key(DESTINATION))
        ],
        selected_host_key=_metadata_key(SERVED),
        fallback_policy=_policy("envoy.load_balancing_policies.subset", strict),
    )


def _policy(name: str, config: Message) -> cluster_v3.LoadBalancingPolicy:
    return cluster_v3.LoadBalancingPolicy(
        policies=[
            cluster_v3.LoadBalancingPolicyPolicy(
                typed_extension_config=core_v3.TypedExtensionConfig(
                    name=name, typed_config=Any.pack(config)
                )
            )
        ]
    )


def _metadata_key(key: str) -> metadata_v3.MetadataKey:
    return metadata_v3.MetadataKey(
        key=LB_NAMESPACE, path=[metadata_v3.MetadataKeyPathSegment(key=key)]
    )
