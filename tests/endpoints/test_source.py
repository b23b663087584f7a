"""EndpointSource: what it publishes, and how it follows the name of a picker's host."""

import asyncio
import socket
from collections.abc import Sequence

import pytest

from epp_client.endpoints import source
from epp_client.endpoints.source import EndpointSource
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import EndpointSettings


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
    settings = EndpointSettings(endpoint=("10.0.0.7:8000",), picker=picker)
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
    monkeypatch.setattr(source, "LOOKUP_INTERVAL", 0.01)
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
    assert "127.0.0.1" in await source.look_up("localhost")
