"""Pools and Pods by the thousand, as objects of a real API server, and how samples become figures."""

import asyncio
import statistics
from collections.abc import Mapping
from typing import Any

from testbed.cluster import objects
from testbed.cluster.api import Api, Object

PORT = 8000
"""Of pools whose Pods are never asked."""
WRITERS = 32


def address(number: int) -> str:
    """The address of a Pod: on loopback, so that whoever listens on every address listens there."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod(number: int, namespace: str, app: str, **labels: str) -> Object:
    """A Pod that is ready."""
    name = f"{app}-{number}"
    return objects.pod(
        name, address(number), namespace=namespace, labels={"app": app, "name": name, **labels}
    )


def pool(
    namespace: str,
    name: str,
    app: str = "",
    *,
    port: int = PORT,
    picker: str | None = None,
    annotations: Mapping[str, str] | None = None,
) -> Object:
    """An InferencePool over the Pods of an app, by default the one of its name."""
    return objects.inference_pool(
        name,
        [port],
        namespace=namespace,
        picker=picker,
        annotations=annotations,
        selector={"matchLabels": {"app": app or name}},
    )


async def create_all(api: Api, items: list[Object]) -> None:
    """Create them, some at a time."""
    rest = iter(items)

    async def writer() -> None:
        for item in rest:
            await api.create(item)

    await asyncio.gather(*(writer() for _ in range(WRITERS)))


def summary(values: list[float]) -> dict[str, Any]:
    """Quantiles of milliseconds."""
    cuts = statistics.quantiles(values, n=100, method="inclusive")
    return {
        "p50_ms": round(cuts[49], 1),
        "p90_ms": round(cuts[89], 1),
        "p99_ms": round(cuts[98], 1),
        "max_ms": round(max(values), 1),
        "count": len(values),
    }
