"""A simulated OpenAI-style model server: JSON and SSE answers over HTTP/1.1 or h2c on one port."""

import argparse
import asyncio
import hashlib
import json
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from hypercorn.asyncio import serve
from hypercorn.config import Config

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]


class ModelServer:
    """The ASGI application. Every answer says who gave it and over which protocol."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        body = await _body(receive)
        if body is None:
            return
        headers = {key.decode(): value.decode("latin-1") for key, value in scope["headers"]}
        marks = [
            (b"x-model-server", self.name.encode()),
            (b"x-http-version", scope["http_version"].encode()),
        ]
        if scope["path"] == "/echo":
            answer = {
                "size": len(body),
                "sha256": hashlib.sha256(body).hexdigest(),
                "headers": headers,
            }
            await _json(send, 200, answer, marks)
            return
        if scope["path"] == "/v1/models":
            await _json(send, 200, {"object": "list", "data": [{"id": "demo"}]}, marks)
            return
        try:
            request = json.loads(body or b"{}")
        except ValueError:
            await _json(send, 400, {"error": {"message": "the body is not JSON"}}, marks)
            return
        if request.get("stream"):
            await self._stream(send, request, marks)
        else:
            message = {"role": "assistant", "content": "Hello from " + self.name}
            await _json(send, 200, _completion(request, "message", message), marks)

    async def _stream(
        self, send: Send, request: dict[str, Any], marks: list[tuple[bytes, bytes]]
    ) -> None:
        head = [(b"content-type", b"text/event-stream"), *marks]
        await send({"type": "http.response.start", "status": 200, "headers": head})
        for number in range(min(int(request.get("max_tokens") or 5), 10_000)):
            chunk = _completion(request, "delta", {"content": f"token{number} "})
            event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
            await send({"type": "http.response.body", "body": event, "more_body": True})
            await asyncio.sleep(0.005)  # what a model needs for a token
        await send({"type": "http.response.body", "body": b"data: [DONE]\n\n"})

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        while True:
            event = await receive()
            await send({"type": f"{event['type']}.complete"})
            if event["type"] == "lifespan.shutdown":
                return


def _completion(request: dict[str, Any], kind: str, message: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-demo",
        "object": "chat.completion" if kind == "message" else "chat.completion.chunk",
        "created": 0,
        "model": request.get("model", "demo"),
        "choices": [{"index": 0, kind: message, "finish_reason": "stop"}],
    }


async def _body(receive: Receive) -> bytes | None:
    parts: list[bytes] = []
    while True:
        event = await receive()
        if event["type"] == "http.disconnect":
            return None
        parts.append(event.get("body", b""))
        if not event.get("more_body"):
            return b"".join(parts)


async def _json(send: Send, status: int, answer: Any, marks: list[tuple[bytes, bytes]]) -> None:
    body = json.dumps(answer).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        *marks,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _main(listen: str) -> None:
    host, _, port = listen.rpartition(":")
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    address = f"{host}:{listener.getsockname()[1]}"
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = "ERROR"
    config.keep_alive_timeout = 60
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    print(json.dumps({"address": address}), flush=True)

    async def stopped() -> None:
        await stop.wait()

    await serve(ModelServer(address), config, shutdown_trigger=stopped)  # type: ignore[arg-type]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--listen", default="127.0.0.1:0")
    asyncio.run(_main(parser.parse_args().listen))
