"""The admin page, asked by a real HTTP client over loopback."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType

import aiohttp
import pytest
from prometheus_client.parser import text_string_to_metric_families

from epp_client.admin.listening import MAX_HEADER_BYTES
from epp_client.admin.server import AdminServer, Readiness
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import News
from epp_client.metrics.registry import Metrics
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import (
    AppProtocol,
    EndpointPickerRef,
    FailureMode,
    InferencePool,
    PoolName,
)
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.tls_settings import ClientTls, TlsMode

LLAMA, QWEN = PoolName("default", "llama"), PoolName("default", "qwen")
ENDPOINTS = (
    Endpoint("10.0.0.1:8000", "10.0.0.1", 8000, "llama-0"),
    Endpoint("[fd00::2]:8000", "fd00::2", 8000, "llama-1", ready=False),
)
SNAPSHOTS = {
    LLAMA: PoolSnapshot(
        InferencePool(
            LLAMA,
            (("app", "llama"),),
            (8000,),
            AppProtocol.H2C,
            EndpointPickerRef("llama-epp", 9002, FailureMode.FAIL_OPEN),
        ),
        EndpointTable(MappingProxyType({e.key: e for e in ENDPOINTS}), 7),
        PickerTarget((), "llama-epp.default.svc", "Service default/llama-epp does not exist"),
        acknowledged=6,
    ),
    QWEN: PoolSnapshot(InferencePool(QWEN, (("app", "qwen"),), (8000, 8001))),
}
PROBLEMS = (
    Problem(Severity.WARNING, "is odd", "InferencePool default/llama", "spec.x", "pools.yaml", 3),
    Problem(Severity.ERROR, "not YAML", file="broken.yaml"),
)


class NoRequests:
    """A `CounterSource` of a sidecar that nobody has asked for anything."""

    async def totals(self) -> Counters:
        return Counters()

    def latest(self) -> Counters:
        return Counters()

    def news(self) -> News:
        return News([], 0, {}, {})

    def forget(self, pool: str) -> None:
        raise AssertionError(pool)


@pytest.fixture
def store() -> PoolStore:
    return PoolStore()


@pytest.fixture
def readiness() -> Readiness:
    return Readiness()


@pytest.fixture
async def address(store: PoolStore, readiness: Readiness) -> AsyncIterator[str]:
    server = AdminServer("127.0.0.1:0", store, Metrics("grpcio"), NoRequests(), readiness)
    yield await server.start()
    await server.close()


@pytest.fixture
async def client(address: str) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10)
    async with aiohttp.ClientSession(f"http://{address}", timeout=timeout) as session:
        yield session


async def test_alive_before_anything_is_ready(
    client: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.set("pools", ok=False, reason="not read yet")
    async with client.get("/livez") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_ready_when_every_condition_holds(
    client: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.set("pools", ok=False, reason="not read yet")
    readiness.set("pools", ok=True)
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_not_ready_says_why_in_text_and_in_json(
    client: aiohttp.ClientSession, readiness: Readiness
) -> None:
    readiness.set("pools", ok=False, reason="not read yet")
    readiness.set("serving", ok=False, reason="draining")
    readiness.set("xds", ok=True)
    async with client.get("/readyz") as answer:
        assert answer.status == 503
        assert await answer.text() == "pools: not read yet\nserving: draining\n"
    async with client.get("/readyz", headers={"accept": "application/json"}) as answer:
        assert answer.status == 503
        assert await answer.json() == {
            "ready": False,
            "reasons": {"pools": "not read yet", "serving": "draining"},
            "notes": {},
        }


async def test_a_note_is_said_though_we_are_ready(
    client: aiohttp.ClientSession, readiness: Readiness
) -> None:
    said = "stale for 3 s"
    readiness.note("kubernetes", lambda: said)
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\nkubernetes: stale for 3 s\n")
    said = ""
    async with client.get("/readyz") as answer:
        assert (answer.status, await answer.text()) == (200, "ok\n")


async def test_a_store_that_is_not_synced_says_so(client: aiohttp.ClientSession) -> None:
    async with client.get("/pools") as answer:
        assert await answer.json() == {"synced": False, "pools": [], "problems": []}


async def test_no_page_tells_where_keys_and_certificates_are(
    client: aiohttp.ClientSession, store: PoolStore
) -> None:
    tls = ClientTls(
        mode=TlsMode.VERIFIED,
        ca_file=Path("/secret/ca"),
        server_name="epp.example",
        cert_file=Path("/secret/cert"),
        key_file=Path("/secret/key"),
    )
    pool = SNAPSHOTS[LLAMA].pool
    pool = replace(pool, settings=pool.settings.model_copy(update={"tls": tls}))
    store.publish({LLAMA: replace(SNAPSHOTS[LLAMA], pool=pool)})
    for page in ("/pools", "/pools/default/llama", "/summary", "/readyz", "/metrics"):
        async with client.get(page) as answer:
            assert answer.status == 200
            assert "/secret" not in await answer.text()
    async with client.get("/pools/default/llama") as answer:
        assert (await answer.json())["settings"]["tls"] == {
            "mode": "verified",
            "server_name": "epp.example",
            "own_ca": True,
            "client_certificate": True,
        }


async def test_a_pool_is_described_in_full(client: aiohttp.ClientSession, store: PoolStore) -> None:
    store.publish(SNAPSHOTS, PROBLEMS)
    async with client.get("/pools/default/llama") as answer:
        assert answer.status == 200
        pool = await answer.json()
    settings = pool.pop("settings")
    assert settings["pick_timeout"] == 300.0
    assert pool == {
        "namespace": "default",
        "name": "llama",
        "selector": {"app": "llama"},
        "targetPorts": [8000],
        "appProtocol": "kubernetes.io/h2c",
        "failureMode": "FailOpen",
        "picker": {
            "addresses": [],
            "health": {},
            "problem": "Service default/llama-epp does not exist",
        },
        "problems": ["pools.yaml:3 InferencePool default/llama spec.x: is odd"],
        "generation": 7,
        "acknowledgedGeneration": 6,
        "endpoints": [
            {"endpoint": "10.0.0.1:8000", "pod": "llama-0", "state": "ready"},
            {"endpoint": "[fd00::2]:8000", "pod": "llama-1", "state": "draining"},
        ],
    }


async def test_the_list_has_every_pool_and_every_problem(
    client: aiohttp.ClientSession, store: PoolStore
) -> None:
    store.publish(SNAPSHOTS, PROBLEMS)
    async with client.get("/pools") as answer:
        listed = await answer.json()
    assert listed["synced"] is True
    assert [pool["name"] for pool in listed["pools"]] == ["llama", "qwen"]
    assert [pool["picker"] is None for pool in listed["pools"]] == [False, True]
    assert listed["problems"] == [str(problem) for problem in PROBLEMS]


async def test_a_pool_that_is_not_there_is_named_in_the_404(client: aiohttp.ClientSession) -> None:
    async with client.get("/pools/default/none") as answer:
        assert answer.status == 404
        assert await answer.json() == {"error": "no InferencePool default/none"}


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain"),
        ("*/*", "text/plain"),
        ("application/openmetrics-text;version=1.0.0", "application/openmetrics-text"),
    ],
)
async def test_the_exposition_format_is_negotiated(
    client: aiohttp.ClientSession, accept: str, content_type: str
) -> None:
    async with client.get("/metrics", headers={"accept": accept}) as answer:
        assert answer.status == 200
        assert answer.content_type == content_type
        families = {f.name for f in text_string_to_metric_families(await answer.text())}
    assert "epp_client_pools" in families


async def test_the_index_links_every_page_and_nothing_else(client: aiohttp.ClientSession) -> None:
    async with client.get("/") as answer:
        assert answer.content_type == "text/html"
        page = await answer.text()
    links = [part.partition('"')[0] for part in page.split('href="')[1:]]
    # the icon that browsers ask for otherwise
    links.remove("data:,")
    data = {"/pools", "/summary", "/status", "/decisions", "/events", "/metrics"}
    assert set(links) == data | {"/readyz", "/livez", "/runbook", "#pools"}
    assert "http" not in page.replace("http://www.w3.org/2000/svg", "")
    for link in links:
        async with client.get(link) as answer:
            assert answer.status == 200, link


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
@pytest.mark.parametrize("path", ["/", "/livez", "/readyz", "/metrics", "/pools"])
async def test_the_page_is_read_only(client: aiohttp.ClientSession, method: str, path: str) -> None:
    async with client.request(method, path, data=b"x" * 1024) as answer:
        assert answer.status == 405


async def test_a_header_beyond_the_bound_is_refused(client: aiohttp.ClientSession) -> None:
    async with client.get("/livez", headers={"x-large": "x" * (MAX_HEADER_BYTES + 1)}) as answer:
        assert answer.status == 400


async def test_closing_frees_the_port(store: PoolStore, readiness: Readiness) -> None:
    server = AdminServer("127.0.0.1:0", store, Metrics("grpcio"), NoRequests(), readiness)
    bound = await server.start()
    host, _, port = bound.rpartition(":")
    await server.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, int(port))


async def test_a_port_in_use_is_an_error(
    address: str, store: PoolStore, readiness: Readiness
) -> None:
    second = AdminServer(address, store, Metrics("grpcio"), NoRequests(), readiness)
    with pytest.raises(OSError, match="in use"):
        await second.start()
    await second.close()
