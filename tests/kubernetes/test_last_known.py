"""A start without the API server goes on from what an earlier process knew, until the server speaks."""

import asyncio
import resource
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from epp_client.kubernetes import pools
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import INFERENCE_POOL, POD
from epp_client.kubernetes.follow import last_known
from epp_client.kubernetes.follow.last_known import MAX_AGE, LastKnown, Memory
from epp_client.kubernetes.pools import KubernetesPools
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import KubernetesSettings
from testbed.kubernetes.double import listing
from tests.kubernetes.client import ApiServer
from tests.kubernetes.manifests import inference_pool
from tests.kubernetes.test_source import following, populate


def now() -> float:
    return asyncio.get_running_loop().time()


async def known(server: ApiServer, api: KubernetesApi) -> Memory:
    """What a source has learned of a pool and its Pods, as it comes out of a file."""
    await populate(server)
    async with following(server, api) as followed:
        await followed.until(lambda: len(followed.ready()) == 2)
        await followed.until(lambda: followed.missing == "")
        return Memory.model_validate_json(followed.source.memory().model_dump_json())


async def test_what_was_known_serves_until_the_server_is_back_and_then_its_word_does(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    memory = await known(api_server, api)
    double = api_server.double
    double.outage()
    await api_server.delete(POD, "llama-0")
    async with following(api_server, api) as followed:
        await followed.until(lambda: followed.source.failures())
        assert followed.pool() is None
        followed.source.recall(memory)
        await followed.until(lambda: followed.missing == "")
        pool = followed.pool()
        assert pool is not None
        assert followed.ready() == ["10.0.0.1:8000", "10.0.0.2:8000"]
        assert pool.picker is not None
        assert pool.picker.addresses == ("10.9.0.1:9002",)
        assert followed.source.stale() >= now() - memory.at - 1
        # nobody reports on what an earlier process knew
        assert followed.source.pools is None
        double.mend()
        await followed.until(lambda: followed.source.stale() == 0)
        assert followed.ready() == ["10.0.0.2:8000"]
        after = followed.pool()
        assert after is not None
        assert after.table.generation > pool.table.generation
        assert followed.source.pools is not None


async def test_what_the_server_has_said_is_not_replaced_by_what_was_known(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    memory = await known(api_server, api)
    await api_server.delete(POD, "llama-0")
    async with following(api_server, api) as followed:
        await followed.until(lambda: followed.missing == "")
        followed.source.recall(memory)
        await api_server.pod("llama-2", {"app": "llama"}, "10.0.0.3")
        await followed.until(lambda: len(followed.ready()) == 2)
        assert followed.ready() == ["10.0.0.2:8000", "10.0.0.3:8000"]
        assert followed.source.stale() == 0


async def test_a_pool_that_was_not_known_waits_for_the_server(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    memory = await known(api_server, api)
    await api_server.create(INFERENCE_POOL, inference_pool("qwen"))
    double = api_server.double
    double.fail(lambda asked: asked.resource is POD, code=500, times=float("inf"))
    async with following(api_server, api, first_publication=0.2) as followed:
        await followed.until(lambda: followed.source.failures())
        followed.source.recall(memory)
        await followed.until(lambda: followed.pool() is not None)
        assert len(followed.ready()) == 2
        qwen = followed.pool("qwen")
        assert qwen is not None
        assert not qwen.synced
        assert followed.missing is not None
        assert "app=qwen" in followed.missing


async def test_what_was_known_is_forgotten_once_the_server_has_said_all(
    api_server: ApiServer, api: KubernetesApi
) -> None:
    memory = await known(api_server, api)
    double = api_server.double
    double.outage()
    async with following(api_server, api, first_publication=0.2) as followed:
        await followed.until(lambda: followed.source.failures())
        followed.source.recall(memory)
        double.mend()
        await followed.until(lambda: followed.source.stale() == 0)
        await api_server.delete(INFERENCE_POOL, "llama")
        await followed.until(lambda: followed.pool() is None)
        double.fail(listing(POD), code=500, times=float("inf"))
        await api_server.create(INFERENCE_POOL, inference_pool("llama"))
        await followed.until(lambda: followed.pool() is not None)
        again = followed.pool()
        assert again is not None
        assert not again.synced


# --- the file ---


def memory(at: float, **more: str) -> Memory:
    return Memory(boot=more.get("boot", last_known._boot()), at=at)


async def test_the_file_says_what_was_written_and_is_nobody_elses(tmp_path: Path) -> None:
    file = LastKnown(tmp_path / "pools.json")
    for at in (100.0, 200.0):
        file.save(memory(at))
        assert file.load(200.0) == memory(at)
    assert stat.S_IMODE((tmp_path / "pools.json").stat().st_mode) == 0o600
    assert [found.name for found in tmp_path.iterdir()] == ["pools.json"]


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[" * 100_000,
        b'{"version": 2, "boot": "", "at": 1}',
        memory(100.0, boot="another").model_dump_json().encode(),
        memory(100.0 - MAX_AGE - 1).model_dump_json().encode(),
        memory(101.0).model_dump_json().encode(),
    ],
    ids=["empty", "nothing", "nested", "version", "another boot", "old", "to come"],
)
async def test_a_file_that_may_not_be_true_is_of_no_use(tmp_path: Path, text: bytes) -> None:
    path = tmp_path / "pools.json"
    path.write_bytes(text)
    assert LastKnown(path).load(100.0) is None


async def test_a_full_disk_leaves_the_file_before_and_nothing_beside_it(tmp_path: Path) -> None:
    file = LastKnown(tmp_path / "pools.json")
    file.save(memory(100.0))
    larger = memory(200.0)
    larger.others["services"] = [("default", "x" * 10_000, {})]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE,
        (4096, hard),
        # writes fail half-way, as on a full disk
    )
    try:
        file.save(larger)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert file.load(200.0) == memory(100.0)
    assert [found.name for found in tmp_path.iterdir()] == ["pools.json"]
    file.save(larger)
    assert file.load(200.0) == larger


async def test_no_file_and_no_folder(tmp_path: Path) -> None:
    file = LastKnown(tmp_path / "nowhere" / "pools.json")
    file.save(memory(100.0))
    assert file.load(100.0) is None


async def test_a_link_in_its_place_is_replaced_and_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("as it was")
    path = tmp_path / "pools.json"
    path.symlink_to(precious)
    LastKnown(path).save(memory(100.0))
    assert precious.read_text() == "as it was"
    assert not path.is_symlink()


# --- when it is written ---


@asynccontextmanager
async def running(
    server: ApiServer, path: Path
) -> AsyncIterator[tuple[KubernetesPools, PoolStore]]:
    settings = KubernetesSettings(
        kubeconfig=server.kubeconfig, namespaces=(server.namespace,), last_known=path
    )
    store, loop = PoolStore(), asyncio.get_running_loop()
    following = KubernetesPools(settings, store, PoolSettings(), loop.time, lambda _: None)
    task = asyncio.create_task(following.run())
    try:
        yield following, store
    finally:
        task.cancel()
        await asyncio.wait({task})


def pods(path: Path) -> set[str]:
    """The Pods in the file."""
    if not path.exists():
        return set()
    found = Memory.model_validate_json(path.read_bytes()).pods.values()
    return {pod.name for each in found for pod in each}


async def test_it_follows_what_is_known_and_stops_when_that_is_stale(
    api_server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "SAVE_INTERVAL", 0.01)
    monkeypatch.setattr(pools, "REFRESH_INTERVAL", 0.05)
    await populate(api_server)
    path, double = tmp_path / "pools.json", api_server.double
    async with asyncio.timeout(60), running(api_server, path) as (following, _):
        while pods(path) != {"llama-0", "llama-1"}:
            await asyncio.sleep(0.01)
        await api_server.pod("llama-2", {"app": "llama"}, "10.0.0.3")
        while len(pods(path)) != 3:
            await asyncio.sleep(0.01)
        at = Memory.model_validate_json(path.read_bytes()).at
        while Memory.model_validate_json(path.read_bytes()).at == at:
            # nothing has changed, and that is known
            await asyncio.sleep(0.01)
        double.outage()
        while not following.stale():
            await asyncio.sleep(0.01)
        before = path.read_bytes()
        await asyncio.sleep(0.2)
        assert path.read_bytes() == before
    assert path.read_bytes() == before


async def test_the_end_leaves_what_was_known_last(api_server: ApiServer, tmp_path: Path) -> None:
    await populate(api_server)
    path = tmp_path / "pools.json"
    name = str(PoolName(api_server.namespace, "llama"))
    async with asyncio.timeout(60), running(api_server, path) as (_, store):
        while name not in store.snapshots:
            await asyncio.sleep(0.01)
    assert pods(path) == {"llama-0", "llama-1"}


async def test_the_next_process_goes_on_from_it_once(api_server: ApiServer, tmp_path: Path) -> None:
    await populate(api_server)
    path, double = tmp_path / "pools.json", api_server.double
    name = str(PoolName(api_server.namespace, "llama"))
    async with asyncio.timeout(60), running(api_server, path) as (_, store):
        while name not in store.snapshots:
            await asyncio.sleep(0.01)
    double.outage()
    saved = path.read_bytes()
    async with asyncio.timeout(60), running(api_server, path) as (following, store):
        while not any(following.faults().values()):
            await asyncio.sleep(0.01)
        assert following.recall()
        while name not in store.snapshots:
            await asyncio.sleep(0.01)
        assert len(store.snapshots[name].table.ready) == 2
        assert following.stale() > 0
    # as old as it was
    assert path.read_bytes() == saved
