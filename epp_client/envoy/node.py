"""The node in our bootstrap, and what a connected Envoy tells by its own: bootstrap and version. Pure."""

from typing import Final

from epp_client.envoy.pb.discovery_pb2 import Node

CLUSTER: Final = "epp-client"
"""`node.cluster` of every bootstrap that `envoy-config` prints."""
EDITION_KEY: Final = "epp-client.dev/bootstrap"
"""Key of the edition in `node.metadata`."""
EDITION: Final = "2"
"""Edition of the bootstrap. Bootstraps without one set a runtime flag with which Envoy crashes."""

GATEWAY_KEY: Final = "epp-client.dev/gateway"
"""Key in `node.metadata` of an Envoy that takes its listeners from us."""


def takes_listeners(node: Node) -> bool:
    """Whether its bootstrap is that of `envoy-config --gateway`. Its subscriptions tell too late: an Envoy
    asks for clusters before listeners."""
    return GATEWAY_KEY in node.metadata.fields


def outdated(node: Node) -> str | None:
    """What is wrong with an outdated bootstrap of `envoy-config`; None if it is current, or written by
    others (another `node.cluster`)."""
    if node.cluster != CLUSTER or EDITION_KEY in node.metadata.fields:
        return None
    return (
        "its bootstrap is from an older envoy-config and sets the runtime flag "
        "envoy.reloadable_features.ext_proc_graceful_grpc_close, which makes Envoy crash at the end of "
        "responses of 50 s and more: print a new bootstrap and restart Envoy"
    )


TRIED: Final = (36, 37, 38, 39, 40)
"""Minor versions of Envoy 1 that docs/compatibility.md has."""


def untried(node: Node) -> str | None:
    """What to know about an Envoy whose version docs/compatibility.md does not have; None if it has it, or
    if the node does not tell. Other programs that speak xDS do not set `user_agent_name` to `envoy`."""
    version = node.user_agent_build_version.version
    if node.user_agent_name != "envoy" or not version.major_number:
        return None
    if version.major_number == 1 and version.minor_number in TRIED:
        return None
    name = f"{version.major_number}.{version.minor_number}.{version.patch}"
    return (
        f"Envoy {name} has not been tried with this version of epp-client; "
        f"1.{TRIED[0]} to 1.{TRIED[-1]} have been, see docs/compatibility.md"
    )
