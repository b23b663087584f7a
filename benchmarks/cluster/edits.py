"""The edits that are timed, there and back: what is written, and which endpoint shows it."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.cluster.population import address, pod
from testbed.cluster import objects
from testbed.cluster.api import Object

BRIEF, LONG = (0.05, 0.15), (0.3, 0.6)
"""Seconds between what an edit has led to and the next one: in step with nothing, and such that the pool's
rest after a push (`xds/cooldowns.py`) is over, which is longer when many endpoints were new to Envoy."""
NARROWER = {"tier": "new"}
"""Labels of all Pods but a few; they make the selector narrower."""

Write = tuple[Object, Object] | tuple[Object, Object, str]
"""What `Api.patch` takes: the object, the patch, a subresource."""


class Edit(NamedTuple):
    """One write to a pool or to one of its Pods."""

    what: str
    write: Write
    endpoint: str
    member: bool
    """Whether the endpoint is one of the pool afterwards."""
    pause: tuple[float, float]
    """What follows it."""


def membership(pool: Object, number: int, ports: tuple[int, int]) -> Iterator[tuple[Edit, Edit]]:
    """Edits that move the endpoint of a Pod out of the pool and back, or to the other port and back."""
    ip = address(number)
    item = pod(number, pool["metadata"]["namespace"], "model")
    here, other = (f"{ip}:{port}" for port in ports)
    unready, ready = ({"status": objects.status(ip, ready=ready)} for ready in (False, True))
    yield (
        Edit("a Pod ceases to be ready", (item, unready, "status"), here, False, BRIEF),
        Edit("a Pod becomes ready", (item, ready, "status"), here, True, BRIEF),
    )
    narrower, wider = (
        {"spec": {"selector": {"matchLabels": labels}}}
        for labels in (NARROWER, dict.fromkeys(NARROWER))
    )
    yield (
        Edit("selector", (pool, narrower), here, False, LONG),
        Edit("selector", (pool, wider), here, True, LONG),
    )
    first, second = ({"spec": {"targetPorts": [{"number": port}]}} for port in ports)
    yield (
        Edit("targetPorts", (pool, second), other, True, LONG),
        Edit("targetPorts", (pool, first), here, True, LONG),
    )
