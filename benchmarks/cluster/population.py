"""Makes pools and thousands of Pods for a real API server, and summarises samples."""

import asyncio
import statistics
from collections.abc import Mapping
from typing import Any

from testbed.cluster import objects
from testbed.cluster.api import Api, Object

PORT = 8000
"""Target port of pools whose Pods get no requests."""
WRITERS = 32


def address(number: int) -> str:
    """The address of a Pod, on loopback, where servers that listen on every address are reachable."""
    return f"127.{1 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"


def pod(number: int, namespace: str, app: str, **labels: str) -> Object:
    """A ready Pod."""
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
    """An InferencePool over the Pods of an app, by default that of its name."""
    return objects.inference_pool(
        name,
        [port],
        namespace=namespace,
        picker=picker,
        annotations=annotations,
        selector={"matchLabels": {"app": app or name}},
    )


async def create_all(api: Api, items: list[Object]) -> None:
    """Create objects concurrently."""
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
