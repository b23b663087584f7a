"""`epp-client up`: a whole gateway from one command, with the real Envoy, through every way to end."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio
import yaml

from epp_client.kubernetes.client.resources import INFERENCE_POOL
from testbed.envoy import envoy_binary
from testbed.kubernetes.double import running as double_running
from testbed.kubernetes.objects import ALL
from testbed.ports import free_ports
from testbed.process import Process
from testbed.stack import inference_pool, pod, service
from tests.e2e.tools import streaming

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
HOSTS = ("127.0.0.11", "127.0.0.12")
WAIT = 60.0
BY_KIND = {resource.kind: resource for resource in ALL}


async def until(check: Callable[[], bool]) -> None:
    """Wait for what only another process can tell."""
    async with asyncio.timeout(WAIT):
        while not check():
            await asyncio.sleep(0.05)


@dataclass
class Peers:
    """Two model servers and a picker."""

    endpoints: list[str]
    picker: str
    manifests: Path

    @property
    def options(self) -> list[str]:
        """The pool as options, without manifests."""
        endpoints = [word for key in self.endpoints for word in ("--endpoint", key)]
        return ["--picker", self.picker, "--picker-tls", "plaintext", *endpoints]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def peers(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Peers]:
    async with AsyncExitStack() as owner:
        port, endpoints = 0, []
        for host in HOSTS:
            model, ready = await Process.python(
                "testbed.model_server", "--listen", f"{host}:{port}"
            )
            owner.push_async_callback(model.stop, 1)
            endpoints.append(ready["address"])
            port = int(ready["address"].rpartition(":")[2])
        picker, ready = await Process.python("testbed.picker", "--endpoints", ",".join(endpoints))
        owner.push_async_callback(picker.stop, 1)
        objects = [
            inference_pool(
                "llama", port, "epp", "FailOpen", annotations={"epp-client.dev/tls": "plaintext"}
            ),
            *service("epp", ready["address"]),
            *(pod(f"model-{number}", host) for number, host in enumerate(HOSTS)),
        ]
        manifests = tmp_path_factory.mktemp("pools") / "pools.yaml"
        manifests.write_text(yaml.safe_dump_all(objects))
        yield Peers(endpoints, ready["address"], manifests)


@pytest.fixture
def runtime() -> Iterator[Path]:
    """The folder for private folders. The path of a socket may have 107 characters: pytest's are longer."""
    with tempfile.TemporaryDirectory(prefix="up-") as folder:
        yield Path(folder)


@dataclass
class Up:
    """A running `epp-client up`."""

    process: Process
    url: str
    runtime: Path

    def child(self, name: str) -> psutil.Process | None:
        """Envoy, or the sidecar's control process."""
        for child in psutil.Process(self.process.pid).children():
            try:
                line = child.cmdline()
            except psutil.NoSuchProcess:
                continue
            # A child that has just ended has no command line. Until it executes its command, a child is the
            # Python that prepares this.
            if not line or ("-c" in line[:4] and "-E" in line):
                continue
            if (name == "envoy") == (Path(line[0]).name == "envoy"):
                return child
        return None

    def family(self) -> list[psutil.Process]:
        """All processes below."""
        return psutil.Process(self.process.pid).children(recursive=True)

    def pid(self, name: str) -> int:
        child = self.child(name)
        assert child is not None
        return child.pid


def command(peers: Peers, *options: str, source: Sequence[str] = ()) -> tuple[list[str], str]:
    """A command line with free ports, and the URL."""
    listen, admin, envoy_admin = free_ports(3)
    line = [
        *(sys.executable, "-m", "epp_client", "up"),
        *(source or ("--pools", str(peers.manifests))),
        *("--envoy", envoy_binary(), "--concurrency", "1"),
        *("--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}"),
        *("--envoy-admin", f"127.0.0.1:{envoy_admin}", *options),
    ]
    return line, f"http://127.0.0.1:{listen}"


@asynccontextmanager
async def running(
    peers: Peers, runtime: Path, *options: str, source: Sequence[str] = ()
) -> AsyncIterator[Up]:
    line, url = command(peers, *options, source=source)
    process = await Process.start("env", f"XDG_RUNTIME_DIR={runtime}", *line)
    up = Up(process, url, runtime)
    try:
        await until(lambda: "the gateway serves" in process.tail or not process.running)
        assert process.running, process.tail
        yield up
    finally:
        await process.stop(WAIT)


