"""EndpointSource: what it publishes, and how it follows the name of a picker's host."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from epp_client import lookups
from epp_client.endpoints.listed import given_endpoints, pool_of, resolve_listed
from epp_client.endpoints.source import EndpointSource
from epp_client.pool.picker_host import Lookup
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import EndpointSettings
from testbed.ports import free_ports


class Names:
    """A resolver with an answer for each question. The last answer stays."""

    def __init__(self, answers: Sequence[tuple[str, ...] | Exception]) -> None:
        self.answers = [*answers]
        self.asked: list[str] = []

    async def __call__(self, host: str) -> tuple[str, ...]:
        self.asked.append(host)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def addresses(store: PoolStore) -> tuple[str, ...]:
    picker = store.snapshots["default/default"].picker
    assert picker is not None
    return picker.addresses


def followed(picker: str, names: Names) -> tuple[EndpointSource, PoolStore]:
    store = PoolStore()
    settings = EndpointSettings(endpoint=("10.0.0.7:8000",), picker=picker, health_check="off")
    return EndpointSource(settings, store, PoolSettings(), lambda: 0.0, look_up=names), store


async def test_an_address_is_not_looked_up() -> None:
    names = Names([()])
    followed_, store = followed("10.0.0.1:9002", names)
    await followed_.reload()
    assert addresses(store) == ("10.0.0.1:9002",)
    assert names.asked == []


async def test_a_failed_lookup_keeps_the_last_addresses() -> None:
    gone = socket.gaierror(-2, "Name or service not known")
    names = Names([gone, ("10.0.0.1",), gone, TimeoutError(), (), ("10.0.0.2",)])
    found, store = followed("epp:9002", names)
    seen = []
    for _ in range(6):
        await found.reload()
        seen.append(addresses(store))
    kept = ("10.0.0.1:9002",)
    assert seen == [(), kept, kept, kept, kept, ("10.0.0.2:9002",)]


async def test_a_host_without_an_address_is_a_problem_of_the_pool() -> None:
    found, store = followed("epp:9002", Names([socket.gaierror(-2, "Name or service not known")]))
    await found.reload()
    [problem] = store.problems
    assert str(problem) == (
        "InferencePool default/default picker: host epp has no address: Name or service not known"
    )


async def test_a_name_is_looked_up_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookups, "INTERVAL", 0.01)
    found, store = followed("epp:9002", Names([("10.0.0.1",), ("10.0.0.2",)]))
    changed = asyncio.Event()
    store.subscribe(lambda _: changed.set() if addresses(store) == ("10.0.0.2:9002",) else None)
    task = asyncio.create_task(found.run())
    try:
        await asyncio.wait_for(changed.wait(), 5)
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_localhost_has_an_address() -> None:
    assert "127.0.0.1" in await lookups.look_up("localhost")


# --- a file ---


class Live:
    """A running source of a file, and what its store has."""

    def __init__(self, store: PoolStore) -> None:
        self.store = store
        self.changed = asyncio.Event()
        store.subscribe(lambda _: self.changed.set())

    def keys(self) -> list[str]:
        table = self.store.snapshots["default/default"].table
        return [one.key for one in table.by_key.values() if one.ready]

    async def until(self, true: Callable[[], bool]) -> None:
        async with asyncio.timeout(20):
            while not (self.store.synced and true()):
                self.changed.clear()
                await self.changed.wait()


@contextlib.asynccontextmanager
async def following(path: Path, **defaults: float) -> AsyncIterator[Live]:
    store = PoolStore()
    live = Live(store)
    loop = asyncio.get_running_loop()
    settings = EndpointSettings(endpoints=path, picker="10.0.0.1:9002", health_check="off")
    found = EndpointSource(settings, store, PoolSettings.model_validate(defaults), loop.time)
    task = asyncio.create_task(found.run())
    try:
        yield live
    finally:
        task.cancel()
        await asyncio.wait({task})


def file_of(*ips: str) -> str:
    return "endpoints:\n" + "".join(
        f"- {{name: m{ip[-1]}, address: {ip}, port: 8000}}\n" for ip in ips
    )


async def test_an_edit_is_followed_and_what_left_drains(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(file_of("10.0.0.1", "10.0.0.2"))
    async with following(path, drain_grace=0.2) as live:
        await live.until(lambda: live.keys() == ["10.0.0.1:8000", "10.0.0.2:8000"])
        new = tmp_path / "new"
        new.write_text(file_of("10.0.0.2", "10.0.0.3"))
        new.rename(path)
        await live.until(lambda: live.keys() == ["10.0.0.2:8000", "10.0.0.3:8000"])
        table = live.store.snapshots["default/default"].table
        assert table.draining == 1
        await live.until(lambda: not live.store.snapshots["default/default"].table.draining)


async def test_the_links_of_a_config_map_are_followed(tmp_path: Path) -> None:
    for number, ip in enumerate(("10.0.0.1", "10.0.0.2")):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "endpoints.yaml").write_text(file_of(ip))
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "endpoints.yaml").symlink_to("..data/endpoints.yaml")
    async with following(tmp_path / "endpoints.yaml") as live:
        await live.until(lambda: live.keys() == ["10.0.0.1:8000"])
        (tmp_path / "..next").symlink_to("..1")
        (tmp_path / "..next").rename(tmp_path / "..data")
        await live.until(lambda: live.keys() == ["10.0.0.2:8000"])


async def test_a_broken_edit_keeps_the_last_valid_state(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(file_of("10.0.0.1"))
    async with following(path) as live:
        await live.until(lambda: live.keys() == ["10.0.0.1:8000"])
        path.write_text(file_of("10.0.0.1", "10.0.0.x"))
        await live.until(lambda: bool(live.store.problems))
        assert str(live.store.problems[0]).startswith(f"{path}:3 endpoints[1].address: '10.0.0.x'")
        assert live.keys() == ["10.0.0.1:8000"]
        path.write_text(file_of("10.0.0.2"))
        await live.until(lambda: live.keys() == ["10.0.0.2:8000"])
        assert live.store.problems == ()


async def test_a_first_load_that_fails_leaves_the_pool_unknown(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text("endpoints: [")
    async with following(path) as live:
        async with asyncio.timeout(20):
            while not live.store.problems:
                await asyncio.sleep(0.01)
        assert not live.store.synced
        path.write_text(file_of("10.0.0.1"))
        await live.until(lambda: live.keys() == ["10.0.0.1:8000"])


async def test_one_of_two_endpoints_of_an_address_drains(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    rank = "- {name: rank-1, address: 10.0.0.1, port: 8001}\n"
    path.write_text(file_of("10.0.0.1") + rank)
    async with following(path) as live:
        await live.until(lambda: len(live.keys()) == 2)
        path.write_text(file_of("10.0.0.1"))
        await live.until(lambda: len(live.keys()) == 1)
        assert live.store.snapshots["default/default"].table.draining == 1


async def test_cancellation_ends_every_task(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.yaml"
    path.write_text(file_of("10.0.0.1"))
    before = asyncio.all_tasks()
    async with following(path) as live:
        await live.until(lambda: True)
    assert asyncio.all_tasks() == before


async def test_the_first_state_has_been_checked() -> None:
    server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
    [dead] = free_ports(1)
    store = PoolStore()
    live = Live(store)
    states: list[list[str]] = []
    store.subscribe(lambda _: states.append(live.keys()))
    async with server:
        alive = server.sockets[0].getsockname()[1]
        settings = EndpointSettings(
            endpoint=(f"127.0.0.1:{alive}", f"127.0.0.1:{dead}"),
            health_check="tcp",
            health_check_interval=0.01,
        )
        clock = asyncio.get_running_loop().time
        task = asyncio.create_task(EndpointSource(settings, store, PoolSettings(), clock).run())
        try:
            await live.until(lambda: True)
            assert states == [[f"127.0.0.1:{alive}"]]
            assert [str(problem) for problem in store.problems] == [
                f"InferencePool default/default endpoint 127.0.0.1:{dead}: "
                "is not ready: connection refused"
            ]
            late = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", dead)
            async with late:
                await live.until(lambda: len(live.keys()) == 2)
            assert store.problems == ()
        finally:
            task.cancel()
            await asyncio.wait({task})


def test_many_endpoints_that_are_not_ready_are_a_few_problems() -> None:
    settings = EndpointSettings(endpoint=tuple(f"10.0.0.{n}:80" for n in range(1, 31)))
    listed = pool_of(settings, PoolSettings(), given_endpoints(settings))
    unready = dict.fromkeys(settings.endpoint, "is not ready: connection refused")
    found = resolve_listed(listed, Lookup(), None, 0.0, unready)
    assert found.snapshot.table.ready == ()
    assert len(found.problems) == 21
    assert found.problems[-1].text == "10 more endpoints are not ready"
