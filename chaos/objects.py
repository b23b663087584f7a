"""The Kubernetes objects of the installation under test: pools, Pods, and the Services of pickers. Pure."""

from collections.abc import Mapping
from typing import Any

from testbed.stack import DEAD_HOST, HOSTS, inference_pool, pod, service

DEAD_POD = pod("model-dead", DEAD_HOST)
"""A Pod where nothing listens. It is no object of the installation at first."""
_ANNOTATIONS = {mode: {"epp-client.dev/response-mode": mode} for mode in ("observe", "skip")}


def pools(port: int) -> list[dict[str, Any]]:
    """The InferencePools, over all model servers at `port`."""
    return [
        inference_pool("open", port, "picker-open", "FailOpen"),
        inference_pool("close", port, "picker-close", "FailClose"),
        inference_pool("h2c", port, "picker-open", "FailOpen", appProtocol="kubernetes.io/h2c"),
        *(
            inference_pool(
                mode, port, f"picker-{picker}", "FailOpen", annotations=_ANNOTATIONS[mode]
            )
            for mode, picker in (("observe", "close"), ("skip", "open"))
        ),
    ]


def peers(pickers: Mapping[str, str]) -> list[dict[str, Any]]:
    """The Pods of the model servers, and the Services of `pickers`, by name and host:port."""
    return [
        *(pod(f"model-{number}", host) for number, host in enumerate(HOSTS)),
        *(one for name, address in pickers.items() for one in service(f"picker-{name}", address)),
    ]