async def steered(up: Up, peers: Peers) -> bool:
    """Whether the picker's choice is honoured for each endpoint."""
    async with httpx.AsyncClient(timeout=20) as client:
        for endpoint in peers.endpoints:
            try:
                answer = await client.post(
                    f"{up.url}/echo",
                    headers={"test-epp-endpoint-selection": endpoint},
                    content=b"hello",
                )
            except httpx.TransportError:
                return False
            if answer.headers.get("x-model-server") != endpoint:
                return False
            if "x-inference-fallback" in answer.headers:
                return False
    return True


async def until_steered(up: Up, peers: Peers) -> None:
    async with asyncio.timeout(WAIT):
        while not await steered(up, peers):
            await asyncio.sleep(0.05)


async def test_it_steers_and_restarts_what_is_killed(peers: Peers, runtime: Path) -> None:
    async with running(peers, runtime, "--workers", "2") as up:
        assert await steered(up, peers)
        [folder] = runtime.iterdir()
        assert folder.stat().st_mode & 0o777 == 0o700
        for name, shown in (("envoy", "Envoy"), ("sidecar", "the sidecar")):
            killed = up.pid(name)
            os.kill(killed, signal.SIGKILL)
            await until(
                lambda name=name, killed=killed: (
                    (c := up.child(name)) is not None and c.pid != killed
                )
            )
            await until_steered(up, peers)
            assert f"{shown} has exited" in up.process.tail
        family = up.family()
        assert await up.process.stop(WAIT) == 0
        assert psutil.wait_procs(family, timeout=WAIT)[1] == []
        assert list(runtime.iterdir()) == []


async def test_sigusr1_switches_the_log_level_of_the_sidecar(peers: Peers, runtime: Path) -> None:
    async with running(peers, runtime) as up:
        os.kill(up.process.pid, signal.SIGUSR1)
        await until(lambda: '"to": "debug"' in up.process.tail)
        assert await steered(up, peers)
        await until(lambda: '"event": "decision"' in up.process.tail)
        os.kill(up.process.pid, signal.SIGUSR1)
        await until(lambda: '"to": "info"' in up.process.tail)
        assert await up.process.stop(WAIT) == 0


@pytest.mark.parametrize(("name", "shown"), [("envoy", "Envoy"), ("sidecar", "the sidecar")])
async def test_what_hangs_is_found_and_restarted(
    peers: Peers, runtime: Path, name: str, shown: str
) -> None:
    async with running(peers, runtime) as up:
        assert await steered(up, peers)
        hung = up.pid(name)
        os.kill(hung, signal.SIGSTOP)
        if name == "sidecar":
            assert await steered(up, peers), "its workers serve on"
        await until(lambda: f"{shown} hangs and is killed" in up.process.tail)
        await until(lambda: (c := up.child(name)) is not None and c.pid != hung)
        await until_steered(up, peers)
        assert await up.process.stop(WAIT) == 0


async def test_a_picker_and_endpoints_as_options_are_a_pool(peers: Peers, runtime: Path) -> None:
    async with running(peers, runtime, source=peers.options) as up:
        await until_steered(up, peers)
        assert await up.process.stop(WAIT) == 0


async def test_a_stream_that_is_open_at_sigterm_ends_whole(peers: Peers, runtime: Path) -> None:
    async with running(peers, runtime) as up:
        family, first = up.family(), asyncio.Event()
        stream = asyncio.create_task(streaming(up.url, 40, first))
        await asyncio.wait_for(first.wait(), WAIT)
        up.process.signal(signal.SIGTERM)
        host, _, port = up.url.removeprefix("http://").rpartition(":")
        await until(lambda: not accepts(host, int(port)))
        assert not stream.done(), "no new connection while the stream goes on"
        received = await asyncio.wait_for(stream, WAIT)
        assert received.count("data: {") == 40
        assert received.endswith("data: [DONE]\n\n")
        assert await asyncio.wait_for(up.process.exited(), WAIT) == 0
        assert psutil.wait_procs(family, timeout=WAIT)[1] == []
        assert list(runtime.iterdir()) == []


