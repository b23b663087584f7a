"""The HTTP server of the controller: probes and metrics. Read-only."""

from collections.abc import Collection, Iterator
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from epp_client.admin.hosts import only_for
from epp_client.admin.listening import Listening
from epp_client.option_values import host_port

if TYPE_CHECKING:
    from epp_client.controller.operator import Operator


class OperatorCollector(Collector):
    """Collects the numbers of one operator."""

    def __init__(self, operator: "Operator") -> None:
        self._operator = operator

    def collect(self) -> Iterator[Metric]:
        """The families."""
        operator = self._operator
        yield GaugeMetricFamily(
            "epp_client_controller_leader",
            "1 if this replica is the one that writes.",
            int(operator.holder.holds),
        )
        yield GaugeMetricFamily(
            "epp_client_controller_gateways",
            "Gateways of our classes.",
            len(operator.followed),
        )
        yield GaugeMetricFamily(
            "epp_client_api_stale_seconds",
            "Seconds since some resource could not be followed; 0 when all are.",
            operator.stale(),
        )
        applied = CounterMetricFamily(
            "epp_client_controller_writes",
            "Objects that were applied or deleted, by result.",
            labels=["result"],
        )
        applied.add_metric(["written"], operator.applying.written)
        applied.add_metric(["failed"], operator.applying.failed)
        yield applied
        statuses = CounterMetricFamily(
            "epp_client_status_writes",
            "Writes of a status, by result.",
            labels=["result"],
        )
        for result, count in operator.writes.items():
            statuses.add_metric([str(result)], count)
        yield statuses


class Pages:
    """`/livez`, `/readyz` and `/metrics` on `host:port`."""

    def __init__(self, address: str, operator: "Operator", hosts: Collection[str] = ()) -> None:
        """`hosts` are additional allowed names of the `Host` header, see `only_for`."""
        self._operator = operator
        self._registry = CollectorRegistry()
        self._registry.register(OperatorCollector(operator))
        bound, _ = host_port(address)
        application = web.Application(middlewares=[only_for(bound, hosts)])
        application.router.add_get("/livez", self._livez)
        application.router.add_get("/readyz", self._readyz)
        application.router.add_get("/metrics", self._metrics)
        self._listening = Listening(application, address)

    async def start(self) -> str:
        """Bind, and return the bound `host:port`.

        Raises:
            OSError: the address cannot be bound.
        """
        return await self._listening.start()

    async def close(self) -> None:
        """Stop listening and close open connections."""
        await self._listening.close()

    async def _livez(self, _: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, _: web.Request) -> web.Response:
        """Ready once everything has been listed; an API server that goes away later changes nothing."""
        if missing := self._operator.missing:
            return web.Response(status=503, text=f"{missing}\n")
        lines = ["ok"]
        if self._operator.stale():
            why = next((str(error) for error in self._operator.failures()), "")
            lines.append(f"stale for {self._operator.stale():.0f} s: {why}")
        lines.append("leader" if self._operator.holder.holds else "not the leader")
        return web.Response(text="\n".join(lines) + "\n")

    async def _metrics(self, _: web.Request) -> web.Response:
        body = generate_latest(self._registry)
        return web.Response(body=body, headers={"content-type": "text/plain; version=0.0.4"})
