"""Makes Pods for a cluster with a kubelet, and waits for them."""

import asyncio
from collections.abc import Callable
from typing import Any

from testbed.cluster.api import Api, ApiError, Object

PATIENCE = 60.0
"""Seconds for anything, on a busy machine."""


def pod(name: str, namespace: str, *containers: Object, **spec: Any) -> Object:
    """A Pod whose ServiceAccount token is not mounted unless `spec` says so."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name}},
        "spec": {"automountServiceAccountToken": False, "containers": list(containers), **spec},
    }


def shell(name: str, script: str, **more: Any) -> Object:
    """A container that runs a shell script."""
    return {"name": name, "image": "busybox", "command": ["sh", "-c", script], **more}


def config_map(name: str, namespace: str, **data: str) -> Object:
    """A ConfigMap."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data}


def secret(name: str, namespace: str, **data: str) -> Object:
    """A Secret."""
    metadata = {"name": name, "namespace": namespace}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "stringData": data}


async def until(api: Api, item: Object, true: Callable[[Object], Any]) -> Object:
    """Wait until something is true of an object."""
    found: Object = {}
    try:
        async with asyncio.timeout(PATIENCE):
            while not true(found := await api.get(item)):
                await asyncio.sleep(0.05)
    except TimeoutError as error:
        raise AssertionError(f"not true of {found}") from error
    return found


async def until_gone(api: Api, item: Object) -> None:
    """Wait until an object is deleted."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await api.get(item)
            except ApiError as error:
                if error.status == 404:
                    return
                raise
            await asyncio.sleep(0.05)


def phase(item: Object) -> str:
    """The phase of a Pod."""
    return str(item["status"].get("phase"))


def ready(item: Object) -> bool:
    """Whether a Pod is ready."""
    conditions = item["status"].get("conditions") or ()
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def containers(item: Object) -> dict[str, Object]:
    """The statuses of a Pod's containers by name."""
    kinds = ("initContainerStatuses", "containerStatuses")
    return {c["name"]: c for kind in kinds for c in item["status"].get(kind) or ()}
