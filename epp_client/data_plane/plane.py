"""DataPlane: everything of the sidecar that touches requests; one per process.

The ext_proc service on its socket, and the connections to the pickers. What it knows of pools is in
the store that it is given; what came of the requests is in its counters.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import structlog

from epp_client.data_plane.service import ExtProcService
from epp_client.metrics.counters import Counters
from epp_client.picker.client import PickerClients
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings, TransportName, UpstreamMode
from epp_client.wire.socket_file import taken
from epp_client.wire.socket_names import SocketName
from epp_client.wire.transport import Server, Transport

log = structlog.get_logger(__name__)

HURRY = 1.0
"""Seconds before a drain ends from which on pickers are not waited for; answers have to get to clients."""


class Inherited(NamedTuple):
    """The settings' socket, bound by the control process, which keeps its name."""

    descriptor: int
    inode: int


class DataPlane:
    """Serves the settings' socket from `start` to `drain`."""

    def __init__(
        self,
        settings: ServeSettings,
        store: PoolStore,
        inherited: Inherited | None = None,
        wanted: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`wanted`: see ExtProcService."""
        self._socket = Path(settings.socket)
        self._inherited = inherited
        self._counters = Counters()
        self._draining = False
        self._transport = _transport(settings.transport, self, inherited)
        self._pickers = PickerClients(self._transport)
        self.service = ExtProcService(
            store,
            self._pickers,
            self._counters,
            max_exchanges=settings.max_exchanges,
            max_retained_total=settings.max_retained_total,
            # Envoy's original_dst dials one address, and answers 503 to a list.
            destinations=1 if settings.upstream_mode is UpstreamMode.ORIGINAL_DST else None,
            wanted=wanted,
        )
        self._drain_timeout = settings.drain_timeout
        self._server: Server | None = None
        self._unnamed: set[Server] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._inode: int | None = None

    @property
    def serving(self) -> bool:
        """Whether Envoy should send requests here: what gRPC health checks are answered."""
        return self._server is not None and not self._draining

    @property
    def place(self) -> int | None:
        """When the socket was given its name; None when the name leads elsewhere. Another process that
        takes it over, with the same socket or another one, changes this."""
        return taken(self._socket, self._inode) if self._inode is not None else None

    async def totals(self) -> Counters:
        """What came of the requests so far."""
        self._counters.retained_bytes = self.service.budget.used
        self._counters.pickers = self._pickers.states()
        return self._counters

    def forget(self, pool: str) -> None:
        """Drop the numbers of a pool that is no more."""
        self._counters.pools.pop(pool, None)

    async def start(self) -> None:
        """Bind the Unix socket, or take the inherited one, and listen.

        Raises:
            OSError, RuntimeError: it cannot be bound.
        """
        self._server = await self._transport.serve(str(self._socket), self.service.accept)
        inherited = self._inherited
        self._inode = inherited.inode if inherited else self._socket.stat().st_ino

    @property
    def name(self) -> SocketName:
        """The socket's name, which is ours unless it is inherited."""
        return SocketName(
            self._socket, lambda: self._inode if self.serving else None, self.bind_again
        )

    async def bind_again(self) -> None:
        """The name was removed: serve on a new socket. The streams of the old one have the drain timeout.

        Raises:
            OSError, RuntimeError: it cannot be bound.
        """
        old = self._server
        await self.start()
        if old is not None:
            self._unnamed.add(old)
            ending = asyncio.create_task(old.drain(self._drain_timeout))
            self._ending.add(ending)
            ending.add_done_callback(lambda _: self._ended(old, ending))

    def _ended(self, old: Server, ending: "asyncio.Task[None]") -> None:
        self._unnamed.discard(old)
        self._ending.discard(ending)

    async def drain(self, timeout: float) -> None:
        """No new streams; the open ones have `timeout` seconds to finish. 0 cuts a running drain."""
        self._draining = True
        if self._server is not None:
            log.info("draining", open_streams=self.service.open_sessions)
            servers = [self._server, *self._unnamed]
            hurried = asyncio.get_running_loop().call_later(
                timeout - min(HURRY, timeout / 2), self.service.hurry
            )
            try:
                await asyncio.gather(*(server.drain(timeout) for server in servers))
            finally:
                hurried.cancel()

    async def close(self) -> None:
        """Let go of the pickers and the pools, after `drain`."""
        await asyncio.gather(*self._ending)
        await self._pickers.close()
        self.service.close()


def _transport(name: TransportName, plane: DataPlane, inherited: Inherited | None) -> Transport:
    if name is TransportName.GRPCIO:
        from epp_client.wire.grpcio import GrpcioTransport  # 30 MB: only for those who want it

        return GrpcioTransport(lambda: plane.serving)
    from epp_client.wire.native import NativeTransport

    sock = socket.socket(fileno=inherited.descriptor) if inherited else None
    return NativeTransport(lambda: plane.serving, inherited=sock)
