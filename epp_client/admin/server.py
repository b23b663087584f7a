"""The HTTP server of the admin page: probes, metrics, the pools as JSON, the dashboard.

Read-only, on loopback by default. It has no part in relaying.
"""

import asyncio
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Protocol

from aiohttp import web

from epp_client.admin import dashboard, summary
from epp_client.admin.described import described, endpoint_json
from epp_client.admin.hosts import only_for
from epp_client.admin.listening import Listening
from epp_client.admin.patience import punctual
from epp_client.admin.streams import Streams
from epp_client.admin.watching import Relays, Watching
from epp_client.metrics.counters import Counters
from epp_client.metrics.registry import Metrics, current
from epp_client.observe.interval import total
from epp_client.observe.judge import as_json
from epp_client.option_values import host_port
from epp_client.picker.health import Health
from epp_client.pool.store import PoolStore
from epp_client.time_of_day import unix_time
from epp_client.version import VERSION, hot_path_compiled

if TYPE_CHECKING:
    from epp_client.gateway.world import GatewayResolution

ENDPOINTS_AT_ONCE = 500
"""Endpoints written per turn of the event loop, which with `--workers 0` relays requests as well."""


class CounterSource(Relays, Protocol):
    """Source of the request counters: the relay of this process, or the worker processes."""

    async def totals(self) -> Counters:
        """The current sums over all relays."""

    def forget(self, pool: str) -> None:
        """Drop the counters of a deleted pool."""


