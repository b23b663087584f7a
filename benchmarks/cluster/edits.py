"""The measured edits, forth and back: the write, and the endpoint that shows its effect."""

from collections.abc import Iterator
from typing import NamedTuple

from benchmarks.cluster.population import address, pod
from testbed.cluster import objects
from testbed.cluster.api import Object

BRIEF, LONG = (0.05, 0.15), (0.3, 0.6)
"""Random seconds from the effect of an edit to the next edit, longer than the pool's cool-down after a push
(`xds/cooldowns.py`), which depends on the number of new endpoints."""
NARROWER = {"tier": "new"}
"""Labels of all Pods but a few, for the narrower selector."""

Write = tuple[Object, Object] | tuple[Object, Object, str]
"""Arguments of `Api.patch`: the object, the patch, a subresource."""


class Edit(NamedTuple):
    """One write to a pool or to one of its Pods."""

    what: str
    write: Write
    endpoint: str
    member: bool
    """Whether the endpoint belongs to the pool afterwards."""
    pause: tuple[float, float]
    """Shortest and longest pause after it."""


def membership(pool: Object, number: int, ports: tuple[int, int]) -> Iterator[tuple[Edit, Edit]]:
    """Edits that remove the endpoint of a Pod from the pool and add it again, or change its port and
    back."""
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
