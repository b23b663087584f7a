"""An HTTP listener, the common part of our listeners. Pure."""

import envoy_data_plane.envoy.config.listener.v3 as listener_v3
import envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 as hcm_v3
from envoy_data_plane.google.protobuf import Any

from epp_client.envoy.clusters import socket_address


def http_listener(
    name: str, address: tuple[str, int], manager: hcm_v3.HttpConnectionManager
) -> listener_v3.Listener:
    """A listener at `address` (host, port) whose only filter is `manager`."""
    return listener_v3.Listener(
        name=name,
        address=socket_address(*address),
        filter_chains=[
            listener_v3.FilterChain(
                filters=[
                    listener_v3.Filter(
                        name="envoy.filters.network.http_connection_manager",
                        typed_config=Any.pack(manager),
                    )
                ]
            )
        ],
    )
