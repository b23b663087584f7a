"""A simulated OpenAI-style model server: JSON and SSE answers over HTTP/1.1 or h2c on one port.

Every answer has its server (`x-model-server`) and HTTP version (`x-http-version`) as headers. There is no
model or tokenizer, only what a data plane sees of one.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import random
import signal
import socket
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    MutableMapping,
    Sequence,
)
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl

from hypercorn.asyncio import serve
from hypercorn.config import Config

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

TOKENS = 5
TOKEN_INTERVAL_MS = 5.0
MAX_TOKENS = 10_000
MAX_SIZE = 256 * 1024 * 1024
CHUNK = 64 * 1024


class Disconnected(Exception):
    """The client has disconnected."""


class BadRequest(Exception):
    """The request is invalid; the text tells why."""


class ModelServer:
    """The ASGI application."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.requests = 0
        self.aborts = 0
        """Requests whose client disconnected before the end of the answer."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
            return
        self.requests += 1
        exchange = _Exchange(scope, receive, send, self.name)
        route = _ROUTES.get(scope["path"], _not_found)
        try:
            await exchange.until_disconnect(route(exchange, self))
        except Disconnected:
            self.aborts += 1
        except BadRequest as error:
            await exchange.json(400, {"error": {"message": str(error)}})


class _Exchange:
    """One request, with methods to answer it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send, name: str) -> None:
        self.headers = {k.decode("latin-1"): v.decode("latin-1") for k, v in scope["headers"]}
        self.query = dict(parse_qsl(scope["query_string"].decode("latin-1")))
        self.send = send
        self._receive = receive
        self._body_ended = asyncio.Event()
        self.may_send_trailers = (
            "http.response.trailers" in scope["extensions"] and self.headers.get("te") == "trailers"
        )
        self._marks = [
            (b"x-model-server", name.encode()),
            (b"x-http-version", scope["http_version"].encode()),
        ]

    async def body(self) -> AsyncIterator[bytes]:
        """Yields the request body in pieces. Raises Disconnected."""
        while not self._body_ended.is_set():
            event = await self._receive()
            if event["type"] == "http.disconnect":
                raise Disconnected
            if not event.get("more_body"):
                self._body_ended.set()
            yield event.get("body", b"")

    async def json_body(self) -> dict[str, Any]:
        """The request body as a JSON object; an empty body gives an empty one. Raises BadRequest."""
        try:
            request = json.loads(b"".join([part async for part in self.body()]) or b"{}")
        except ValueError as error:
            raise BadRequest("the body is not JSON") from error
        if not isinstance(request, dict):
            raise BadRequest("the body is not a JSON object")
        return request

    def number(self, field: str, default: float, request: dict[str, Any] | None = None) -> float:
        """A number from the query, else a header (`max_tokens` is `x-max-tokens`), else the body."""
        header = self.headers.get("x-" + field.replace("_", "-"))
        for value in (self.query.get(field), header, (request or {}).get(field)):
            if value is None:
                continue
            try:
                number = float(value)
            except (TypeError, ValueError) as error:
                raise BadRequest(f"{field} is not a number") from error
            if not 0 <= number < float("inf"):
                raise BadRequest(f"{field} is out of range")
            return number
        return default

    async def start(self, status: int, headers: dict[str, str], *, trailers: bool = False) -> None:
        """Send the head of the answer."""
        named = [(key.encode(), value.encode("latin-1")) for key, value in headers.items()]
        head = {"status": status, "headers": [*named, *self._marks], "trailers": trailers}
        await self.send({"type": "http.response.start", **head})

    async def write(self, body: bytes, *, more: bool = True) -> None:
        """Send a piece of the answer."""
        await self.send({"type": "http.response.body", "body": body, "more_body": more})

    async def trailers(self, trailers: dict[str, str]) -> None:
        """Send trailers, which `start` has announced."""
        named = [(key.encode(), value.encode()) for key, value in trailers.items()]
        await self.send({"type": "http.response.trailers", "headers": named})

    async def json(self, status: int, answer: Any, **trailers: str) -> None:
        """Send a complete JSON answer, with trailers if the client accepts them."""
        body = json.dumps(answer).encode()
        headers = {"content-type": "application/json", "content-length": str(len(body))}
        with_trailers = bool(trailers) and self.may_send_trailers
        await self.start(status, headers, trailers=with_trailers)
        await self.write(body, more=False)
        if with_trailers:
            await self.trailers({key.replace("_", "-"): text for key, text in trailers.items()})

    async def until_disconnect(self, answering: Awaitable[None]) -> None:
        """Answer until the client disconnects. Raises Disconnected."""
        answer = asyncio.ensure_future(answering)
        gone = asyncio.create_task(self._gone())
        try:
            await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
            if not answer.done():
                raise Disconnected
            answer.result()
        finally:
            for task in (answer, gone):
                task.cancel()
            await asyncio.gather(answer, gone, return_exceptions=True)

    async def _gone(self) -> None:
        # Wait for the end of the body: a second reader would take events from the first.
        await self._body_ended.wait()
        while (await self._receive())["type"] != "http.disconnect":
            pass


