"""An OpenTelemetry collector that keeps the spans it gets, and how to read them."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

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

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
SAMPLED = f"00-{TRACE}-{PARENT}-01"
"""A `traceparent`."""


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
