"""Every command of the README's "Use it", as it is printed there, against running peers."""

import asyncio
import json
import os
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from testbed.envoy import envoy_binary
from testbed.process import Process
from testbed.stack import ENVOY_HOST, Stack, free_ports

pytestmark = pytest.mark.asyncio(loop_scope="session")
ROOT = Path(__file__).parents[2]


def commands(section: str) -> list[str]:
    """The commands of a section's `sh` blocks."""
    text = (ROOT / "README.md").read_text().split(f"\n## {section}\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def exported(stack: Stack) -> str:
    """What kubectl would print of a cluster with one pool, `llama`, whose picker is plaintext."""
    items: list[dict[str, Any]] = []
    for item in yaml.safe_load_all((stack.manifests / "all.yaml").read_text()):
        if item["kind"] == "InferencePool":
            if item["metadata"]["name"] != "close":
                continue
            item["metadata"]["name"] = "llama"
            item["metadata"]["annotations"]["epp-client.dev/tls"] = "plaintext"
        items.append(item)
    return yaml.safe_dump({"apiVersion": "v1", "kind": "List", "items": items})


async def test_see_it_and_test_it_name_targets_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in [*commands("See it"), *commands("Test it")]:
        program, target = line.split()
        assert program == "make"
        assert f"\n{target}:" in makefile


async def test_use_it(stack: Stack, client: httpx.AsyncClient, tmp_path: Path) -> None:
    """In the order of the README; only the sockets' folder and the ports are the test's own."""
    port, envoy_port, *_ = free_ports(ENVOY_HOST, 2)
    options = {
        "epp-client serve": f"--socket {tmp_path}/e.sock --xds-socket {tmp_path}/x.sock "
        f"--admin {ENVOY_HOST}:{port}",
        "epp-client envoy-config": f"--socket {tmp_path}/e.sock --xds-socket {tmp_path}/x.sock "
        f"--listen {ENVOY_HOST}:{envoy_port} --envoy-admin {ENVOY_HOST}:0",
        "envoy -c": "--use-dynamic-base-id -l error",
    }
    folders = f"{Path(sys.executable).parent}:{Path(envoy_binary()).parent}:{os.environ['PATH']}"
    started: list[Process] = []
    try:
        for line in commands("Use it"):
            if line.startswith("kubectl get"):
                (tmp_path / line.rpartition("> ")[2]).write_text(exported(stack))
                continue
            extra = next((o for begin, o in options.items() if line.startswith(begin)), "")
            command, arrow, target = line.partition(" > ")
            script = f"cd {shlex.quote(str(tmp_path))}; PATH={folders} exec {command} {extra}"
            if line.startswith(("epp-client serve", "envoy ")):
                started.append(await Process.start("bash", "-c", script))
                continue
            shell = await asyncio.create_subprocess_shell(
                script + arrow + target, stdout=asyncio.subprocess.PIPE
            )
            output, _ = await asyncio.wait_for(shell.communicate(), 40)
            assert shell.returncode == 0, (line, output)
            if line.startswith("epp-client pick"):
                assert any(endpoint in output.decode() for endpoint in stack.endpoints)
        url = f"http://{ENVOY_HOST}:{envoy_port}/echo"
        async with asyncio.timeout(30):
            while True:
                try:
                    answer = await client.post(url, content=b"hello")
                    if answer.status_code == 200:
                        break
                except httpx.TransportError:
                    await asyncio.sleep(0.05)
        assert json.loads(answer.text)["size"] == 5
        ready = await client.get(f"http://{ENVOY_HOST}:{port}/readyz")
        assert ready.status_code == 200
    finally:
        for process in started:
            await process.stop(2)
