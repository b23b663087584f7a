"""The pages that go on: server-sent events for the page, and JSON lines of decisions for `epp-client tap`.

A client that does not read is disconnected (see `patience`). Their number is bounded.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from aiohttp import web

from epp_client.admin.live import LiveView, Wanted
from epp_client.admin.watching import Watching
from epp_client.observe.records import KEPT, Filter, record_json

MAX_STREAMS = 32
"""Open streams. Each costs a few milliseconds of CPU at every look."""
BEAT = 15.0
"""Seconds between two signs of life of a stream of decisions, so that a client notices a dead one."""

_HEADERS = {"cache-control": "no-store", "x-content-type-options": "nosniff"}


class Streams:
    """The open streams of one admin page."""

    def __init__(self, watching: Watching, head: Callable[[], dict[str, Any]]) -> None:
        """`head`: see `LiveView.messages`."""
        self._watching = watching
        self._head = head
        self._open: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """End all streams."""
        for task in self._open:
            task.cancel()
        await asyncio.gather(*self._open, return_exceptions=True)

    async def live(self, request: web.Request) -> web.StreamResponse:
        """The stream of the page. `q`, `limit`, `open` (pools, separated by commas) and `endpoints` say
        what it shows."""
        wanted = Wanted(
            request.query.get("q", "")[:300],
            _number(request, "limit", 100),
            tuple(name for name in request.query.get("open", "").split(",") if name),
            request.query.get("endpoints", "")[:300],
        )
        return await self._stream(request, "text/event-stream", self._looks(LiveView(wanted)))

    async def _looks(self, view: LiveView) -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        while True:
            for name, data in view.messages(self._watching.observer, self._head()):
                yield f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"
            await self._watching.looked()

    async def decisions(self, request: web.Request) -> web.StreamResponse:
        """The last decisions as a JSON list; with `follow=1` as JSON lines that go on. `last` is how many
        of the earlier ones come; the default is all in the list, and none before the lines that go on."""
        wanted = _filter(request)
        records = self._watching.observer.records
        if request.query.get("follow") != "1":
            last = _number(request, "last", 2 * KEPT)
            found = [record_json(one) for one in records.matching(wanted, last)]
            said = {"decisions": found, "missed": records.missed}
            return web.json_response(said, headers=_HEADERS)
        last = _number(request, "last", 0)
        return await self._stream(request, "application/x-ndjson", self._decisions(wanted, last))

    async def _decisions(self, wanted: Filter, last: int) -> AsyncIterator[str]:
        records = self._watching.observer.records
        number, missed, beat = records.last, records.missed, time.monotonic()
        # A first sign of life.
        yield "\n"
        for record in records.matching(wanted, last):
            yield json.dumps(record_json(record)) + "\n"
        while True:
            for record in records.since(number):
                number = record.number
                if wanted.wants(record.decision):
                    yield json.dumps(record_json(record)) + "\n"
            if records.missed > missed:
                yield json.dumps({"missed": records.missed - missed}) + "\n"
                missed = records.missed
            if time.monotonic() - beat > BEAT:
                beat = time.monotonic()
                yield "\n"
            await self._watching.heard(BEAT)

    async def _stream(
        self, request: web.Request, content_type: str, pieces: AsyncIterator[str]
    ) -> web.StreamResponse:
        """Write the pieces as they come, until the client leaves or the page closes."""
        if len(self._open) >= MAX_STREAMS:
            raise web.HTTPServiceUnavailable(
                text=f"{MAX_STREAMS} streams are open: close a page or an epp-client top or tap\n"
            )
        response = web.StreamResponse(headers=_HEADERS)
        response.content_type, response.charset = content_type, "utf-8"
        task = asyncio.create_task(self._write(request, response, pieces))
        self._open.add(task)
        task.add_done_callback(self._open.discard)
        try:
            await task
        except asyncio.CancelledError:
            task.cancel()
            raise
        return response

    async def _write(
        self, request: web.Request, response: web.StreamResponse, pieces: AsyncIterator[str]
    ) -> None:
        try:
            await response.prepare(request)
            async for piece in pieces:
                await response.write(piece.encode())
        except ConnectionResetError:
            # The client has left.
            return


def _number(request: web.Request, key: str, default: int) -> int:
    """A parameter of the query that is a number from 0 to 9999, or `default`.

    Raises:
        HTTPBadRequest: it is not such a number.
    """
    text = request.query.get(key, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 4):
        raise web.HTTPBadRequest(text=f"{key}: {text[:20]!r} is not a number from 0 to 9999\n")
    return int(text)


def _filter(request: web.Request) -> Filter:
    query = request.query
    return Filter(
        query.get("pool", ""),
        query.get("reason", ""),
        query.get("endpoint", ""),
        query.get("request_id", ""),
        query.get("failed") == "1",
    )
