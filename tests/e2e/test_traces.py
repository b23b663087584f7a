"""Spans of ours and of Envoy, in one trace, at a collector that speaks OTLP."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
import yaml
from aiohttp import web
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2_grpc import (
    TraceServiceServicer,
    add_TraceServiceServicer_to_server,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span

from epp_client.envoy.edge import EDGE, Tracing
from testbed.stack import running_stack
from tests.e2e.tools import echo

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


class Collector(TraceServiceServicer):  # type: ignore[misc]
    """An OpenTelemetry collector: OTLP over HTTP for us, over gRPC for Envoy."""

    def __init__(self) -> None:
        self.spans: dict[str, list[Span]] = defaultdict(list)
        """By the service that sent them."""
        self.http = ""
        self.grpc = ("", 0)

    def _take(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            names = {a.key: a.value.string_value for a in resource.resource.attributes}
            for scope in resource.scope_spans:
                self.spans[names["service.name"]] += scope.spans

    async def Export(self, request: Any, context: Any) -> Any:  # noqa: N802
        del context
        self._take(request)
        return ExportTraceServiceResponse()

    async def post(self, request: web.Request) -> web.Response:
        """OTLP over HTTP."""
        self._take(ExportTraceServiceRequest.FromString(await request.read()))
        return web.Response(body=b"", content_type="application/x-protobuf")

    async def has(self, service: str, *names: str) -> dict[str, Span]:
        """Wait for spans with these names; returns them by name."""
        async with asyncio.timeout(60):
            while not set(names) <= (found := {s.name: s for s in self.spans[service]}).keys():
                await asyncio.sleep(0.1)
        return found


@asynccontextmanager
async def running_collector() -> AsyncIterator[Collector]:
    collector = Collector()
    application = web.Application()
    application.router.add_post("/v1/traces", collector.post)
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    collector.http = f"http://127.0.0.1:{runner.addresses[0][1]}"
    server = aio.server()
    add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    collector.grpc = ("127.0.0.1", server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    try:
        yield collector
    finally:
        await server.stop(0)
        await runner.cleanup()


def attributes(span: Span) -> dict[str, str]:
    return {item.key: item.value.string_value for item in span.attributes}


@pytest.mark.parametrize("workers", [0, 1])
async def test_envoys_span_is_the_parent_of_ours(workers: int) -> None:
    async with (
        running_collector() as collector,
        running_stack(
            otlp_endpoint=collector.http,
            workers=workers,
            edge=EDGE._replace(tracing=Tracing(collector.grpc)),
        ) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        answer = await echo(client, stack, "open", traceparent=f"00-{TRACE}-{PARENT}-01")
        assert answer.status_code == 200
        # The model server gets the trace, in a span of Envoy.
        _, trace, _, _ = answer.json()["headers"]["traceparent"].split("-")
        assert trace == TRACE
        ours = await collector.has("epp-client", "inference exchange", "pick")
        await collector.has("envoy", "ingress")
        exchange, pick = ours["inference exchange"], ours["pick"]
        envoys = {span.span_id: span for span in collector.spans["envoy"]}
        assert exchange.trace_id.hex() == TRACE
        assert exchange.parent_span_id in envoys
        assert pick.parent_span_id == exchange.span_id
        said = attributes(exchange)
        assert said["inference.pool"] == "default/open"
        assert said["inference.outcome"] == "steered"
        assert said["inference.endpoint.served"] in stack.endpoints
        assert said["http.request.header.x-request-id"]
        assert [event.name for event in exchange.events] == ["judged"]
        assert exchange.start_time_unix_nano <= pick.start_time_unix_nano
        assert pick.end_time_unix_nano <= exchange.end_time_unix_nano
        # The same trace id is in the record of the request.
        admin = f"http://{stack.sidecar.admin_address}/decisions"
        async with asyncio.timeout(60):
            while not (found := (await client.get(admin)).json()["decisions"]):
                await asyncio.sleep(0.1)
        assert found[0]["trace_id"] == TRACE
        # And it is an exemplar of the pick's latency.
        scraped = await client.get(
            f"http://{stack.sidecar.admin_address}/metrics",
            headers={"accept": "application/openmetrics-text; version=1.0.0"},
        )
        [line] = [text for text in scraped.text.splitlines() if TRACE in text]
        assert line.startswith("epp_client_pick_seconds_bucket")
        assert 'pool="open"' in line


async def test_a_failure_is_an_error_and_an_unsampled_request_has_no_span() -> None:
    async with (
        running_collector() as collector,
        running_stack(otlp_endpoint=collector.http) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        await echo(client, stack, "open", traceparent=f"00-{TRACE[::-1]}-{PARENT}-00")
        await echo(client, stack, "open")
        refused = await echo(
            client,
            stack,
            "close",
            x_picker_dialect="pick-outside",
            traceparent=f"00-{TRACE}-{PARENT}-01",
        )
        assert refused.status_code == 503
        spans = await collector.has("epp-client", "inference exchange")
        exchange = spans["inference exchange"]
        assert (exchange.status.code, exchange.status.message) == (2, "pick_outside_pool")
        assert exchange.parent_span_id.hex() == PARENT
        assert {span.trace_id.hex() for span in collector.spans["epp-client"]} == {TRACE}


async def test_a_collector_that_is_away_costs_no_request() -> None:
    async with (
        running_stack(otlp_endpoint="http://127.0.0.1:9") as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        for _ in range(20):
            answer = await echo(client, stack, "open", traceparent=f"00-{TRACE}-{PARENT}-01")
            assert answer.status_code == 200


def test_the_printed_bootstrap_has_the_collector() -> None:
    from typer.testing import CliRunner

    from epp_client.cli import app

    arguments = ["envoy-config", "--pool", "default/llama", "--otlp-grpc", "otel:4317"]
    done = CliRunner().invoke(app, [*arguments, "--trace-share", "5"])
    assert done.exit_code == 0, done.output
    printed = yaml.safe_load(done.output)
    names = [cluster["name"] for cluster in printed["static_resources"]["clusters"]]
    assert "otel-collector" in names
    [chain] = printed["static_resources"]["listeners"][0]["filter_chains"]
    tracing = chain["filters"][0]["typed_config"]["tracing"]
    assert tracing["random_sampling"] == {"value": 5.0}
