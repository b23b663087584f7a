"""What clients and pickers do wrong: oversized messages, and hanging up in every phase."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest
import pytest_asyncio

from epp_client.settings import TransportName
from testbed.conversation import Record
from testbed.stack import Stack, inference_pool, running_stack
from tests.e2e.tools import (
    add_objects,
    echo,
    ext_proc_service,
    metrics,
    record_of,
    recording_picker,
    settled,
    until,
    value,
)

pytestmark = pytest.mark.asyncio(loop_scope="session")


async def test_headers_as_large_as_envoy_takes_them(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    large = "x" * 50_000
    answer = await echo(client, stack, "close", x_large=large)
    assert answer.json()["headers"]["x-large"] == large
    too_large: dict[str, Any] = {"x_large": "x" * 120_000}
    too_many: dict[str, Any] = {f"x_{number}": "1" for number in range(250)}
    for headers in (too_large, too_many):
        # Beyond our bootstrap's limits, 96 KiB and 200 headers; Envoy may hang up while we still write.
        with contextlib.suppress(httpx.TransportError):
            async with httpx.AsyncClient() as other:
                assert (await echo(other, stack, "close", **headers)).status_code == 431
    assert (await echo(client, stack, "close")).status_code == 200


async def test_a_body_that_is_too_large_to_keep_still_flows(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    # max-retained-body is 16 MiB
    body = os.urandom(1024 * 1024) * 20
    for pool in ("open", "close"):
        answer = await echo(client, stack, pool, body, x_picker_dialect="streaming")
        assert answer.status_code == 200
        assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


async def test_a_picker_that_answers_more_than_envoy_takes(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    """A header of 5 MiB: whatever becomes of that request, the next one is not harmed."""
    answer = await echo(client, stack, "close", x_picker_dialect="oversized-mutation")
    assert answer.status_code >= 400
    assert (await echo(client, stack, "close")).status_code == 200
    await settled(stack)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def quiet(transport: TransportName) -> AsyncIterator[tuple[Stack, list[Record]]]:
    """A stack whose pool `told` has a picker that tells what it has seen."""
    async with running_stack(transport=transport, routes_to=["told"]) as stack:
        port = int(stack.endpoints[0].rpartition(":")[2])
        async with recording_picker("told", list(stack.endpoints)) as (objects, records):
            add_objects(stack, [*objects, inference_pool("told", port, "told", "FailOpen")])
            async with httpx.AsyncClient() as client:
                await until(client, stack, "told", lambda answer: answer.status_code == 200)
            yield stack, records


def head(stack: Stack, mark: str, *more: str, path: str = "/echo") -> bytes:
    url = urlsplit(stack.pool_url("told"))
    lines = [f"POST {url.path}{path} HTTP/1.1", f"host: {url.netloc}", f"x-mark: {mark}", *more]
    return "\r\n".join(lines).encode()


PHASES = {
    "within the headers": (["x-unfinished: "], b"", False),
    "before the body": (["content-length: 100000", "", ""], b"", False),
    "within the body": (["content-length: 100000", "", ""], b"x" * 50_000, False),
    "waiting for the pick": (
        ["x-picker-dialect: silent", "content-length: 5", "", ""],
        b"hello",
        False,
    ),
    "within the response": (
        ["x-max-tokens: 1000", "x-interval-ms: 50", "content-length: 16", "", ""],
        b'{"stream": true}',
        True,
    ),
}


@pytest.mark.parametrize("phase", PHASES)
async def test_a_client_that_hangs_up_leaves_nothing(
    quiet: tuple[Stack, list[Record]], client: httpx.AsyncClient, phase: str
) -> None:
    stack, records = quiet
    service = ext_proc_service(stack)
    await settled(stack)
    tasks = len(asyncio.all_tasks())
    lines, body, answered = PHASES[phase]
    mark = phase.replace(" ", "-")
    url = urlsplit(stack.url)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    path = "/v1/chat/completions" if answered else "/echo"
    writer.write(head(stack, mark, *lines, path=path) + body)
    await writer.drain()
    if answered:
        assert b"200 OK" in await reader.readuntil(b"data: ")
    elif phase != "within the headers":
        async with asyncio.timeout(60):
            while service.budget.used < len(body) or not service.open_sessions:
                await asyncio.sleep(0.01)
        # Behind it on the same connection: a stream that is reset at once may never be seen.
        assert (await echo(client, stack, "told")).status_code == 200
    writer.transport.abort()
    await settled(stack)
    assert service.budget.used == 0
    if phase != "within the headers":
        # the picker's stream is over as well
        await record_of(records, mark)
    async with asyncio.timeout(60):
        while len(asyncio.all_tasks()) > tasks:
            await asyncio.sleep(0.01)
    families = await metrics(client, stack)
    assert value(families, "epp_client_in_flight", pool="default/told") == 0
