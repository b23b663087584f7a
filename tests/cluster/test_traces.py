"""The spans of Envoy and of the sidecar at the real OpenTelemetry Collector."""

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import yaml

from testbed.cluster.binaries import binary
from testbed.ports import free_ports
from testbed.process import Process
from tests.e2e.spans import PARENT, SAMPLED, TRACE
from tests.e2e.test_gateway_traces import with_gateway
from tests.e2e.test_up import Peers, peers, running, runtime  # noqa: F401

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(150)]

_SERVICE = re.compile(r" -> service\.name: Str\((.*)\)")
_SPAN = re.compile(
    r"Trace ID +: (?P<trace>\S*)\n +Parent ID +: (?P<parent>\S*)\n"
    r" +ID +: (?P<own>\S*)\n +Name +: (?P<name>.*)"
)


class Span(NamedTuple):
    """What the collector has written of a span."""

    service: str
    name: str
    trace: str
    parent: str
    own: str


def read_spans(text: str) -> list[Span]:
    """The spans in what the exporter `debug` writes."""
    found = []
    for part in text.split("ResourceSpans #")[1:]:
        [service] = _SERVICE.findall(part)
        for span in _SPAN.finditer(part):
            found.append(Span(service, *span.group("name", "trace", "parent", "own")))
    return found


class Collector(NamedTuple):
    """A running collector."""

    log: Path
    http: str
    grpc: str

    async def has(self, *names: str) -> dict[str, Span]:
        """Wait for spans with these names; returns all by name."""
        async with asyncio.timeout(60):
            while True:
                found = {span.name: span for span in read_spans(self.log.read_text())}
                if set(names) <= found.keys():
                    return found
                await asyncio.sleep(0.1)


@asynccontextmanager
async def running_collector(folder: Path) -> AsyncIterator[Collector]:
    http, grpc = (f"127.0.0.1:{port}" for port in free_ports(2))
    protocols = {"grpc": {"endpoint": grpc}, "http": {"endpoint": http}}
    configuration = {
        "receivers": {"otlp": {"protocols": protocols}},
        "exporters": {"debug": {"verbosity": "detailed"}},
        "service": {
            "telemetry": {"metrics": {"level": "none"}},
            "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["debug"]}},
        },
    }
    file, log = folder / "collector.yaml", folder / "collector.log"
    file.write_text(yaml.safe_dump(configuration))
    process = await Process.start(str(binary("otel-collector")), "--config", str(file), log=log)
    try:
        async with asyncio.timeout(60):
            while "Everything is ready" not in process.tail:
                assert process.running, process.tail
                await asyncio.sleep(0.05)
        yield Collector(log, f"http://{http}", grpc)
    finally:
        await process.stop()


async def test_one_trace_at_the_real_collector(
    peers: Peers,  # noqa: F811
    runtime: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    behind, url = with_gateway(peers, tmp_path)
    async with running_collector(tmp_path) as collector, httpx.AsyncClient(timeout=60) as client:
        options = ("--otlp-endpoint", collector.http, "--gateway-otlp-grpc", collector.grpc)
        async with running(behind, runtime, *options):
            answer = await client.post(url, content=b"hello", headers={"traceparent": SAMPLED})
            assert answer.status_code == 200
            spans = await collector.has("ingress", "inference exchange", "pick")
        envoys = {
            span.own for span in read_spans(collector.log.read_text()) if span.service == "envoy"
        }
    assert {span.trace for span in spans.values()} == {TRACE}
    ingress, exchange, pick = spans["ingress"], spans["inference exchange"], spans["pick"]
    assert (ingress.service, ingress.parent) == ("envoy", PARENT)
    assert (exchange.service, pick.service) == ("epp-client", "epp-client")
    assert exchange.parent in envoys
    assert pick.parent == exchange.own
