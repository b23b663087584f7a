"""Who an Envoy says it is: the node of our bootstrap, and which edition of it Envoy runs. Pure."""

from typing import Final

from epp_client.envoy.pb.discovery_pb2 import Node

CLUSTER: Final = "epp-client"
"""`node.cluster` of every bootstrap that `envoy-config` prints."""
EDITION_KEY: Final = "epp-client.dev/bootstrap"
"""In `node.metadata`."""
EDITION: Final = "2"
"""Before it there was none: such a bootstrap turned on a runtime flag with which Envoy crashes."""


def outdated(node: Node) -> str | None:
    """What is wrong with the bootstrap of an Envoy that `envoy-config` once printed; None if nothing is.
    A bootstrap that somebody else wrote (another `node.cluster`) is theirs to judge."""
    if node.cluster != CLUSTER or EDITION_KEY in node.metadata.fields:
        return None
    return (
        "an earlier version of envoy-config printed its bootstrap, with the runtime flag "
        "envoy.reloadable_features.ext_proc_graceful_grpc_close, which makes Envoy crash at the end of "
        "answers of 50 s and more: print the bootstrap anew and restart Envoy"
    )
