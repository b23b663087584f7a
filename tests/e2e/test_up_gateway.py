"""`epp-client up` with a Gateway and HTTPRoutes in files: listeners and routes follow the files."""

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import yaml

from testbed.ports import free_ports
from tests.e2e.test_up import WAIT, Peers, peers, running, runtime, steered, until  # noqa: F401

GROUP = "gateway.networking.k8s.io"


def gateway(port: int) -> dict[str, Any]:
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "Gateway",
        "metadata": {"name": "front", "namespace": "default"},
        "spec": {
            "gatewayClassName": "epp-client",
            "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}],
        },
    }


def http_route(prefix: str, value: str) -> dict[str, Any]:
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llama"}
    change = {"set": [{"name": "x-edition", "value": value}]}
    return {
        "apiVersion": f"{GROUP}/v1",
        "kind": "HTTPRoute",
        "metadata": {"name": "chat", "namespace": "default"},
        "spec": {
            "parentRefs": [{"name": "front"}],
            "rules": [
                {
                    "matches": [{"path": {"value": prefix}}],
                    "filters": [
                        {"type": "ResponseHeaderModifier", "responseHeaderModifier": change}
                    ],
                    "backendRefs": [pool],
                }
            ],
        },
    }


async def test_a_gateway_in_files_is_served_and_its_routes_follow_the_files(
    peers: Peers,  # noqa: F811
    runtime: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    [port] = free_ports(1)
    pools = peers.manifests.read_text()
    manifests = tmp_path / "gateway.yaml"

    def write(prefix: str, value: str) -> None:
        objects = [gateway(port), http_route(prefix, value)]
        fresh = manifests.with_suffix(".new")
        fresh.write_text(pools + "---\n" + yaml.safe_dump_all(objects))
        fresh.replace(manifests)

    write("/echo", "1")
    async with running(replace(peers, manifests=manifests), runtime) as up:
        up = replace(up, url=f"http://127.0.0.1:{port}")
        assert '"gateway": "default/front"' in up.process.tail
        assert await steered(up, peers)
        async with httpx.AsyncClient(timeout=20) as client:
            assert (await client.get(f"{up.url}/other")).status_code == 404
            lost = 0
            stop = asyncio.Event()

            async def load() -> None:
                nonlocal lost
                async with httpx.AsyncClient(timeout=20) as other:
                    while not stop.is_set():
                        answer = await other.post(f"{up.url}/echo", content=b"hello")
                        lost += answer.status_code != 200

            loading = asyncio.create_task(load())
            write("/", "2")
            async with asyncio.timeout(WAIT):
                while True:
                    answer = await client.post(f"{up.url}/echo", content=b"hello")
                    if answer.headers.get("x-edition") == "2":
                        break
                    await asyncio.sleep(0.02)
            stop.set()
            await loading
            assert lost == 0
            other = await client.post(f"{up.url}/other", content=b"hello")
            assert other.headers["x-edition"] == "2"
        assert "without_route" not in up.process.tail


async def test_the_limits_of_its_listener_hold_for_a_gateway_too(
    peers: Peers,  # noqa: F811
    runtime: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    [port] = free_ports(1)
    manifests = tmp_path / "gateway.yaml"
    objects = yaml.safe_dump_all([gateway(port), http_route("/", "1")])
    manifests.write_text(peers.manifests.read_text() + "---\n" + objects)
    slow = {"model": "m", "prompt": "hi", "stream": True, "first_token_ms": 20_000}
    async with (
        running(replace(peers, manifests=manifests), runtime, "--request-timeout", "0.5"),
        httpx.AsyncClient(timeout=60) as client,
    ):
        answer = await client.post(f"http://127.0.0.1:{port}/v1/completions", json=slow)
        assert answer.status_code == 504