async def _echo(exchange: _Exchange, _: ModelServer) -> None:
    """Answers with the request's data, or with `?size=` deterministic bytes in `?chunks=` pieces."""
    digest, length = hashlib.sha256(), 0
    async for part in exchange.body():
        digest.update(part)
        length += len(part)
    if "size" not in exchange.query:
        sha256 = digest.hexdigest()
        answer = {"size": length, "sha256": sha256, "headers": exchange.headers}
        await exchange.json(200, answer, x_body_sha256=sha256)
        return
    size = int(exchange.number("size", 0))
    if size > MAX_SIZE:
        raise BadRequest(f"size is above {MAX_SIZE}")
    chunks = int(exchange.number("chunks", -(-size // CHUNK)))
    sent = hashlib.sha256()
    trailers = exchange.may_send_trailers
    head = {"content-type": "application/octet-stream", "content-length": str(size)}
    await exchange.start(200, head, trailers=trailers)
    for piece in _pieces(size, chunks):
        sent.update(piece)
        await exchange.write(piece)
    await exchange.write(b"", more=False)
    if trailers:
        await exchange.trailers({"x-body-sha256": sent.hexdigest()})


_PATTERN = bytes(range(256)) * 257


def pattern(start: int, length: int) -> bytes:
    """The deterministic bytes of `/echo?size=`: at offset n is n modulo 256."""
    offset = start % 256
    whole = _PATTERN * (length // len(_PATTERN) + 1)
    return (whole + _PATTERN[:256])[offset : offset + length]


def _pieces(size: int, chunks: int) -> Iterator[bytes]:
    step = max(1, -(-size // max(chunks, 1)))
    for start in range(0, size, step):
        yield pattern(start, min(step, size - start))


async def _models(exchange: _Exchange, _: ModelServer) -> None:
    async for _part in exchange.body():
        pass
    model = {"id": "demo", "object": "model", "created": 0, "owned_by": "epp-client"}
    await exchange.json(200, {"object": "list", "data": [model]})


async def _health(exchange: _Exchange, server: ModelServer) -> None:
    async for _part in exchange.body():
        pass
    await exchange.json(200, {"requests": server.requests, "aborts": server.aborts})


async def _fail(exchange: _Exchange, _: ModelServer) -> None:
    """Answers with `?status=`."""
    async for _part in exchange.body():
        pass
    status = int(exchange.number("status", 500))
    if not 200 <= status <= 599:
        raise BadRequest("status is out of range")
    await exchange.json(status, {"error": {"message": "as you asked"}})


async def _not_found(exchange: _Exchange, _: ModelServer) -> None:
    async for _part in exchange.body():
        pass
    await exchange.json(404, {"error": {"message": "no such path"}})


async def _chat(exchange: _Exchange, server: ModelServer) -> None:
    await _complete(exchange, server, "chat.completion")


async def _text(exchange: _Exchange, server: ModelServer) -> None:
    await _complete(exchange, server, "text_completion")


async def _complete(exchange: _Exchange, server: ModelServer, kind: str) -> None:
    request = await exchange.json_body()
    chat = kind == "chat.completion"
    if not request.get("stream"):
        text = "Hello from " + server.name
        part = {"message": {"role": "assistant", "content": text}} if chat else {"text": text}
        await exchange.json(200, _completion(request, kind, {**part, "finish_reason": "stop"}))
        return
    tokens = min(int(exchange.number("max_tokens", TOKENS, request)), MAX_TOKENS)
    pause = exchange.number("token_interval_ms", TOKEN_INTERVAL_MS, request) / 1000
    await asyncio.sleep(exchange.number("first_token_ms", 0, request) / 1000)
    await exchange.start(200, {"content-type": "text/event-stream"})
    for event in events(request, kind, tokens):
        await exchange.write(event)
        # The time per token of a model.
        await asyncio.sleep(pause)
    await exchange.write(DONE, more=False)


DONE = b"data: [DONE]\n\n"


def events(request: dict[str, Any], kind: str, tokens: int) -> Iterator[bytes]:
    """The server-sent events that answer a request, without DONE. With a `seed` in the request the tokens
    depend on it, so that streams differ from each other."""
    chat = kind == "chat.completion"
    streamed = "chat.completion.chunk" if chat else kind
    dice = random.Random(str(request["seed"])) if "seed" in request else None
    for number in range(tokens):
        token = (
            f"token{number} " if dice is None else f"{dice.randbytes(dice.randrange(40)).hex()} "
        )
        choice: dict[str, Any] = {"delta": {"content": token}} if chat else {"text": token}
        choice["finish_reason"] = "stop" if number == tokens - 1 else None
        yield b"data: " + json.dumps(_completion(request, streamed, choice)).encode() + b"\n\n"


def _completion(request: dict[str, Any], kind: str, choice: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-demo",
        "object": kind,
        "created": 0,
        "model": request.get("model", "demo"),
        "choices": [{"index": 0, **choice}],
    }


_ROUTES: dict[str, Callable[[_Exchange, ModelServer], Awaitable[None]]] = {
    "/echo": _echo,
    "/health": _health,
    "/fail": _fail,
    "/v1/models": _models,
    "/v1/chat/completions": _chat,
    "/v1/completions": _text,
}


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


@asynccontextmanager
async def running_model_server(listen: str = "127.0.0.1:0") -> AsyncIterator[ModelServer]:
    """Serve at `ip:port` (0: any port; `[ip]:port` for IPv6) in this event loop. The server's `name` is its
    address."""
    host, _, port = listen.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if host.startswith("[") else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host.strip("[]"), int(port)))
    # From here on connections queue until hypercorn accepts them.
    listener.listen(1024)
    server = ModelServer(f"{host}:{listener.getsockname()[1]}")
    config = Config()
    # hypercorn closes this descriptor.
    config.bind = [f"fd://{listener.detach()}"]
    config.loglevel = "ERROR"
    config.keep_alive_timeout = 60
    # The default of 1000 is too low for benchmarks.
    config.keep_alive_max_requests = 1_000_000
    config.graceful_timeout = 1
    config.h2_max_concurrent_streams = 10_000
    stop = asyncio.Event()

    async def stopped() -> None:
        await stop.wait()

    serving = asyncio.create_task(
        serve(server, config, shutdown_trigger=stopped)  # type: ignore[arg-type]
    )
    try:
        yield server
    finally:
        stop.set()
        await serving


async def _main(listen: Sequence[str]) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    async with contextlib.AsyncExitStack() as owner:
        names = list[str]()
        for address in listen:
            host, _, port = address.rpartition(":")
            if port == "0" and names:
                port = names[0].rpartition(":")[2]
            server = await owner.enter_async_context(running_model_server(f"{host}:{port}"))
            names.append(server.name)
        print(json.dumps({"address": names[0], "addresses": names}), flush=True)
        await stop.wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--listen",
        nargs="+",
        default=["127.0.0.1:0"],
        help="ip:port, a model server for each; port 0 is any port, and then that of the first",
    )
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args().listen))