def accepts(host: str, port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((host, port)) == 0


@pytest.mark.parametrize("timeout", ["0", "0.5"])
async def test_a_stream_that_outlasts_the_drain_is_cut_and_the_exit_code_says_so(
    peers: Peers, runtime: Path, timeout: str
) -> None:
    async with running(peers, runtime, "--drain-timeout", timeout) as up:
        first = asyncio.Event()
        stream = asyncio.create_task(streaming(up.url, 400, first))
        await asyncio.wait_for(first.wait(), WAIT)
        up.process.signal(signal.SIGTERM)
        with pytest.raises(httpx.TransportError):
            await asyncio.wait_for(stream, WAIT)
        assert await asyncio.wait_for(up.process.exited(), WAIT) == 1
        assert "open requests are cut" in up.process.tail


async def test_its_processes_end_when_it_is_killed_and_the_next_one_cleans_up(
    peers: Peers, runtime: Path
) -> None:
    async with running(peers, runtime) as up:
        family = up.family()
        assert {"envoy"} <= {process.name() for process in family}
        await up.process.kill()
        assert psutil.wait_procs(family, timeout=WAIT)[1] == []
        left = set(runtime.iterdir())
    async with running(peers, runtime) as up:
        assert not left & set(runtime.iterdir())


async def test_a_pool_that_is_added_later_is_named_as_one_without_a_route(
    peers: Peers, runtime: Path, tmp_path: Path
) -> None:
    before = peers.manifests.read_text()
    manifests = tmp_path / "pools.yaml"
    manifests.write_text(before)
    async with running(replace(peers, manifests=manifests), runtime) as up:
        manifests.write_text(before + "---\n" + yaml.safe_dump(inference_pool("late", 1, None, "")))
        await until(lambda: '"without_route": ["default/late"]' in up.process.tail)
        assert await steered(up, peers)


async def test_it_waits_for_the_pools_of_an_api_server(
    peers: Peers, runtime: Path, tmp_path: Path
) -> None:
    objects = list(yaml.safe_load_all(peers.manifests.read_text()))
    async with double_running() as double:
        source = ["--kubernetes", "--kubeconfig", str(double.kubeconfig(tmp_path / "kubeconfig"))]
        line, url = command(peers, source=source)
        process = await Process.start("env", f"XDG_RUNTIME_DIR={runtime}", *line)
        try:
            await until(lambda: "there is no InferencePool yet" in process.tail)
            for found in objects:
                resource = BY_KIND[found["kind"]]
                double.objects.create(resource, "default", found)
                if "status" in found:
                    key = ("default", found["metadata"]["name"])
                    double.objects.replace(resource, key, {"status": found["status"]}, "status")
            await until(lambda: "the gateway serves" in process.tail)
            await until_steered(Up(process, url, runtime), peers)
        finally:
            assert await process.stop(WAIT) == 0


async def test_the_pods_of_a_selector_are_a_pool_without_the_crd(
    peers: Peers, runtime: Path, tmp_path: Path
) -> None:
    objects = list(yaml.safe_load_all(peers.manifests.read_text()))
    port = peers.endpoints[0].rpartition(":")[2]
    async with double_running() as double:
        double.objects.uninstall(INFERENCE_POOL)
        double.forbidden |= {(verb, "inferencepools") for verb in ("get", "list", "watch")}
        for found in (one for one in objects if one["kind"] == "Pod"):
            double.objects.create(BY_KIND["Pod"], "default", found)
            key = ("default", found["metadata"]["name"])
            double.objects.replace(BY_KIND["Pod"], key, {"status": found["status"]}, "status")
        source = [
            *("--kubernetes", "--kubeconfig", str(double.kubeconfig(tmp_path / "kubeconfig"))),
            *("--endpoint-selector", "app=model", "--endpoint-target-ports", port),
            *("--picker", peers.picker, "--picker-tls", "plaintext"),
        ]
        async with running(peers, runtime, source=source) as up:
            await until_steered(up, peers)
            assert await up.process.stop(WAIT) == 0


async def failed(line: list[str], runtime: Path) -> str:
    """The output of a command that ends with exit code 2."""
    process = await Process.start("env", f"XDG_RUNTIME_DIR={runtime}", *line)
    try:
        assert await asyncio.wait_for(process.exited(), WAIT) == 2, process.tail
    finally:
        await process.stop(1)
    assert list(runtime.iterdir()) == []
    return process.tail


async def test_a_port_in_use_is_named_before_anything_starts(peers: Peers, runtime: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        line, _ = command(peers, "--listen", address)
        said = await failed(line, runtime)
    assert said == f"epp-client: --listen {address}: Address already in use"


async def test_an_envoy_that_is_missing_is_named(peers: Peers, runtime: Path) -> None:
    line, _ = command(peers, "--envoy", "/none/envoy")
    assert (
        await failed(line, runtime) == "epp-client: --envoy /none/envoy: is not an executable file"
    )


async def test_an_envoy_that_refuses_its_configuration_ends_both(
    peers: Peers, runtime: Path
) -> None:
    line, _ = command(peers, "--tls-cert", "/none/cert.pem", "--tls-key", "/none/key.pem")
    said = await failed(line, runtime)
    assert "/none/key.pem" in said
    assert "Envoy has exited" in said
