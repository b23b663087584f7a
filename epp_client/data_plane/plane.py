"""DataPlane: everything in the sidecar that handles requests. There is one per process.

It has the ext_proc service on its socket, and the connections to the pickers. It reads the pools from the
store that it is given, and counts the results of requests in its counters.
"""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import structlog

from epp_client.data_plane.service import ExtProcService
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import News
from epp_client.picker.client import PickerClients
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings, TransportName, UpstreamMode
from epp_client.wire.socket_file import taken
from epp_client.wire.socket_names import SocketName
from epp_client.wire.transport import Server, Transport

if TYPE_CHECKING:
    from epp_client.data_plane.traces import Traces

log = structlog.get_logger(__name__)

HURRY = 1.0
"""Seconds before the end of a drain at which it stops waiting for pickers. The rest of each response needs
this time to reach its client."""


class Inherited(NamedTuple):
    """The socket of the settings, bound by the control process, which also watches its name."""

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
        self._traces = _traces(settings.otlp_endpoint)
        self.service = ExtProcService(
            store,
            self._pickers,
            self._counters,
            max_exchanges=settings.max_exchanges,
            max_retained_total=settings.max_retained_total,
            # Envoy's original_dst connects to a single address. If it gets a list, it answers 503.
            destinations=1 if settings.upstream_mode is UpstreamMode.ORIGINAL_DST else None,
            samples=settings.decision_samples,
            traces=self._traces,
            wanted=wanted,
        )
        self._drain_timeout = settings.drain_timeout
        self._server: Server | None = None
        self._unnamed: set[Server] = set()
        self._ending: set[asyncio.Task[None]] = set()
        self._inode: int | None = None

    @property
    def serving(self) -> bool:
        """Whether Envoy should send requests here. gRPC health checks are answered with this."""
        return self._server is not None and not self._draining

    @property
    def place(self) -> int | None:
        """When the socket got its name, None if the name now leads to another socket. It changes when
        another process takes over the name, with the same socket or another one."""
        return taken(self._socket, self._inode) if self._inode is not None else None

    async def totals(self) -> Counters:
        """The counters of all requests so far."""
        return self.latest()

    def latest(self) -> Counters:
        """The counters of all requests so far."""
        self._counters.retained_bytes = self.service.budget.used
        self._counters.pickers = self._pickers.states()
        return self._counters

    def news(self) -> News:
        """What was recorded since the last call."""
        return self.service.account.recorder.take(self._pickers.notes())

    def forget(self, pool: str) -> None:
        """Remove the counters of a deleted pool."""
        self._counters.pools.pop(pool, None)

    async def start(self) -> None:
        """Bind the Unix socket, or use the inherited one, and listen.

        Raises:
            OSError, RuntimeError: the socket cannot be bound.
        """
        self._server = await self._transport.serve(str(self._socket), self.service.accept)
        inherited = self._inherited
        self._inode = inherited.inode if inherited else self._socket.stat().st_ino

    @property
    def name(self) -> SocketName:
        """The name of the socket. It belongs to this process unless the socket is inherited."""
        return SocketName(
            self._socket, lambda: self._inode if self.serving else None, self.bind_again
        )

    async def bind_again(self) -> None:
        """The name was removed: serve on a new socket. Streams of the old socket may continue for the drain
        timeout.

        Raises:
            OSError, RuntimeError: the new socket cannot be bound.
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
        """Accept no new streams, and give the open ones `timeout` seconds to finish. 0 ends a running drain
        at once."""
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
        """Close the connections to pickers and stop following the pools. Call `drain` first."""
        await asyncio.gather(*self._ending)
        await self._pickers.close()
        if self._traces is not None:
            await self._traces.close()
        self.service.close()


def _traces(endpoint: str | None) -> "Traces | None":
    if endpoint is None:
        return None
    # Imported here because it takes 0.2 s, and few use it.
    from epp_client.data_plane.traces import Traces

    return Traces(endpoint)


def _transport(name: TransportName, plane: DataPlane, inherited: Inherited | None) -> Transport:
    if name is TransportName.GRPCIO:
        # Imported here because it costs 30 MB, which the native transport does not need.
        from epp_client.wire.grpcio import GrpcioTransport

        return GrpcioTransport(lambda: plane.serving)
    from epp_client.wire.native import NativeTransport

    sock = socket.socket(fileno=inherited.descriptor) if inherited else None
    return NativeTransport(lambda: plane.serving, inherited=sock)