class Readiness:
    """Named conditions, and notes for people. Ready when all conditions hold."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}
        self._notes: dict[str, Callable[[], str]] = {}

    def set(self, name: str, *, ok: bool, reason: str = "") -> None:
        """Set whether a condition holds, and if not, why."""
        if ok:
            self._failing.pop(name, None)
        else:
            self._failing[name] = reason

    def note(self, name: str, say: Callable[[], str]) -> None:
        """Add a note that never affects readiness. `say` returns its current text, empty for none."""
        self._notes[name] = say

    @property
    def notes(self) -> dict[str, str]:
        """The current notes that are not empty."""
        return {name: text for name, say in self._notes.items() if (text := say())}

    @property
    def reasons(self) -> dict[str, str]:
        """Reason of each condition that does not hold; empty when ready."""
        return dict(self._failing)


class AdminServer:
    """The admin page on `host:port`."""

    def __init__(
        self,
        address: str,
        store: PoolStore,
        metrics: Metrics,
        counters: CounterSource,
        readiness: Readiness,
        hosts: Collection[str] = (),
        gateway: "Callable[[], GatewayResolution | None]" = lambda: None,
        *,
        serves_xds: bool = False,
        log_decisions: bool = False,
    ) -> None:
        """`hosts` are additional allowed names of the `Host` header, see `only_for`. `gateway` returns what
        is served for the Gateway; None without one. `serves_xds`, `log_decisions`: see Watching."""
        self._gateway_served = gateway
        self._store = store
        self._metrics = metrics
        self._counters = counters
        self._readiness = readiness
        self._dashboard, self._runbook = dashboard.load(), dashboard.runbook()
        self._started, self._started_at = time.monotonic(), unix_time()
        self._compiled = hot_path_compiled()
        self.watching = watching = Watching(
            store, metrics, counters, readiness, serves_xds=serves_xds, log_decisions=log_decisions
        )
        self._looking: asyncio.Task[None] | None = None
        self._streams = Streams(watching, self._head)
        bound, _ = host_port(address)
        application = web.Application(middlewares=[punctual, only_for(bound, hosts)])
        application.router.add_get("/", self._index)
        application.router.add_get("/runbook", self._book)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._exposition)
        application.router.add_get("/summary", self._summary)
        application.router.add_get("/pools", self._pools)
        application.router.add_get("/pools/{namespace}/{name}", self._pool)
        application.router.add_get("/gateway", self._gateway)
        application.router.add_get("/status", self._status)
        application.router.add_get("/events", self._events)
        application.router.add_get("/live", self._streams.live)
        application.router.add_get("/decisions", self._streams.decisions)
        self._listening = Listening(application, address)

    async def start(self) -> str:
        """Bind, and return the bound `host:port`.

        Raises:
            OSError: the address cannot be bound.
        """
        address = await self._listening.start()
        self._looking = asyncio.create_task(self.watching.run())
        return address

    async def close(self) -> None:
        """Stop listening and close open connections."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        await self._streams.close()
        await self._listening.close()

    async def _index(self, _: web.Request) -> web.Response:
        page = self._dashboard
        return web.Response(text=page.html, content_type="text/html", headers=page.headers)

    async def _book(self, _: web.Request) -> web.Response:
        page = self._runbook
        return web.Response(text=page.html, content_type="text/html", headers=page.headers)

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons, notes = self._readiness.reasons, self._readiness.notes
        status = 503 if reasons else 200
        if "json" in request.headers.get("accept", ""):
            said = {"ready": not reasons, "reasons": reasons, "notes": notes}
            return web.json_response(said, status=status)
        text = "" if reasons else "ok\n"
        text += "".join(f"{name}: {said}\n" for name, said in (reasons | notes).items())
        return web.Response(text=text, status=status)

    async def _exposition(self, request: web.Request) -> web.Response:
        totals = await self._counters.totals()
        records = (record.decision for record in self.watching.observer.records.since())
        scrape = self._metrics.scrape(totals, request.headers.get("accept", ""), records)
        for pool in scrape.forgotten:
            self._counters.forget(pool)
        return web.Response(body=scrape.body, headers={"content-type": scrape.content_type})

    async def _summary(self, request: web.Request) -> web.Response:
        """The data of the dashboard. Its size is bounded for any number of pools and endpoints."""
        counters = await self._counters.totals()
        store, observer = self._store, self.watching.observer
        pools = summary.pools_page(
            store.snapshots.values(),
            store.problems,
            counters,
            observer.minute,
            observer.judgement,
            query=request.query.get("q", ""),
            offset=_number(request, "offset", 0),
            limit=_number(request, "limit", summary.MAX_POOLS),
        )
        judged = as_json(observer.judgement)
        said = {**self._head_of(counters), "judgement": judged, "pools": pools}
        return web.json_response(said, headers=_JSON_HEADERS)

    def _head(self) -> dict[str, Any]:
        """What belongs to no pool, at the last look."""
        look = self.watching.observer.look
        return {} if look is None else self._head_of(look.counters)

    def _head_of(self, counters: Counters) -> dict[str, Any]:
        store, metrics = self._store, self._metrics
        return {
            "version": VERSION,
            "compiled": self._compiled,
            "at": unix_time(),
            "uptime": time.monotonic() - self._started,
            "started": self._started_at,
            "reasons": self._readiness.reasons,
            "notes": self._readiness.notes,
            "synced": store.synced,
            "problems": summary.problems_page(store.problems),
            "workers": current(metrics.workers),
            "restarts": counters.restarts,
            "retainedBytes": counters.retained_bytes,
            "envoys": current(metrics.envoys),
            "nacks": current(metrics.xds_nacks),
            "totals": summary.totals(counters),
            "minute": summary.minute_numbers(total(self.watching.observer.minute.values())),
            "minuteSeconds": self.watching.observer.minute_seconds,
        }

    async def _status(self, _: web.Request) -> web.Response:
        """The judgement, and what belongs to no pool."""
        observer = self.watching.observer
        said = {
            **self._head(),
            "judgement": as_json(observer.judgement),
            "pools": len(self._store.snapshots),
        }
        return web.json_response(said, headers=_JSON_HEADERS)

    async def _events(self, _: web.Request) -> web.Response:
        """The recent events, oldest first."""
        events = [event._asdict() for event in self.watching.observer.events.since()]
        return web.json_response({"events": events}, headers=_JSON_HEADERS)

    async def _pools(self, request: web.Request) -> web.StreamResponse:
        """All pools with all endpoints."""
        health = (await self._counters.totals()).pickers
        return await _written(request, self._pieces(health))

    async def _gateway(self, request: web.Request) -> web.StreamResponse:
        """The route table of the Gateway."""
        resolution = self._gateway_served()
        if resolution is None:
            return web.json_response({"error": "no Gateway is served"}, status=404)
        # Its imports are needed only with a Gateway.
        from epp_client.gateway.as_json import pieces

        return await _written(request, pieces(resolution))

    def _pieces(self, health: Mapping[str, Mapping[str, Health]]) -> Iterator[str]:
        store = self._store
        snapshots, problems = store.snapshots, store.problems
        yield f'{{"synced": {json.dumps(store.synced)}, "pools": ['
        for number, (name, snapshot) in enumerate(sorted(snapshots.items())):
            head = json.dumps(described(snapshot, problems, health.get(name, {})))
            yield f'{", " if number else ""}{head[:-1]}, "endpoints": ['
            endpoints = iter(snapshot.table.by_key.values())
            comma = ""
            while some := json.dumps([*map(endpoint_json, islice(endpoints, ENDPOINTS_AT_ONCE))])[
                1:-1
            ]:
                yield comma + some
                comma = ", "
            yield "]}"
        yield f'], "problems": {json.dumps([str(problem) for problem in problems])}}}'

    async def _pool(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['namespace']}/{request.match_info['name']}"
        snapshot = self._store.snapshots.get(name)
        if snapshot is None:
            return web.json_response({"error": f"no InferencePool {name}"}, status=404)
        health = (await self._counters.totals()).pickers.get(name, {})
        members = snapshot.table.by_key.values()
        said = described(snapshot, self._store.problems, health)
        if "endpoints" in request.query:
            draining = (endpoint for endpoint in members if not endpoint.ready)
            ready = (endpoint for endpoint in members if endpoint.ready)
            first = islice(chain(draining, ready), _number(request, "endpoints", 0))
            said["endpointCount"] = len(members)
        else:
            first = islice(members, None)
        said["endpoints"] = [*map(endpoint_json, first)]
        return web.json_response(said, headers=_JSON_HEADERS)


_JSON_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


async def _written(request: web.Request, pieces: Iterator[str]) -> web.StreamResponse:
    """A JSON response that is written in pieces, so that other tasks get their turns."""
    response = web.StreamResponse(headers=_JSON_HEADERS)
    response.content_type, response.charset = "application/json", "utf-8"
    await response.prepare(request)
    for piece in pieces:
        await response.write(piece.encode())
        await asyncio.sleep(0)
    await response.write_eof()
    return response


def _number(request: web.Request, key: str, default: int) -> int:
    """A non-negative integer parameter of the query, or `default`.

    Raises:
        HTTPBadRequest: the parameter is not such a number.
    """
    text = request.query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 9):
        raise web.HTTPBadRequest(text=f"{key}: {text[:20]!r} is not a number from 0 to 999999999\n")
    return int(text)
