"""The simulated model server over HTTP/1.1 and h2c on one port, and the gRPC one."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator

import grpc
import httpx
import pytest
import pytest_asyncio
from grpc import aio

from testbed.grpc_model import CHAT, ECHO, REPEAT, running_grpc_model
from testbed.model_server import ModelServer, pattern, running_model_server


@pytest_asyncio.fixture
async def server() -> AsyncIterator[ModelServer]:
    async with running_model_server() as running:
        yield running


@pytest_asyncio.fixture(params=["1.1", "2"])
async def client(
    request: pytest.FixtureRequest, server: ModelServer
) -> AsyncIterator[httpx.AsyncClient]:
    h2c = request.param == "2"
    base = f"http://{server.name}"
    async with httpx.AsyncClient(base_url=base, http1=not h2c, http2=h2c, timeout=10) as session:
        session.headers["x-expected-version"] = request.param
        yield session


async def test_each_answer_says_who_gave_it_and_how(
    client: httpx.AsyncClient, server: ModelServer
) -> None:
    for path in ("/v1/models", "/health", "/echo"):
        answer = await client.get(path)
        assert answer.status_code == 200
        assert answer.headers["x-model-server"] == server.name
        assert answer.headers["x-http-version"] == client.headers["x-expected-version"]
    assert (await client.get("/nowhere")).status_code == 404


async def test_echo_reports_the_body(client: httpx.AsyncClient) -> None:
    sent = bytes(range(256)) * 4000
    answer = (await client.post("/echo", content=sent, headers={"x-mine": "1"})).json()
    assert answer["sha256"] == hashlib.sha256(sent).hexdigest()
    assert answer["size"] == len(sent)
    assert answer["headers"]["x-mine"] == "1"


@pytest.mark.parametrize(("size", "chunks"), [(0, 1), (1, 1), (255, 7), (300_000, 3), (70_000, 70)])
async def test_echo_gives_deterministic_bytes(
    client: httpx.AsyncClient, size: int, chunks: int
) -> None:
    answer = await client.get("/echo", params={"size": size, "chunks": chunks})
    assert answer.content == pattern(0, size)
    assert len(answer.content) == size


@pytest.mark.parametrize(
    ("path", "content", "params"),
    [
        ("/v1/chat/completions", b"{", {}),
        ("/v1/chat/completions", b"[]", {}),
        ("/echo", b"", {"size": "-1"}),
        ("/echo", b"", {"size": "1e12"}),
        ("/v1/completions", b'{"stream": true}', {"max_tokens": "many"}),
    ],
)
async def test_nonsense_is_a_400(
    client: httpx.AsyncClient, path: str, content: bytes, params: dict[str, str]
) -> None:
    answer = await client.post(path, content=content, params=params)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "kind", "part"),
    [
        ("/v1/chat/completions", "chat.completion.chunk", "delta"),
        ("/v1/completions", "text_completion", "text"),
    ],
)
async def test_completions_whole_and_streamed(
    client: httpx.AsyncClient, path: str, kind: str, part: str
) -> None:
    whole = (await client.post(path, json={"model": "m"})).json()
    assert whole["model"] == "m"
    assert whole["choices"][0]["finish_reason"] == "stop"
    request = {"model": "m", "stream": True, "max_tokens": 4, "token_interval_ms": 0}
    answer = await client.post(path, json=request)
    assert answer.headers["content-type"] == "text/event-stream"
    events = [line[6:] for line in answer.text.splitlines() if line.startswith("data: ")]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert len(chunks) == 4
    assert all(chunk["object"] == kind and part in chunk["choices"][0] for chunk in chunks)


async def test_headers_and_query_set_the_token_count_too(client: httpx.AsyncClient) -> None:
    request = {"stream": True, "max_tokens": 9, "token_interval_ms": 0}
    by_header = await client.post("/v1/completions", json=request, headers={"x-max-tokens": "2"})
    assert by_header.text.count("token") == 2
    by_query = await client.post("/v1/completions?max_tokens=3", json=request)
    assert by_query.text.count("token") == 3


@pytest.mark.parametrize("h2c", [False, True], ids=["1.1", "2"])
async def test_a_client_that_leaves_a_stream_is_counted(server: ModelServer, h2c: bool) -> None:
    request = {"stream": True, "max_tokens": 10_000, "token_interval_ms": 1}
    base = f"http://{server.name}"
    # httpx does not reset an h2 stream that it leaves: only its connection's end tells the server.
    async with (
        httpx.AsyncClient(base_url=base, http1=not h2c, http2=h2c) as leaver,
        leaver.stream("POST", "/v1/chat/completions", json=request) as answer,
    ):
        async for line in answer.aiter_lines():
            assert line.startswith("data: ")
            break
    async with asyncio.timeout(60), httpx.AsyncClient(base_url=base) as watcher:
        while (await watcher.get("/health")).json()["aborts"] != 1:
            pass


async def test_the_grpc_model_echoes_streams_and_chats() -> None:
    async with running_grpc_model() as address, aio.insecure_channel(address) as channel:
        call = channel.unary_unary(ECHO)(b"once")
        assert await call == b"once"
        assert dict(await call.initial_metadata())["x-model-server"] == address
        stream = channel.unary_stream(REPEAT)(b"x", metadata=(("x-count", "4"),))
        assert [message async for message in stream] == [b"x"] * 4
        chat = channel.stream_stream(CHAT)()
        for text in (b"a", b"b"):
            await chat.write(text)
            assert await chat.read() == text
        await chat.done_writing()
        assert await chat.read() is aio.EOF
        with pytest.raises(aio.AioRpcError) as refused:
            await channel.unary_unary("/testbed.Model/None")(b"")
    assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
