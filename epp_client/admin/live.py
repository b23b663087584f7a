"""What one open page, or one `epp-client top`, is sent: at first everything that it shows, then what has
changed. Plain values; no HTTP."""

import json
from collections.abc import Iterator, Sequence
from heapq import nsmallest
from typing import Any, NamedTuple

from epp_client.admin import summary
from epp_client.admin.described import chosen
from epp_client.metrics.counters import PoolCounters
from epp_client.metrics.decisions import Traffic
from epp_client.observe.events import Event
from epp_client.observe.history import ALL
from epp_client.observe.judge import as_json
from epp_client.observe.observer import Observer
from epp_client.observe.records import Record, record_json
from epp_client.observe.traffic import PoolTraffic
from epp_client.picker.health import AddressNote, Health
from epp_client.pool.endpoints import Endpoint
from epp_client.pool.snapshot import PoolSnapshot

MAX_OPEN = 5
"""Pools whose details one page may follow."""
MAX_ENDPOINTS = 200
"""Endpoints of a pool that one page is sent."""

Message = tuple[str, Any]
"""Name and data of one event of the stream."""


class Wanted(NamedTuple):
    """What a page shows."""

    query: str = ""
    """Part of the names of the pools."""
    limit: int = 100
    """Pools."""
    open: tuple[str, ...] = ()
    """Pools whose endpoints, pickers and history it shows."""
    endpoints: str = ""
    """Part of the endpoints' or Pods' names, in those pools."""


class LiveView:
    """Remembers what one page was sent."""

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._rows: dict[str, str] = {}
        self._order: list[str] | None = None
        self._details: dict[str, str] = {}
        self._record = self._event = 0
        self._point: float | None = None

    def messages(self, observer: Observer, head: dict[str, Any]) -> Iterator[Message]:
        """What the page does not know yet. `head` has what belongs to no pool."""
        look = observer.look
        if look is None:
            return
        page = summary.pools_page(
            look.snapshots.values(),
            look.problems,
            look.counters,
            observer.minute,
            observer.judgement,
            query=self._wanted.query,
            limit=self._wanted.limit,
        )
        rows = page.pop("rows")
        judged = as_json(observer.judgement)
        more = {
            "at": look.at,
            "missed": observer.records.missed,
            "judgement": judged,
            "pools": page,
        }
        yield "head", {**head, **more}
        yield from self._pools(rows)
        for name in self._wanted.open[:MAX_OPEN]:
            yield from self._detail(name, observer)
        yield from self._history(observer)
        yield from self._news(
            observer.events.since(self._event), observer.records.since(self._record)
        )

    def _pools(self, rows: list[dict[str, Any]]) -> Iterator[Message]:
        texts = {f"{row['namespace']}/{row['name']}": json.dumps(row) for row in rows}
        changed = [
            row
            for (name, text), row in zip(texts.items(), rows, strict=True)
            if self._rows.get(name) != text
        ]
        order = list(texts)
        if changed or order != self._order:
            data: dict[str, Any] = {"rows": changed}
            if order != self._order:
                data["order"] = order
            yield "pools", data
        self._rows, self._order = texts, order

    def _detail(self, name: str, observer: Observer) -> Iterator[Message]:
        assert observer.look is not None
        snapshot = observer.look.snapshots.get(name)
        if snapshot is None:
            data: dict[str, Any] = {"pool": name, "gone": True}
        else:
            data = {
                "pool": name,
                "about": chosen(snapshot, observer.look.problems),
                "advice": summary.advised(
                    snapshot, observer.look.counters.pools.get(name, PoolCounters())
                ),
                "pickers": pickers(
                    snapshot,
                    observer.look.counters.pickers.get(name, {}),
                    observer.notes.get(name, {}),
                ),
                **endpoints(snapshot, observer.endpoints.of(name), self._wanted.endpoints),
            }
        text = json.dumps(data)
        if self._details.get(name) != text:
            self._details[name] = text
            yield "detail", data

    def _history(self, observer: Observer) -> Iterator[Message]:
        """At first all points, then each new one."""
        times = observer.history.times
        if not times or times[-1] == self._point:
            return
        fresh = len(times)
        if self._point is not None:
            fresh = sum(at > self._point for at in times)
        keys = (ALL, *self._wanted.open[:MAX_OPEN])
        yield (
            "history",
            {
                "whole": self._point is None,
                "series": {key: observer.history.as_json(key, last=fresh) for key in keys},
            },
        )
        self._point = times[-1]

    def _news(self, events: Sequence[Event], records: Sequence[Record]) -> Iterator[Message]:
        if events:
            self._event = events[-1].number
            yield "events", [event._asdict() for event in events]
        if records:
            self._record = records[-1].number
            yield "decisions", [record_json(record) for record in records]


def pickers(
    snapshot: PoolSnapshot, health: dict[str, Health], notes: dict[str, AddressNote]
) -> list[dict[str, Any]]:
    """Each address of the pool's picker."""
    addresses = snapshot.picker.addresses if snapshot.picker is not None else ()
    found = []
    for address in addresses:
        note = notes.get(address, AddressNote())
        found.append(
            {
                "address": address,
                "state": str(health.get(address, Health.UNTRIED)),
                "error": note.error,
                "errorAt": note.error_at or None,
                "checkSeconds": note.check_seconds,
            }
        )
    return found


def endpoints(
    snapshot: PoolSnapshot, traffic: PoolTraffic, query: str = "", limit: int = MAX_ENDPOINTS
) -> dict[str, Any]:
    """The endpoints whose address or Pod contains `query`: first those that fail, then those that drain,
    then the busiest."""
    members = snapshot.table.by_key.values()
    found = [e for e in members if not query or query in e.key or query in e.pod]
    nothing = Traffic()
    minute = traffic.minute

    def rank(endpoint: Endpoint) -> tuple[int, bool, int, str]:
        now = minute.get(endpoint.key, nothing)
        return (-(now.failed + now.unreachable), endpoint.ready, -now.picked, endpoint.key)

    picks = sum(one.picked for one in minute.values())
    return {
        "endpointCount": len(members),
        "endpointsMatching": len(found),
        "endpoints": [
            _endpoint(endpoint, traffic, picks) for endpoint in nsmallest(limit, found, key=rank)
        ],
    }


def _endpoint(endpoint: Endpoint, traffic: PoolTraffic, picks: int) -> dict[str, Any]:
    now = traffic.minute.get(endpoint.key) or Traffic()
    total = traffic.total.get(endpoint.key) or Traffic()
    return {
        "endpoint": endpoint.key,
        "pod": endpoint.pod,
        "state": "ready" if endpoint.ready else "draining",
        "since": round(traffic.first_seen.get(endpoint.key, 0.0)),
        "share": round(now.picked / picks, 4) if picks else None,
        "minute": _counts(now),
        "total": _counts(total),
    }


def _counts(traffic: Traffic) -> dict[str, int]:
    return {
        "picked": traffic.picked,
        "served": traffic.served,
        "failed": traffic.failed,
        "unreachable": traffic.unreachable,
    }
