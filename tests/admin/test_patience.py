"""Clients of the admin page that take their time, or come in crowds."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from aiohttp import web

from epp_client.admin import patience
from epp_client.admin.patience import Door, punctual

LONG = bytes(50_000_000)


@pytest_asyncio.fixture
async def port(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[int]:
    monkeypatch.setattr(patience, "MAX_CONNECTIONS", 3)
    monkeypatch.setattr(patience, "REQUEST_SECONDS", 0.2)
    monkeypatch.setattr(patience, "READING_SECONDS", 0.2)

    async def long(_: web.Request) -> web.Response:
        return web.Response(body=LONG)

    async def late(_: web.Request) -> web.Response:
        await asyncio.sleep(0.5)
        return web.Response(text="late")

    application = web.Application(middlewares=[punctual])
    application.router.add_get("/long", long)
    application.router.add_get("/late", late)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    assert runner.server is not None
    server = await asyncio.get_running_loop().create_server(Door(runner.server), "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    await runner.cleanup()


async def to_the_end(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(60):
        with contextlib.suppress(ConnectionError):
            return await reader.read()
    return b""


async def test_a_client_that_asks_nothing_is_hung_up_on(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    assert await to_the_end(reader) == b""
    writer.close()


async def test_a_client_that_asks_byte_by_byte_is_hung_up_on(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    ended = asyncio.create_task(to_the_end(reader))
    for byte in b"GET /late HTTP/1.1\r\nhost: a\r\nx: " + b"y" * 10_000:
        if ended.done():
            break
        writer.write(bytes((byte,)))
        await asyncio.sleep(0.02)
    assert await ended == b""
    writer.close()


async def test_a_client_that_does_not_read_is_hung_up_on(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1000)
    writer.write(b"GET /long HTTP/1.1\r\nhost: a\r\n\r\n")
    # and the reader's small buffer is full
    await asyncio.sleep(1.5)
    assert len(await to_the_end(reader)) < len(LONG)
    writer.close()


async def test_an_answer_may_take_longer_than_the_question(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # and the connection is kept
    for _ in range(2):
        writer.write(b"GET /late HTTP/1.1\r\nhost: a\r\n\r\n")
        async with asyncio.timeout(60):
            answer = await reader.readuntil(b"late")
        assert answer.startswith(b"HTTP/1.1 200")
    writer.close()


async def test_a_crowd_is_not_let_in_and_room_is_found_again(port: int) -> None:
    for _ in range(3):
        crowd = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert [await to_the_end(reader) for reader, _ in crowd] == [b""] * 4
        for _, writer in crowd:
            writer.close()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /late HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")
    assert (await to_the_end(reader)).startswith(b"HTTP/1.1 200")
    writer.close()
