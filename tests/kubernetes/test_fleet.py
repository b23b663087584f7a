"""A fleet of sidecars and an API server that goes and returns: what they ask of it, second by second.

Virtual time and seeded dice: every figure here is the same in every run. What is simulated is the API
server alone; the reflectors are the real ones.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple, cast

import pytest

from epp_client.errors import ApiError, ApiFault
from epp_client.kubernetes.client.api import KubernetesApi, Page
from epp_client.kubernetes.client.resources import ENDPOINT_SLICE, INFERENCE_POOL, POD, SERVICE
from epp_client.kubernetes.follow.queries import Query
from epp_client.kubernetes.follow.reflector import PACE, Asked, Reflector
from tests.kubernetes.virtual_time import run

SIDECARS = 20
QUERIES = [
    Query(INFERENCE_POOL),
    *(
        Query(resource, f"team-{pool}")
        for pool in range(10)
        for resource in (POD, SERVICE, ENDPOINT_SLICE)
    ),
]
"""Of one sidecar: ten pools."""
WATCHES = SIDECARS * len(QUERIES)


class Request(NamedTuple):
    at: float
    verb: str


class Server:
    """One API server: refuses, or lists nothing and watches until it goes down. Notes every request."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.refusal: ApiError | None = None
        self.oldest = 1
        """The first version that it knows what happened since."""
        self.version = 1
        self.open = 0
        self._down = asyncio.Event()
        self._ended = False

    def go(self, refusal: ApiError) -> None:
        """Break every watch, and refuse what comes."""
        self.refusal = refusal
        self._break(ended=False)

    def end_watches(self) -> None:
        """End every watch in good order, as a server does that is about to stop; others are there."""
        self._break(ended=True)

    def _break(self, *, ended: bool) -> None:
        self._ended = ended
        self._down.set()
        self._down = asyncio.Event()

    def back(self, *, forgetful: bool = False) -> None:
        self.refusal = None
        if forgetful:
            self.version += 1
            self.oldest = self.version

    def _asked(self, verb: str) -> None:
        self.requests.append(Request(asyncio.get_running_loop().time(), verb))
        if self.refusal is not None:
            raise self.refusal

    async def list_page(self, *_: Any, **__: Any) -> Page:
        self._asked("list")
        await asyncio.sleep(0.02)
        return Page([], str(self.version), "")

    @asynccontextmanager
    async def watch(
        self, *_: Any, resource_version: str, timeout: float, **__: Any
    ) -> AsyncIterator[AsyncIterator[Any]]:
        self._asked("watch")
        if int(resource_version) < self.oldest:
            raise ApiError(ApiFault.GONE, "too old resource version", 410)
        self.open += 1
        try:
            yield self._events(timeout)
        finally:
            self.open -= 1

    async def _events(self, timeout: float) -> AsyncIterator[Any]:
        try:
            async with asyncio.timeout(timeout):
                await self._down.wait()
        except TimeoutError:
            return
        if not self._ended:
            raise UNREACHABLE
        nothing: tuple[Any, ...] = ()
        for event in nothing:
            yield event

    # --- what became of it ---

    def since(self, moment: float, verb: str) -> list[float]:
        """How long after `moment` each such request came."""
        return [at - moment for at, asked in self.requests if asked == verb and at >= moment]


UNREACHABLE = ApiError(ApiFault.UNREACHABLE, "connection refused")
OUTAGE, RETRY_AFTER = 300.0, 1.0
THROTTLED = ApiError(ApiFault.THROTTLED, "too many requests", 429, RETRY_AFTER)


def busiest(moments: list[float], window: float = 1.0) -> float:
    """The most of them within any `window` seconds, as a share of all watches of the fleet."""
    ordered, first, most = sorted(moments), 0, 0
    for index, moment in enumerate(ordered):
        while moment - ordered[first] >= window:
            first += 1
        most = max(most, index - first + 1)
    return most / WATCHES


