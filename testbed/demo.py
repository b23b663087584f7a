"""The demo: sends requests through the real Envoy and prints a table of their results.

Each step states the expected result; the exit code tells whether all were met.
"""

import asyncio
import hashlib
import json
import os
import time
from collections.abc import Awaitable, Callable

import httpx
from rich.console import Console
from rich.table import Table

from epp_client.logs import configure
from epp_client.version import COMPILE, NOT_COMPILED, hot_path_compiled
from testbed.deaths import deaths_noted
from testbed.stack import Stack, running_stack
from testbed.traffic import RATE, Traffic, faults

Step = Callable[[Stack, httpx.AsyncClient], Awaitable[str]]
CHAT = {"model": "demo", "messages": [{"role": "user", "content": "hello"}]}


class Unexpected(AssertionError):
    """The result of a step is not the expected one."""


def expect(condition: bool, saw: str) -> None:
    """Fail the step unless `condition`, with the result `saw`."""
    if not condition:
        raise Unexpected(saw)


async def post(
    stack: Stack, client: httpx.AsyncClient, pool: str, path: str = "/echo", **more: object
) -> httpx.Response:
    """One POST to a pool."""
    content = more.pop("content", None)
    headers = {key: str(value) for key, value in more.items()}
    url = stack.pool_url(pool) + path
    if content is None:
        return await client.post(url, json=CHAT, headers=headers)
    assert isinstance(content, bytes)
    return await client.post(url, content=content, headers=headers)


async def steered(stack: Stack, client: httpx.AsyncClient) -> str:
    """Three picks, three pods."""
    for wanted in stack.endpoints:
        answer = await post(stack, client, "open", **{"test-epp-endpoint-selection": wanted})
        served = answer.headers.get("x-model-server")
        expect(answer.status_code == 200 and served == wanted, f"{answer.status_code} by {served}")
    return "3 requests, each where the picker said"


async def ordered_list(stack: Stack, client: httpx.AsyncClient) -> str:
    """The first host of the list is down."""
    alive = stack.endpoints[1]
    answer = await post(
        stack,
        client,
        "close",
        **{"x-picker-dialect": "pick-list", "x-picker-list": f"{stack.dead_endpoint},{alive}"},
    )
    served = answer.headers.get("x-model-server")
    expect(answer.status_code == 200 and served == alive, f"{answer.status_code} by {served}")
    return f"200 by the second entry, {served}"


async def h2c(stack: Stack, client: httpx.AsyncClient) -> str:
    """A pool whose appProtocol is kubernetes.io/h2c."""
    answer = await post(stack, client, "h2c")
    version = answer.headers.get("x-http-version")
    expect(answer.status_code == 200 and version == "2", f"{answer.status_code} HTTP/{version}")
    return "200, the pod saw HTTP/2"


async def streaming(stack: Stack, client: httpx.AsyncClient) -> str:
    """Server-sent events, token by token."""
    url = stack.pool_url("open") + "/v1/chat/completions"
    body = {**CHAT, "stream": True, "max_tokens": 20}
    events = 0
    async with client.stream("POST", url, json=body) as answer:
        async for line in answer.aiter_lines():
            events += line.startswith("data: ")
    expect(answer.status_code == 200 and events == 21, f"{answer.status_code}, {events} events")
    return "21 events, [DONE] included"


async def outside(stack: Stack, client: httpx.AsyncClient) -> str:
    """The picker names an endpoint that is not the pool's."""
    answer = await post(stack, client, "close", **{"x-picker-dialect": "pick-outside"})
    reason = answer.headers.get("x-inference-error")
    expect(answer.status_code == 503 and reason == "pick_outside_pool", f"{answer.status_code}")
    return f"503 {reason}"


async def shed(stack: Stack, client: httpx.AsyncClient) -> str:
    """The picker says 429: a refusal is an answer, under FailOpen too."""
    answer = await post(stack, client, "open", **{"x-picker-dialect": "refuse-429"})
    expect(answer.status_code == 429, str(answer.status_code))
    return "429, passed through"


async def spoofed(stack: Stack, client: httpx.AsyncClient) -> str:
    """A client tries to steer by itself."""
    answer = await post(stack, client, "close", **{"x-gateway-destination-endpoint": "192.0.2.1:1"})
    seen = answer.json()["headers"].get("x-gateway-destination-endpoint")
    expect(answer.status_code == 200 and seen in stack.endpoints, f"{answer.status_code} {seen}")
    return "the client's header was stripped"


