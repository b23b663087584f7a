"""`epp-client standalone`, the proxy of llm-d's chart, with the chart's arguments and the real Envoy: a
picker with self-signed TLS, probes, an upload and a stream that outlive the picker, SIGTERM."""

import asyncio
import hashlib
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
import pytest
import pytest_asyncio
import trustme
import yaml

from testbed.envoy import envoy_binary
from testbed.ports import free_ports
from testbed.process import Process
from tests.e2e.tools import streaming
from tests.up.test_standing_in import CHART

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]
HOSTS = ("127.0.0.13", "127.0.0.14")
WAIT = 60.0


@pytest.fixture
def folder() -> Iterator[Path]:
    """Short, for the paths of sockets."""
    with tempfile.TemporaryDirectory(prefix="standalone-") as name:
        yield Path(name)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def endpoints() -> AsyncIterator[list[str]]:
    async with AsyncExitStack() as owner:
        found: list[str] = []
        for host in HOSTS:
            model, ready = await Process.python("testbed.model_server", "--listen", f"{host}:0")
            owner.push_async_callback(model.stop, 1)
            found.append(ready["address"])
        yield found


@dataclass
class Standalone:
    """A running `epp-client standalone`."""

    process: Process
    url: str
    status: str
    picker: Process
    endpoints: list[str]
    family: list[psutil.Process] = field(default_factory=list)


@asynccontextmanager
async def running(folder: Path, endpoints: list[str]) -> AsyncIterator[Standalone]:
    authority = trustme.CA()
    leaf = authority.issue_cert("picker.example")
    leaf.private_key_pem.write_to_path(str(folder / "tls.key"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "tls.crt"))
    picker, ready = await Process.python(
        "testbed.picker",
        *("--endpoints", ",".join(endpoints)),
        *("--tls-cert", str(folder / "tls.crt"), "--tls-key", str(folder / "tls.key")),
    )
    listen, status, admin, envoy_admin = free_ports(4)
    settings = {
        "listen": f"127.0.0.1:{listen}",
        "status-listen": f"127.0.0.1:{status}",
        # The environment overrides it.
        "admin": "127.0.0.1:1",
        "envoy-admin": f"127.0.0.1:{envoy_admin}",
        "picker": ready["address"],
        "endpoint": endpoints,
        "failure-mode": "FailOpen",
    }
    file = folder / "envoy.yaml"
    file.write_text(yaml.safe_dump(settings))
    process = await Process.start(
        *("env", f"XDG_RUNTIME_DIR={folder}", f"EPP_CLIENT_ENVOY={envoy_binary()}"),
        f"EPP_CLIENT_ADMIN=127.0.0.1:{admin}",
        *(sys.executable, "-m", "epp_client", "standalone", *CHART[:-1], str(file)),
    )
    made = Standalone(
        process, f"http://127.0.0.1:{listen}", f"http://127.0.0.1:{status}", picker, endpoints
    )
    try:
        async with asyncio.timeout(WAIT):
            while "the gateway serves" not in process.tail:
                assert process.running, process.tail
                await asyncio.sleep(0.05)
        made.family = psutil.Process(process.pid).children(recursive=True)
        yield made
    finally:
        await process.stop(WAIT)
        await picker.stop(1)


async def echo(url: str, body: bytes, **headers: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=60) as client:
        return await client.post(f"{url}/echo", content=body, headers=headers)


async def until_steered(made: Standalone) -> None:
    async with asyncio.timeout(WAIT):
        while True:
            for endpoint in made.endpoints:
                choice = {"test-epp-endpoint-selection": endpoint}
                answer = await echo(made.url, b"hello", **choice)
                if answer.headers.get("x-model-server") != endpoint or (
                    "x-inference-fallback" in answer.headers
                ):
                    break
            else:
                return
            await asyncio.sleep(0.05)


async def test_it_stands_in_for_the_charts_envoy(folder: Path, endpoints: list[str]) -> None:
    async with running(folder, endpoints) as made:
        assert '"ignored": ["--service-node envoy-proxy", "--log-level warn"' in made.process.tail
        await until_steered(made)
        async with httpx.AsyncClient(timeout=60) as client:
            # The readinessProbe of the chart, and its metrics.
            assert (await client.get(f"{made.status}/ready")).status_code == 200
            assert "envoy_" in (await client.get(f"{made.status}/stats/prometheus")).text
        # A client cannot choose where it goes, as it can with the chart's ORIGINAL_DST by header.
        elsewhere = {"x-gateway-destination-endpoint": "127.0.0.1:1"}
        assert (await echo(made.url, b"hello", **elsewhere)).status_code == 200

        begun = asyncio.Event()
        flowing = asyncio.create_task(streaming(made.url, 30, begun))
        await asyncio.wait_for(begun.wait(), WAIT)
        await made.picker.kill()
        received = await asyncio.wait_for(flowing, WAIT)
        assert received.count("data: {") == 30
        body = bytes(range(256)) * 4096
        answer = await echo(made.url, body)
        assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
        assert "x-inference-fallback" in answer.headers

        begun = asyncio.Event()
        flowing = asyncio.create_task(streaming(made.url, 30, begun))
        await asyncio.wait_for(begun.wait(), WAIT)
        made.process.signal(signal.SIGTERM)
        received = await asyncio.wait_for(flowing, WAIT)
        assert received.endswith("data: [DONE]\n\n")
        assert await asyncio.wait_for(made.process.exited(), WAIT) == 0
        assert psutil.wait_procs(made.family, timeout=WAIT)[1] == []


async def refused(folder: Path, content: str, *environment: str) -> str:
    """What it says of a file that cannot be used."""
    file = folder / "envoy.yaml"
    if content:
        file.write_text(content)
    process = await Process.start(
        "env", *environment, sys.executable, "-m", "epp_client", "standalone", "-c", str(file)
    )
    try:
        assert await asyncio.wait_for(process.exited(), WAIT) == 2, process.tail
    finally:
        await process.stop(1)
    return process.tail.replace(f"{folder}/", "")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "No such file or directory: 'envoy.yaml'"),
        ("a: [", "epp-client: envoy.yaml: while parsing"),
        ("- a", "envoy.yaml: is not a mapping of options of `epp-client up`"),
        ("lisen: 0.0.0.0:8081", "envoy.yaml: lisen: no such setting"),
        ("static_resources: {}", "the InferencePool cannot be told from POD_NAME=''"),
        ("listen: nowhere\nendpoint: 10.0.0.1:1", "'nowhere' is not of the form host:port"),
    ],
)
async def test_a_file_that_cannot_be_used_is_an_error_that_names_it(
    folder: Path, content: str, said: str
) -> None:
    assert said in await refused(folder, content)
