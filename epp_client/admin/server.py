"""The admin page: probes, metrics and the pools as JSON, for people and probes on the same host.

Read-only, loopback by default. Never touches a request.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from aiohttp import web

from epp_client import __version__
from epp_client.metrics import Metrics
from epp_client.pool.problems import Problem
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.counters import Counters

MAX_HEADER_BYTES = 8192
"""Of a request line, and of one header field."""

_INDEX = f"""<!doctype html><meta charset="utf-8"><title>epp-client</title>
<style>body{{font:16px/1.6 system-ui;margin:3rem auto;max-width:40rem}}</style>
<h1>epp-client {__version__}</h1>
<ul><li><a href="/pools">/pools</a>: every InferencePool, its endpoints and its picker
<li><a href="/readyz">/readyz</a>: ready, or why not
<li><a href="/livez">/livez</a>: alive
<li><a href="/metrics">/metrics</a>: for Prometheus</ul>
"""


class CounterSource(Protocol):
    """Who knows what came of the requests: the relay of this process, or of many."""

    async def totals(self) -> Counters:
        """The numbers now."""

    def forget(self, pool: str) -> None:
        """Drop the numbers of a pool that is no more."""


class Readiness:
    """Named conditions; ready when all hold."""

    def __init__(self) -> None:
        self._failing: dict[str, str] = {}

    def set(self, name: str, *, ok: bool, reason: str = "") -> None:
        """State that a condition holds, or why it does not."""
        if ok:
            self._failing.pop(name, None)
        else:
            self._failing[name] = reason

    @property
    def reasons(self) -> dict[str, str]:
        """Why we are not ready, by condition; empty when we are."""
        return dict(self._failing)


class AdminServer:
    """An aiohttp server on `host:port`."""

    def __init__(
        self,
        address: str,
        store: PoolStore,
        metrics: Metrics,
        counters: CounterSource,
        readiness: Readiness,
    ) -> None:
        self._address = address
        self._store = store
        self._metrics = metrics
        self._counters = counters
        self._readiness = readiness
        application = web.Application()
        application.router.add_get("/", self._index)
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._exposition)
        application.router.add_get("/pools", self._pools)
        application.router.add_get("/pools/{namespace}/{name}", self._pool)
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=15,
            shutdown_timeout=1,
            lingering_time=1,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def start(self) -> str:
        """Bind; returns the bound `host:port`.

        Raises:
            OSError: the address cannot be bound.
        """
        host, _, port = self._address.rpartition(":")
        await self._runner.setup()
        site = web.TCPSite(self._runner, host.strip("[]"), int(port))
        await site.start()
        bound = self._runner.addresses[0]
        return f"{host}:{bound[1]}"

    async def close(self) -> None:
        """Stop listening and close what is open."""
        await self._runner.cleanup()

    async def _index(self, _: web.Request) -> web.Response:
        return web.Response(text=_INDEX, content_type="text/html")

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reasons = self._readiness.reasons
        status = 503 if reasons else 200
        if "json" in request.headers.get("accept", ""):
            return web.json_response({"ready": not reasons, "reasons": reasons}, status=status)
        text = "".join(f"{name}: {reason}\n" for name, reason in reasons.items()) or "ok\n"
        return web.Response(text=text, status=status)

    async def _exposition(self, request: web.Request) -> web.Response:
        totals = await self._counters.totals()
        scrape = self._metrics.scrape(totals, request.headers.get("accept", ""))
        for pool in scrape.forgotten:
            self._counters.forget(pool)
        return web.Response(body=scrape.body, headers={"content-type": scrape.content_type})

    async def _pools(self, _: web.Request) -> web.Response:
        pools = [
            _describe(s, self._store.problems) for _, s in sorted(self._store.snapshots.items())
        ]
        return web.json_response(
            {
                "synced": self._store.synced,
                "pools": pools,
                "problems": [str(problem) for problem in self._store.problems],
            }
        )

    async def _pool(self, request: web.Request) -> web.Response:
        name = f"{request.match_info['namespace']}/{request.match_info['name']}"
        snapshot = self._store.snapshots.get(name)
        if snapshot is None:
            return web.json_response({"error": f"no InferencePool {name}"}, status=404)
        return web.json_response(_describe(snapshot, self._store.problems))


def _describe(snapshot: PoolSnapshot, problems: Sequence[Problem]) -> dict[str, Any]:
    pool = snapshot.pool
    subject = f"InferencePool {pool.name}"
    return {
        "namespace": pool.name.namespace,
        "name": pool.name.name,
        "selector": dict(pool.match_labels),
        "targetPorts": list(pool.target_ports),
        "appProtocol": str(pool.app_protocol),
        "failureMode": str(pool.failure_mode),
        "picker": None
        if snapshot.picker is None
        else {"addresses": list(snapshot.picker.addresses), "problem": snapshot.picker.problem},
        "settings": pool.settings.model_dump(mode="json"),
        "problems": [str(problem) for problem in problems if problem.subject == subject],
        "generation": snapshot.table.generation,
        "acknowledgedGeneration": snapshot.acknowledged,
        "endpoints": [
            {
                "endpoint": endpoint.key,
                "pod": endpoint.pod,
                "state": "ready" if endpoint.ready else "draining",
            }
            for endpoint in snapshot.table.by_key.values()
        ],
    }
