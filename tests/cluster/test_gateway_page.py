"""The page "Gateway API in Kubernetes", on the one-machine cluster: its commands print what it says, and
what it makes serves through every death that the controller can die."""

import asyncio
import re
import ssl
import subprocess
from pathlib import Path

import aiohttp
import pytest

from testbed.cluster.api import Object
from testbed.cluster.machine import Machine
from tests.cluster.kubectl import with_programs
from tests.cluster.pods import PATIENCE, until
from tests.deploy.test_docs import ROOT
from tests.e2e.test_getting_started import steps

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(600)]

PAGE = ROOT / "docs" / "getting-started" / "gateway-api.md"
NEEDS_MORE = ("kind ", "docker ", "cloud-provider-kind", "kubectl apply -k 'https://")
"""A container runtime, and the internet: the cluster and its CRDs are there already."""
CONTROLLER: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "epp-client-controller", "namespace": "epp-client-system"},
}
GATEWAY: Object = {
    "apiVersion": "gateway.networking.k8s.io/v1",
    "kind": "Gateway",
    "metadata": {"name": "inference", "namespace": "inference"},
}


ROUTE: Object = {
    **GATEWAY,
    "kind": "HTTPRoute",
    "metadata": {**GATEWAY["metadata"], "name": "llama"},
}


def _is_judged(route: Object) -> bool:
    """Whether its status is about its newest generation."""
    [parent] = route["status"]["parents"]
    generation = route["metadata"]["generation"]
    return all(one["observedGeneration"] == generation for one in parent["conditions"])


def plain(line: str) -> str:
    """Without numbers, ages and addresses."""
    line = re.sub(r"\d[\d:.TZsmh-]*", "0", line)
    return " ".join(line.split())


class Shell:
    """Runs commands of the page."""

    def __init__(self, machine: Machine, folder: Path) -> None:
        self._folder = folder
        self._environment = with_programs(machine.kubeconfig, folder)

    async def run(self, line: str) -> str:
        """What a command prints."""
        line = re.sub(r"\bbuild/(llama\.\w+)", rf"{self._folder}/\1", line)

        def done() -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                ["bash", "-c", line],
                cwd=ROOT,
                env=self._environment,
                capture_output=True,
                text=True,
                timeout=240,
            )

        # The cluster's API client of this process has to go on meanwhile.
        found = await asyncio.to_thread(done)
        assert found.returncode == 0, f"{line}\n{found.stdout}{found.stderr}"
        return found.stdout


async def test_the_page_prints_what_it_says(machine: Machine, tmp_path: Path) -> None:
    shell = Shell(machine, tmp_path)
    compared = 0
    for lines, shown in steps(PAGE.read_text()):
        here = [line for line in lines if not line.startswith(NEEDS_MORE)]
        if here and here[0].startswith("kubectl delete -k config/kubernetes/gateway"):
            await _serves_without_its_controller(shell, machine, tmp_path)
        said = [out for line in here for out in (await shell.run(line)).splitlines()]
        if here == lines:
            missing = {plain(line) for line in shown} - {plain(line) for line in said}
            assert not missing, "\n".join(said)
            compared += len(shown)
    assert compared > 30
    subjects = await machine.api.call("GET", "/api/v1/namespaces/epp-client-system/pods")
    assert subjects["items"] == [] or all(
        item["metadata"].get("deletionTimestamp") for item in subjects["items"]
    )


async def _serves_without_its_controller(shell: Shell, machine: Machine, folder: Path) -> None:
    """Requests are answered while all replicas of the controller die, and while a route changes meanwhile;
    the new ones change nothing of what runs."""
    gateway = await machine.api.get(GATEWAY)
    address = gateway["status"]["addresses"][0]["value"]
    before = await _objects(shell)
    tls = ssl.create_default_context(cafile=str(folder / "llama.crt"))
    answers: list[Answer] = []
    stop = asyncio.Event()
    load = asyncio.create_task(_load(address, tls, answers, stop))
    await machine.api.patch(CONTROLLER, {"spec": {"replicas": 0}})
    await until(machine.api, CONTROLLER, lambda data: not data["status"].get("replicas"))
    # The data planes follow the routes by themselves.
    await shell.run(
        "kubectl -n inference patch httproute llama --type json -p"
        """ '[{"op": "replace", "path": "/spec/rules/0/backendRefs/0/weight", "value": 1},"""
        """ {"op": "replace", "path": "/spec/rules/0/backendRefs/1/weight", "value": 0}]' """
    )
    async with asyncio.timeout(PATIENCE):
        while answers[-1:] != [(200, None)]:
            await asyncio.sleep(0.1)
    await machine.api.patch(CONTROLLER, {"spec": {"replicas": 2}})
    await until(machine.api, CONTROLLER, lambda data: data["status"].get("availableReplicas") == 2)
    # The new leader has written the status of the changed route.
    await until(machine.api, ROUTE, _is_judged)
    async with asyncio.timeout(PATIENCE):
        while len(answers) <= 50:
            await asyncio.sleep(0.1)
    stop.set()
    await load
    assert {status for status, _ in answers} == {200}
    assert await _objects(shell) == before


Answer = tuple[int | str, str | None]
"""Status, or the error; and the header of the second pool."""


async def _load(
    address: str, tls: ssl.SSLContext, answers: list[Answer], stop: asyncio.Event
) -> None:
    body = {"model": "llama", "prompt": "Hello", "max_tokens": 1}
    async with aiohttp.ClientSession() as session:
        while not stop.is_set():
            request = session.post(
                f"https://{address}/v1/completions",
                json=body,
                ssl=tls,
                server_hostname="llama.example.com",
                headers={"host": "llama.example.com"},
            )
            try:
                async with request as answer:
                    await answer.read()
                    answers.append((answer.status, answer.headers.get("x-pool")))
            except aiohttp.ClientError as error:
                answers.append((f"{len(answers)}: {error!r}", None))
            await asyncio.sleep(0.05)


async def _objects(shell: Shell) -> str:
    """The generations of what runs, and its Pods."""
    return await shell.run(
        "kubectl -n inference get deployment,pods -l gateway.networking.k8s.io/gateway-name=inference"
        " -o jsonpath='{range .items[*]}{.metadata.name} {.metadata.uid} {.spec.replicas}{\"\\n\"}{end}'"
    )
