"""Requests, faults and open watches of the API double, as values and queues. No HTTP."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from epp_client.kubernetes.client.resources import Resource
from testbed.kubernetes.objects import Change, selected
from testbed.kubernetes.patches import Object


class Asked(NamedTuple):
    """One request in the terms of RBAC; the verb of a watch is `watch`."""

    verb: str
    resource: Resource
    namespace: str
    name: str
    subresource: str
    query: dict[str, str]
    authorization: str


@dataclass
class Fault:
    """A fault instead of an answer to the next `times` requests that match."""

    matches: Callable[[Asked], bool]
    times: float
    code: int = 0
    """A Status of this code; 0 drops the connection."""
    headers: dict[str, str] = field(default_factory=dict)
    hang: bool = False
    """Never answer."""


class Watch:
    """One open watch."""

    def __init__(self, asked: Asked, after: int) -> None:
        self.asked = asked
        self.version = after
        self.queue: deque[Change] = deque()
        self.awake = asyncio.Event()
        self.bookmarks = 0
        """Bookmarks to send before anything else."""
        self.gone = False
        """Whether to send the error that its version is too old."""
        self.mute = False
        """Whether it stays open without sending anything."""
        self.cut = False

    def offer(self, change: Change) -> None:
        asked = self.asked
        if change.resource == asked.resource and asked.namespace in ("", change.key[0]):
            self.queue.append(change)
            self.awake.set()

    def event(self, change: Change) -> Object | None:
        """The event of the watch for a change. Moving out of the selection is a deletion."""

        def chosen(found: Object | None) -> bool:
            query = self.asked.query
            labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
            return found is not None and selected(found, labels, fields)

        before, after = chosen(change.before), chosen(change.after)
        if after:
            return {"type": "MODIFIED" if before else "ADDED", "object": change.after}
        if not before:
            return None
        assert change.before is not None
        metadata = {**change.before["metadata"], "resourceVersion": str(change.version)}
        return {"type": "DELETED", "object": {**change.before, "metadata": metadata}}
