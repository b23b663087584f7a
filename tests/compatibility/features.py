"""What an Envoy has to do for epp-client, each as requests that show it. What is missing raises."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable

import httpx

from testbed.stack import Stack
from tests.e2e.tools import echo, routable

BODY = bytes(range(256)) * 400
"""100 KB: several messages of ext_proc."""

Feature = Callable[[Stack, httpx.AsyncClient], Awaitable[None]]


def _whole(answer: httpx.Response, protocol: str) -> None:
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-http-version"] == protocol
    assert answer.json()["sha256"] == hashlib.sha256(BODY).hexdigest()


async def _picked(stack: Stack, client: httpx.AsyncClient, pool: str, protocol: str) -> None:
    for wanted in stack.endpoints:
        answer = await echo(client, stack, pool, BODY, test_epp_endpoint_selection=wanted)
        _whole(answer, protocol)
        assert answer.headers["x-model-server"] == wanted


async def _http1(stack: Stack, client: httpx.AsyncClient) -> None:
    await _picked(stack, client, "close", "1.1")


async def _h2c(stack: Stack, client: httpx.AsyncClient) -> None:
    await _picked(stack, client, "h2c", "2")


async def _replay(stack: Stack, client: httpx.AsyncClient) -> None:
    for dialect in ("close-before-pick", "die-mid-body"):
        _whole(await echo(client, stack, "open", BODY, x_picker_dialect=dialect), "1.1")


async def _refusal(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await echo(client, stack, "close", BODY, x_picker_dialect="pick-outside")
    assert answer.status_code == 503
    assert answer.headers["x-inference-error"] == "pick_outside_pool"


async def _streams(stack: Stack, client: httpx.AsyncClient) -> None:
    """Each event reaches the client before the next one is sent."""
    asked = {"stream": True, "max_tokens": 5, "token_interval_ms": 200}
    url = stack.pool_url("close") + "/v1/chat/completions"
    times: list[float] = []
    async with client.stream("POST", url, json=asked) as answer:
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data:"):
                times.append(asyncio.get_running_loop().time())
    assert len(times) == 6, "five tokens and the end"
    assert times[-1] - times[0] > 0.5, "the tokens came all at once"


async def _next_of_a_list(stack: Stack, client: httpx.AsyncClient) -> None:
    """An endpoint that takes no connection costs nothing when the picker named another one."""
    named = f"{stack.dead_endpoint},{stack.endpoints[2]}"
    answer = await echo(
        client, stack, "close", BODY, x_picker_dialect="pick-list", x_picker_list=named
    )
    _whole(answer, "1.1")
    assert answer.headers["x-model-server"] == stack.endpoints[2]


FEATURES: dict[str, Feature] = {
    "HTTP/1.1": _http1,
    "h2c": _h2c,
    "FailOpen replay": _replay,
    "FailClose refusal": _refusal,
    "event streams": _streams,
    "next endpoint of a list": _next_of_a_list,
}
"""By the name that docs/compatibility.md has for it."""


async def ready(stack: Stack) -> None:
    """Until Envoy knows the endpoints of the pools that are asked, if we tell it at all."""
    for pool in ("open", "close", "h2c"):
        await routable(stack, pool, stack.endpoints)
