"""Envoy's own spans of requests through a Gateway, whose listeners it has from the sidecar."""

import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest
import yaml

from testbed.container import unavailable
from testbed.envoy import envoy_binary
from testbed.ports import free_ports
from tests.e2e.spans import SAMPLED, TRACE, Collector, attributes, running_collector
from tests.e2e.test_up import Peers, peers, running, runtime  # noqa: F401
from tests.e2e.test_up_gateway import gateway, http_route

SILENT = "127.0.0.99"


def with_gateway(peers: Peers, folder: Path) -> tuple[Peers, str]:  # noqa: F811
    """Manifests that have a Gateway too, and its URL."""
    [port] = free_ports(1)
    manifests = folder / "gateway.yaml"
    objects = yaml.safe_dump_all([gateway(port), http_route("/", "1")])
    manifests.write_text(f"{peers.manifests.read_text()}---\n{objects}")
    return replace(peers, manifests=manifests), f"http://127.0.0.1:{port}/echo"


def spans_of(collector: Collector) -> dict[str, set[str]]:
    """The traces that each service has sent spans of."""
    return {name: {s.trace_id.hex() for s in spans} for name, spans in collector.spans.items()}


async def test_envoys_span_of_a_gateway_is_the_parent_of_ours(
    peers: Peers,  # noqa: F811
    runtime: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    behind, url = with_gateway(peers, tmp_path)
    async with running_collector() as collector, httpx.AsyncClient(timeout=60) as client:
        host, port = collector.grpc
        options = ("--otlp-endpoint", collector.http, "--gateway-otlp-grpc", f"{host}:{port}")
        async with running(behind, runtime, *options, "--gateway-trace-share=0") as up:
            # Only a sampled client is traced: the share is 0.
            assert (await client.post(url, content=b"hello")).status_code == 200
            answer = await client.post(url, content=b"hello", headers={"traceparent": SAMPLED})
            assert answer.status_code == 200
            assert answer.json()["headers"]["traceparent"].split("-")[1] == TRACE
            ours = await collector.has("epp-client", "inference exchange", "pick")
            await collector.has("envoy", "ingress")
        exchange = ours["inference exchange"]
        envoys = {span.span_id: span for span in collector.spans["envoy"]}
        assert exchange.parent_span_id in envoys
        assert attributes(exchange)["inference.pool"] == "default/llama"
        assert ours["pick"].parent_span_id == exchange.span_id
        assert spans_of(collector) == {"epp-client": {TRACE}, "envoy": {TRACE}}
        assert "rejected" not in up.process.tail


async def test_up_traces_a_gateway_as_its_own_listener(
    peers: Peers,  # noqa: F811
    runtime: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    behind, url = with_gateway(peers, tmp_path)
    async with running_collector() as collector, httpx.AsyncClient(timeout=60) as client:
        host, port = collector.grpc
        async with running(behind, runtime, "--otlp-grpc", f"{host}:{port}"):
            assert (await client.post(url, content=b"hello")).status_code == 200
            await collector.has("envoy", "ingress")


@pytest.fixture
def deaf_envoy(tmp_path: Path) -> Iterator[Path]:
    """An Envoy whose name server takes questions and never answers."""
    if why := unavailable():
        pytest.skip(f"no name server of its own for Envoy: {why}")
    with socket.socket(type=socket.SOCK_DGRAM) as server:
        server.bind((SILENT, 53))
        (tmp_path / "resolv.conf").write_text(f"nameserver {SILENT}\n")
        program = tmp_path / "envoy"
        program.write_text(
            f"""#!/bin/sh
            exec unshare --mount sh -c 'mount --bind {tmp_path}/resolv.conf /etc/resolv.conf &&
              exec {envoy_binary()} "$@"' sh "$@"
            """
        )
        program.chmod(0o755)
        yield program


async def test_a_gateway_serves_while_the_name_of_the_collector_is_looked_up(
    peers: Peers,  # noqa: F811
    runtime: Path,  # noqa: F811
    tmp_path: Path,
    deaf_envoy: Path,
) -> None:
    behind, url = with_gateway(peers, tmp_path)
    options = ("--envoy", str(deaf_envoy), "--gateway-otlp-grpc", "collector.example:4317")
    async with running(behind, runtime, *options), httpx.AsyncClient(timeout=60) as client:
        for _ in range(20):
            answer = await client.post(url, content=b"hello", headers={"traceparent": SAMPLED})
            assert answer.status_code == 200