@asynccontextmanager
async def following(server: Server) -> AsyncIterator[None]:
    """All reflectors of all sidecars, each with a watch that has been open for some time."""
    dice = random.Random(4).random
    api = cast("KubernetesApi", server)
    reflectors = [
        Reflector[Any](api, query, lambda found: found, lambda: None, Asked(), dice=dice)
        for _ in range(SIDECARS)
        for query in QUERIES
    ]
    tasks = [asyncio.create_task(reflector.run()) for reflector in reflectors]
    await asyncio.sleep(60)
    assert server.open == WATCHES
    server.requests.clear()
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def fleet(scenario: Callable[[Server, Callable[[], float]], Awaitable[None]]) -> None:
    """Run a scenario about a fleet that follows a server. It is given the clock as well."""

    async def whole() -> None:
        server = Server()
        async with following(server):
            await scenario(server, asyncio.get_running_loop().time)

    run(whole())


@pytest.mark.parametrize(("outage", "share"), [(5.0, 1 / 2), (60.0, 1 / 6), (300.0, 1 / 6)])
def test_a_server_that_returns_gets_no_herd_and_no_list(outage: float, share: float) -> None:
    async def scenario(server: Server, now: Callable[[], float]) -> None:
        server.go(UNREACHABLE)
        await asyncio.sleep(outage)
        server.back()
        returned = now()
        await asyncio.sleep(PACE.longest)
        assert server.open == WATCHES
        watches = server.since(returned, "watch")
        assert len(watches) == WATCHES, "each is asked for once"
        assert busiest(watches) < share
        assert server.since(returned, "list") == []

    fleet(scenario)


def test_a_server_that_has_forgotten_is_listed_once_each_and_as_spread() -> None:
    async def scenario(server: Server, now: Callable[[], float]) -> None:
        server.go(UNREACHABLE)
        await asyncio.sleep(60)
        server.back(forgetful=True)
        returned = now()
        # A 410 costs no second back-off.
        await asyncio.sleep(PACE.longest + 1)
        assert server.open == WATCHES
        lists = server.since(returned, "list")
        assert len(lists) == WATCHES
        assert busiest(lists) < 1 / 6
        assert len(server.since(returned, "watch")) == 2 * WATCHES

    fleet(scenario)


def test_a_server_that_is_away_is_asked_less_and_less() -> None:
    async def scenario(server: Server, now: Callable[[], float]) -> None:
        server.go(UNREACHABLE)
        left = now()
        await asyncio.sleep(OUTAGE)
        tried = server.since(left, "watch")
        first, second, last = (
            [at for at in tried if begin <= at < begin + 5] for begin in (0, 5, OUTAGE - 5)
        )
        assert len(first) > len(second) > len(last)
        assert busiest([at for at in tried if at > 2 * PACE.longest]) < 1 / 6
        assert len(tried) < WATCHES * (10 + OUTAGE / (PACE.longest / 2))

    fleet(scenario)


def test_a_server_that_forgets_again_and_again_is_listed_less_and_less() -> None:
    async def scenario(server: Server, now: Callable[[], float]) -> None:
        # older than its own lists
        server.oldest = server.version + 1
        server.go(UNREACHABLE)
        server.back()
        began = now()
        await asyncio.sleep(120)
        lists = server.since(began, "list")
        assert len(lists) < WATCHES * (10 + 120 / (PACE.longest / 2))
        assert busiest([at for at in lists if at > 60]) < 1 / 4

    fleet(scenario)


def test_those_who_are_told_to_come_later_do_not_come_together() -> None:
    async def scenario(server: Server, now: Callable[[], float]) -> None:
        server.go(THROTTLED)
        left = now()
        await asyncio.sleep(30)
        tried = server.since(left, "watch")
        # after the first refusal
        again = [at for at in tried if at >= 0.5]
        assert min(again) >= RETRY_AFTER, "sooner than the server has asked for"
        assert busiest(again, 0.1) < 1 / 6

    fleet(scenario)


def test_watches_that_are_ended_together_do_not_begin_together() -> None:
    """As one of several API servers does it that is about to stop: the others are there at once."""

    async def scenario(server: Server, now: Callable[[], float]) -> None:
        server.end_watches()
        ended = now()
        await asyncio.sleep(PACE.first)
        assert server.open == WATCHES
        assert busiest(server.since(ended, "watch"), PACE.first / 10) < 1 / 5
        assert server.since(ended, "list") == []

    fleet(scenario)
