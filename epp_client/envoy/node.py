"""The node in our bootstrap, and the detection of Envoys with an outdated bootstrap. Pure."""

from typing import Final

from epp_client.envoy.pb.discovery_pb2 import Node

CLUSTER: Final = "epp-client"
"""`node.cluster` of every bootstrap that `envoy-config` prints."""
EDITION_KEY: Final = "epp-client.dev/bootstrap"
"""Key of the edition in `node.metadata`."""
EDITION: Final = "2"
"""Edition of the bootstrap. Bootstraps without one set a runtime flag with which Envoy crashes."""


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
