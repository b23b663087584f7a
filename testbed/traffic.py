"""The traffic of a kept demo: a few requests a second, and a fault now and then, so that there is something
to see on the page, in `epp-client top` and `tap`, in metrics and logs."""

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import httpx

from testbed.stack import Stack, start_picker

RATE = 8.0
"""Requests per second, of all pools together."""
POOLS = ("open", "close", "h2c", "nopicker")
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8}


class Traffic:
    """The requests, and what is wrong with them at the moment."""

    def __init__(self, stack: Stack, client: httpx.AsyncClient) -> None:
        self._stack = stack
        self._client = client
        self._dice = random.Random(1)
        self._open: set[asyncio.Task[None]] = set()
        self.headers: dict[str, dict[str, str]] = {}
        """By pool: headers that make its picker do something."""

    async def run(self) -> None:
        """Send requests until cancelled."""
        try:
            while True:
                task = asyncio.create_task(self._request(self._dice.choice(POOLS)))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
                await asyncio.sleep(self._dice.expovariate(RATE))
        finally:
            for task in self._open:
                task.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)

    async def _request(self, pool: str) -> None:
        stream = self._dice.random() < 0.5
        url = self._stack.pool_url(pool) + ("/v1/chat/completions" if stream else "/echo")
        body = {**CHAT, "stream": stream}
        # What a fault does to the answer is for the page to show.
        with contextlib.suppress(httpx.HTTPError):
            await self._client.post(url, json=body, headers=self.headers.get(pool, {}))


Fault = Callable[[Stack, Traffic], "contextlib.AbstractAsyncContextManager[None]"]


@asynccontextmanager
async def stopped_picker(stack: Stack, _: Traffic) -> AsyncIterator[None]:
    """the picker of pool open is stopped: FailOpen serves without it"""
    stack.pickers["open"].signal(signal.SIGSTOP)
    try:
        yield
    finally:
        stack.pickers["open"].signal(signal.SIGCONT)


@asynccontextmanager
async def lying_picker(_: Stack, traffic: Traffic) -> AsyncIterator[None]:
    """the picker of pool close names endpoints outside the pool: FailClose refuses"""
    traffic.headers["close"] = {"x-picker-dialect": "pick-outside"}
    try:
        yield
    finally:
        del traffic.headers["close"]


@asynccontextmanager
async def dead_endpoint(stack: Stack, traffic: Traffic) -> AsyncIterator[None]:
    """the picker of pool h2c names a Pod that does not listen before another one"""
    listed = f"{stack.dead_endpoint},{stack.endpoints[0]}"
    traffic.headers["h2c"] = {"x-picker-dialect": "pick-list", "x-picker-list": listed}
    try:
        yield
    finally:
        del traffic.headers["h2c"]


@asynccontextmanager
async def killed_picker(stack: Stack, _: Traffic) -> AsyncIterator[None]:
    """the picker of pool close is killed: FailClose refuses"""
    address = stack.addresses["close"]
    await stack.pickers["close"].kill()
    try:
        yield
    finally:
        await start_picker(stack, "close", address)


FAULTS: tuple[Fault, ...] = (lying_picker, stopped_picker, dead_endpoint, killed_picker)


async def faults(
    stack: Stack,
    traffic: Traffic,
    say: Callable[[str], None],
    *,
    pause: float = 40.0,
    lasts: float = 25.0,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> None:
    """Inject one fault after the other until cancelled: each `lasts` seconds, with a `pause` before it."""
    while True:
        for fault in FAULTS:
            await sleep(pause)
            say(f"{fault.__doc__} ({lasts:g} s)")
            async with fault(stack, traffic):
                await sleep(lasts)
            say("mended")
