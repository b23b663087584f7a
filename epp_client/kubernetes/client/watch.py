"""Reads the events of one watch from its HTTP response. It never reconnects."""

import asyncio
import json
import socket
from collections.abc import Iterator
from typing import Any, NamedTuple

import aiohttp

from epp_client.errors import ApiError
from epp_client.kubernetes.client.faults import Call, refusal, unreachable

MAX_EVENT = 8 * 1024 * 1024
"""Bytes of one event. An object has at most 3 MiB in a request, and 1.5 MiB in etcd."""

CHUNK = 64 * 1024
"""Bytes parsed per turn of the event loop: about a millisecond."""

_KEEPALIVE = (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
"""TCP keepalive: the kernel probes a silent peer after 15 s, and closes the connection after 30 s."""


class Event(NamedTuple):
    """An event of type ADDED, MODIFIED, DELETED or BOOKMARK. An ERROR is raised as an ApiError."""

    type: str
    object: dict[str, Any]


class WatchStream:
    """An async iterator of events, which ends when the server ends the watch."""

    def __init__(
        self, call: Call, response: aiohttp.ClientResponse, server: str, idle_timeout: float
    ) -> None:
        self._call = call
        self._content = response.content
        self._server = server
        self._idle_timeout = idle_timeout
        self._rest = bytearray()
        self._lines: Iterator[bytes] = iter(())
        _keep_alive(response)

    def __aiter__(self) -> "WatchStream":
        return self

    async def __anext__(self) -> Event:
        """The next event.

        Raises:
            ApiError: the connection broke or was silent for too long, or the server sent an ERROR, such
            as GONE when it has no more history since the version of the watch.
        """
        while (line := next(self._lines, None)) is None:
            self._lines = iter(await self._read())
        try:
            event = json.loads(line)
            kind, data = event["type"], event["object"]
        except (ValueError, LookupError, TypeError) as error:
            raise self._broken("the response is not a watch event") from error
        if not isinstance(data, dict):
            raise self._broken("the response is not a watch event")
        if kind == "ERROR":
            raise refusal(self._call, int(data.get("code") or 500), data)
        return Event(kind, data)

    async def _read(self) -> list[bytes]:
        """The next complete lines, at least one."""
        while True:
            try:
                # Give other tasks a turn, however much has been received.
                await asyncio.sleep(0)
                async with asyncio.timeout(self._idle_timeout):
                    chunk = await self._content.read(CHUNK)
            except TimeoutError as error:
                text = f"silent for {self._idle_timeout:g} s"
                raise self._broken(text) from error
            except (aiohttp.ClientError, OSError) as error:
                raise self._broken(error) from error
            if not chunk:
                raise StopAsyncIteration
            self._rest += chunk
            if b"\n" in chunk:
                *lines, rest = self._rest.split(b"\n")
                self._rest = rest
                if found := [bytes(line) for line in lines if line.strip()]:
                    return found
            elif len(self._rest) > MAX_EVENT:
                raise self._broken(f"an event of more than {MAX_EVENT} bytes")

    def _broken(self, why: BaseException | str) -> ApiError:
        return unreachable(self._call, self._server, why)


def _keep_alive(response: aiohttp.ClientResponse) -> None:
    """Turn on TCP keepalive, so that the kernel notices a peer that vanished."""
    connection = response.connection
    transport = connection.transport if connection is not None else None
    found = transport.get_extra_info("socket") if transport is not None else None
    if found is None:
        return
    found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        # Linux has all of these options.
        if hasattr(socket, name):
            found.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
