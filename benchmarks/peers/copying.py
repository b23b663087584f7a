"""A relay that copies bytes and reads none of them, on the event loop of the sidecar: no relay on this loop
that passes the same messages on can cost less.

    python -m benchmarks.peers.copying SOCKET PICKER

For each connection of Envoy to SOCKET it makes one to PICKER, which is host:port.
"""

import asyncio
import sys

import uvloop


class Side(asyncio.Protocol):
    """One connection. What it receives is written to the other one."""

    def __init__(self) -> None:
        self.transport: asyncio.Transport | None = None
        self.other: Side | None = None
        self._early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # A cast, as uvloop's transports are no subclasses of asyncio's.
        self.transport = transport  # type: ignore[assignment]

    def joined(self, other: "Side") -> None:
        """The other connection is there."""
        self.other = other
        for data in self._early:
            self.data_received(data)
        self._early.clear()

    def data_received(self, data: bytes) -> None:
        if self.other is None or self.other.transport is None:
            self._early.append(data)
        else:
            self.other.transport.write(data)

    def connection_lost(self, _: Exception | None) -> None:
        if self.other is not None and self.other.transport is not None:
            self.other.transport.close()


async def _main(socket: str, picker: str) -> None:
    loop = asyncio.get_running_loop()
    host, _, port = picker.rpartition(":")
    tasks: set[asyncio.Task[None]] = set()

    async def join(envoys: Side) -> None:
        _, pickers = await loop.create_connection(Side, host, int(port))
        pickers.joined(envoys)
        envoys.joined(pickers)

    def accept() -> Side:
        side = Side()
        task = asyncio.create_task(join(side))
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        return side

    server = await loop.create_unix_server(accept, socket)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_main(*sys.argv[1:]))
