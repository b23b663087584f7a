"""Envoy's clusters for the sidecar: the Unix sockets of its relay workers and of its ADS. Pure."""

from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path

import envoy_data_plane.envoy.config.bootstrap.v3 as bootstrap_v3
import envoy_data_plane.envoy.config.cluster.v3 as cluster_v3
import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.endpoint.v3 as endpoint_v3
from envoy_data_plane.google.protobuf import Any

from epp_client.envoy.clusters import (
    explicit_http2,
    over_ads,
    raised_circuit_breakers,
    socket_address,
)

SIDECAR_CLUSTER = "epp-client"
ADS_CLUSTER = "epp-client-xds"
COLLECTOR_CLUSTER = "otel-collector"

# A silent relay may be restarting while its socket is held, for up to a minute (`hold`). A hanging relay is
# killed by its control process, which Envoy notices at once.
_RELAY_SILENCE = 50.0
_ADS_SILENCE = 5.0


def sidecar_cluster(sockets: Sequence[Path]) -> cluster_v3.Cluster:
    """The relay workers, one socket each."""
    return _socket_cluster(SIDECAR_CLUSTER, sockets, _RELAY_SILENCE)


def ads_cluster(socket: Path) -> cluster_v3.Cluster:
    """The sidecar's ADS server."""
    return _socket_cluster(ADS_CLUSTER, [socket], _ADS_SILENCE)


def collector_cluster(address: tuple[str, int]) -> cluster_v3.Cluster:
    """The collector of Envoy's spans, by host name and port. Envoy serves requests while its name is still
    looked up, or cannot be."""
    endpoint = endpoint_v3.Endpoint(address=socket_address(*address))
    return cluster_v3.Cluster(
        name=COLLECTOR_CLUSTER,
        type=cluster_v3.ClusterDiscoveryType.STRICT_DNS,
        connect_timeout=timedelta(seconds=1),
        wait_for_warm_on_init=False,
        typed_extension_protocol_options=_http2(core_v3.Http2ProtocolOptions()),
        load_assignment=endpoint_v3.ClusterLoadAssignment(
            cluster_name=COLLECTOR_CLUSTER,
            endpoints=[
                endpoint_v3.LocalityLbEndpoints(
                    lb_endpoints=[endpoint_v3.LbEndpoint(endpoint=endpoint)]
                )
            ],
        ),
    )


@cache
def serialized_collector(address: tuple[str, int]) -> bytes:
    """`collector_cluster`, serialized."""
    return bytes(collector_cluster(address))


def dynamic_resources(*, gateway: bool) -> bootstrap_v3.BootstrapDynamicResources:
    """Clusters and endpoints from the sidecar, over ADS; for a `gateway` its listeners too."""
    return bootstrap_v3.BootstrapDynamicResources(
        cds_config=over_ads(),
        lds_config=over_ads() if gateway else None,
        ads_config=core_v3.ApiConfigSource(
            api_type=core_v3.ApiConfigSourceApiType.GRPC,
            transport_api_version=core_v3.ApiVersion.V3,
            set_node_on_first_message_only=True,
            grpc_services=[
                core_v3.GrpcService(
                    envoy_grpc=core_v3.GrpcServiceEnvoyGrpc(
                        cluster_name=ADS_CLUSTER,
                        # Envoy's default back-off goes up to 30 s, but a restarted sidecar only waits half
                        # a second for Envoy before it serves.
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


def _http2(options: core_v3.Http2ProtocolOptions) -> dict[str, Any]:
    packed = Any.pack(explicit_http2(options))
    return {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": packed}


def _socket_cluster(name: str, sockets: Sequence[Path], silence: float) -> cluster_v3.Cluster:
    """A gRPC cluster of Unix sockets. Envoy closes a connection if a ping is not answered within `silence`
    seconds.
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
        typed_extension_protocol_options=_http2(http2),
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
