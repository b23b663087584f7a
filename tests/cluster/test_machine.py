"""The one-machine cluster as a whole: our Deployment as written, addresses of Services, a clean end."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from testbed.cluster.api import Object
from testbed.cluster.machine import Machine
from testbed.process import Process
from tests.cluster.kubectl import with_programs
from tests.cluster.kustomize import CONFIG, render
from tests.cluster.pods import PATIENCE, pod, ready, until, until_gone
from tests.terminal.pages import command

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

COUNTS = """
import socket
listener = socket.create_server(("0.0.0.0", 7000))
while True:
    taken, _ = listener.accept()
    size = 0
    while data := taken.recv(65536):
        size += len(data)
    taken.sendall(str(size).encode())
    taken.close()
"""
"""A server that answers once its client has closed its half of the connection."""


def _one(kind: str, items: list[Object], name: str) -> Object:
    [found] = [i for i in items if i["kind"] == kind and i["metadata"]["name"] == name]
    return found


async def test_our_deployment_runs_as_it_is_written(machine: Machine, tmp_path: Path) -> None:
    items = [*render(CONFIG / "example"), *render(CONFIG / "base")]
    deployment = _one("Deployment", items, "inference-gateway")
    service = _one("Service", items, "inference-gateway")
    await machine.api.apply(items)
    await machine.api.patch(service, {"spec": {"type": "LoadBalancer"}})
    await until(machine.api, deployment, lambda item: item["status"].get("availableReplicas"))
    found = await until(machine.api, service, lambda item: item["status"]["loadBalancer"])

    url = f"http://{found['status']['loadBalancer']['ingress'][0]['ip']}/v1/chat/completions"
    body = {"model": "llama", "messages": [{"role": "user", "content": "hello"}]}

    async def ask() -> None:
        async with aiohttp.ClientSession() as session, session.post(url, json=body) as answer:
            assert answer.status == 200, await answer.text()
            assert answer.headers["x-model-server"].endswith(":8000")

    await ask()
    where = ("--pod", "deploy/inference-gateway", "-n", "inference")
    environment = with_programs(machine.kubeconfig, tmp_path)
    top = await command("top", "--once", *where, env=environment)
    assert "inference/llama" in top.out, top.err
    # Of the replicas kubectl takes one, and the page gets what a worker has recorded once a second.
    async with asyncio.timeout(PATIENCE):
        while True:
            await ask()
            tap = await command("tap", *where, "--last", "1", "--no-follow", env=environment)
            if tap.out:
                break
    assert json.loads(tap.out)["outcome"] == "steered", tap.err

    await machine.api.patch(deployment, {"spec": {"replicas": 0}})
    pods = f"/api/v1/namespaces/{deployment['metadata']['namespace']}/pods"
    query = {"labelSelector": "app.kubernetes.io/name=inference-gateway"}
    async with asyncio.timeout(PATIENCE):
        while (await machine.api.call("GET", pods, query=query))["items"]:
            await asyncio.sleep(0.1)
    # drain.sh has waited, then Envoy went first.
    envoy = machine.log("inference", "inference-gateway", "envoy")
    assert "caught ENVOY_SIGTERM" in envoy
    assert '"event": "stopped"' in machine.log("inference", "inference-gateway", "epp-client")
    await machine.api.delete(_one("Namespace", items, "inference"))


async def test_a_service_has_addresses_that_forward_to_what_is_ready(
    machine: Machine, own_namespace: str
) -> None:
    item = pod(
        "counts", own_namespace, {"name": "main", "image": "python", "args": ["-c", COUNTS],
                              "readinessProbe": {"tcpSocket": {"port": 7000}, "periodSeconds": 1}},
        terminationGracePeriodSeconds=0,
    )  # fmt: skip
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "counts", "namespace": own_namespace},
        "spec": {
            "type": "LoadBalancer",
            "selector": {"app": "counts"},
            "ports": [{"port": 80, "targetPort": 7000}],
        },
    }
    await machine.api.apply([service])
    found = await until(machine.api, service, lambda item: item["status"]["loadBalancer"])
    balancer = found["status"]["loadBalancer"]["ingress"][0]["ip"]
    assert await _sent(balancer, b"x") is None, "nothing is ready"

    await machine.api.apply([item])
    await until(machine.api, item, ready)
    for address in (balancer, found["spec"]["clusterIP"]):
        async with asyncio.timeout(PATIENCE):
            # The EndpointSlice follows the Pod.
            while (said := await _sent(address, b"x" * 100_000)) is None:
                await asyncio.sleep(0.05)
        assert said == b"100000"

    await machine.api.delete(item)
    await until_gone(machine.api, item)
    async with asyncio.timeout(PATIENCE):
        while await _sent(balancer, b"x") is not None:
            await asyncio.sleep(0.05)
    await machine.api.delete(service)
    async with asyncio.timeout(PATIENCE):
        while balancer in await _output("ip", "-oneline", "address"):
            await asyncio.sleep(0.05)


async def _sent(address: str, data: bytes) -> bytes | None:
    """The answer after our half is closed; None if the connection is refused or cut."""
    try:
        reader, writer = await asyncio.open_connection(address, 80)
    except OSError:
        return None
    try:
        writer.write(data)
        writer.write_eof()
        return await reader.read() or None
    except OSError:
        return None
    finally:
        writer.close()


async def _output(*command: str) -> str:
    process = await Process.start(*command)
    await process.exited()
    await asyncio.sleep(0)
    tail = process.tail
    await process.stop()
    return tail


async def test_the_end_of_a_cluster_leaves_nothing() -> None:
    # In namespaces of its own.
    environment = ("env", "--unset=EPP_CLIENT_TEST_NETWORK")
    process = await Process.start(*environment, sys.executable, "-m", "testbed.cluster")
    try:
        async with asyncio.timeout(PATIENCE):
            while "Ctrl-C" not in process.tail:
                assert process.running, process.tail
                await asyncio.sleep(0.1)
        [line] = [li for li in process.tail.splitlines() if li.startswith("  KUBECONFIG=")]
        folder = Path(line.partition("=")[2]).parent
        assert folder.exists()
        inside = os.readlink(f"/proc/{process.pid}/ns/net")
        assert len(_processes_in(inside)) >= 6
        process.signal(signal.SIGINT)
        assert await process.exited() == 0, process.tail
    finally:
        await process.stop(10)
    assert not folder.exists()
    async with asyncio.timeout(10):
        while _processes_in(inside):
            await asyncio.sleep(0.05)


def _processes_in(network: str) -> list[str]:
    """The processes in a network namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if os.readlink(path / "ns" / "net") == network:
                found.append(path.name)
    return found