async def killed_fail_open(stack: Stack, client: httpx.AsyncClient) -> str:
    """SIGKILL for the picker of a FailOpen pool; 5 MB must arrive."""
    await stack.pickers["open"].kill()
    body = os.urandom(5_000_000)
    answer = await post(stack, client, "open", content=body)
    whole = (
        answer.status_code == 200 and answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    )
    expect(whole, f"{answer.status_code} {answer.text[:80]}")
    return f"200 by {answer.headers['x-model-server']}, 5 MB intact"


async def killed_fail_close(stack: Stack, client: httpx.AsyncClient) -> str:
    """SIGKILL for the picker of a FailClose pool."""
    await stack.pickers["close"].kill()
    answer = await post(stack, client, "close")
    reason = answer.headers.get("x-inference-error", "")
    expect(answer.status_code == 503 and reason.startswith("picker_"), f"{answer.status_code}")
    return f"503 {reason}: {json.loads(answer.text)['error']['message']}"


STEPS: list[tuple[str, str, Step]] = [
    ("steered picks", "200 from the picked pod", steered),
    ("ordered list, first host down", "200 from the second", ordered_list),
    ("h2c pool", "200 over HTTP/2", h2c),
    ("streaming", "every event arrives", streaming),
    ("pick outside the pool", "503 with the reason", outside),
    ("the picker sheds load", "429 passes through", shed),
    ("a client steers by header", "stripped", spoofed),
    ("picker killed, FailOpen", "200, body intact", killed_fail_open),
    ("picker killed, FailClose", "503 with the reason", killed_fail_close),
]


async def run_demo(*, keep: bool) -> int:
    """Run every step; returns 0 if all results are as expected, else 1."""
    configure("console", "error")
    console = Console(width=None if os.isatty(1) else 140)
    console.print("starting Envoy, the sidecar, 2 pickers and 3 model servers ...")
    console.print(hot_path_line(), highlight=False)
    with deaths_noted() as deaths:
        failed = await _show(console, keep=keep)
    for death in deaths:
        console.print(str(death), style="red", markup=False)
    return 1 if failed or deaths else 0


def hot_path_line() -> str:
    """Whether the sidecar is compiled, and what to do if not."""
    if hot_path_compiled():
        return "the sidecar's hot path is compiled"
    return f"{NOT_COMPILED}; {COMPILE}"


async def _show(console: Console, *, keep: bool) -> int:
    """Run the steps and print the results; returns the number of failures."""
    async with running_stack() as stack, httpx.AsyncClient(timeout=15) as client:
        table = Table(title="What happened")
        for heading in ("step", "must be", "was", ""):
            table.add_column(heading, overflow="fold")
        failed = 0
        for name, stated, step in STEPS[: -2 if keep else None]:
            console.print(f"  {name} ...")
            try:
                was, mark = await step(stack, client), "[green]ok[/]"
            except (Unexpected, httpx.HTTPError, KeyError, ValueError) as error:
                was, mark = f"{type(error).__name__}: {error}", "[red]FAILED[/]"
                failed += 1
            table.add_row(name, stated, was, mark)
        console.print(table)
        if keep:
            await _stay(stack, client, console)
    return failed


async def _stay(stack: Stack, client: httpx.AsyncClient, console: Console) -> None:
    """Keep it running, with requests and faults, until Ctrl-C."""
    body = json.dumps(CHAT)
    url = stack.pool_url("open") + "/v1/chat/completions"
    admin = stack.sidecar.admin_address
    console.print(
        f"Still running, with {RATE:g} requests a second and a fault now and then; press Ctrl-C to stop. "
        f"The page: http://{admin}. Try:",
        style="bold",
        highlight=False,
    )
    for line in (
        f".venv/bin/epp-client status --admin {admin}",
        f".venv/bin/epp-client top --admin {admin}",
        f".venv/bin/epp-client tap --admin {admin} --failed",
        f"curl -i {url} -H 'content-type: application/json' -d '{body}'",
        f"curl -i {url} -H 'test-epp-endpoint-selection: {stack.endpoints[0]}' -d '{body}'",
        f"curl -i {stack.pool_url('close')}/echo -H 'x-picker-dialect: pick-outside' -d hi",
        f"curl http://{admin}/pools",
    ):
        console.print(f"  {line}", highlight=False, soft_wrap=True)

    def say(what: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False, markup=False)

    traffic = Traffic(stack, client)
    await asyncio.gather(traffic.run(), faults(stack, traffic, say))
