"""Envoy's Listener of a Gateway's port, for LDS. Pure.

It names its routes and its certificates, which come over RDS and SDS: neither a changed route nor a renewed
certificate changes a listener, so none is drained for them.
"""

from datetime import timedelta

import envoy_data_plane.envoy.config.core.v3 as core_v3
import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.extensions.filters.listener.tls_inspector.v3 as tls_inspector
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
import envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 as tls_v3
from envoy_data_plane.google.protobuf import Any

from epp_client.envoy.clusters import over_ads, socket_address
from epp_client.envoy.edge import GatewayEdge
from epp_client.envoy.inference_listener import Named, connection_manager
from epp_client.envoy.secrets import secret_name
from epp_client.gateway.table import Chain, Listener, SecretName

_NAMED = Named(stat_prefix="gateway", subject="%ROUTE_NAME%", log_key="route")


def gateway_listener(listener: Listener, edge: GatewayEdge) -> listener_v3.Listener:
    """The listener of a port."""
    encrypted = any(chain.certificates for chain in listener.chains)
    return listener_v3.Listener(
        name=f"gateway/{listener.port}",
        address=socket_address(edge.address, listener.port),
        listener_filters=[_tls_inspector()] if encrypted else [],
        filter_chains=[_chain(chain, edge) for chain in listener.chains],
    )


def serialized_listener(listener: Listener, edge: GatewayEdge) -> tuple[str, bytes]:
    """Its name, and the Listener serialized."""
    made = gateway_listener(listener, edge)
    return made.name, bytes(made)


def _chain(chain: Chain, edge: GatewayEdge) -> listener_v3.FilterChain:
    rds = hcm_v3.Rds(config_source=_awaited(), route_config_name=chain.routes)
    manager = connection_manager(
        edge.edge, rds, access_log=edge.access_log, sidecar=edge.sidecar, named=_NAMED
    )
    made = listener_v3.FilterChain(
        name=chain.hostname,
        filters=[
            listener_v3.Filter(
                name="envoy.filters.network.http_connection_manager",
                typed_config=Any.pack(manager),
            )
        ],
    )
    if chain.certificates:
        made.transport_socket = _tls(chain.certificates)
        if chain.hostname != "*":
            made.filter_chain_match = listener_v3.FilterChainMatch(server_names=[chain.hostname])
    return made


def _awaited() -> core_v3.ConfigSource:
    """Over ADS. A listener does not serve before it has its routes and certificates, however long that
    takes: it would answer 404."""
    source = over_ads()
    source.initial_fetch_timeout = timedelta(0)
    return source


def _tls(certificates: tuple[SecretName, ...]) -> core_v3.TransportSocket:
    context = tls_v3.DownstreamTlsContext(
        common_tls_context=tls_v3.CommonTlsContext(
            alpn_protocols=["h2", "http/1.1"],
            tls_certificate_sds_secret_configs=[
                tls_v3.SdsSecretConfig(name=secret_name(secret), sds_config=_awaited())
                for secret in certificates
            ],
        )
    )
    return core_v3.TransportSocket(
        name="envoy.transport_sockets.tls", typed_config=Any.pack(context)
    )


def _tls_inspector() -> listener_v3.ListenerFilter:
    return listener_v3.ListenerFilter(
        name="envoy.filters.listener.tls_inspector",
        typed_config=Any.pack(tls_inspector.TlsInspector()),
    )
