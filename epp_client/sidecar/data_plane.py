"""DataPlane: everything of the sidecar that touches requests; one per process.

The ext_proc service on its socket, and the connections to the pickers. What it knows of pools is in
the store that it is given; what came of the requests is in its counters.
"""

import structlog

from epp_client.picker.client import PickerClients
from epp_client.pool.store import PoolStore
from epp_client.relay.counters import Counters
from epp_client.settings import ServeSettings, TransportName
from epp_client.sidecar.ext_proc_service import ExtProcService
from epp_client.wire.transport import Server, Transport

log = structlog.get_logger(__name__)


class DataPlane:
    """Serves `socket` from `start` to `stop`."""

    def __init__(self, settings: ServeSettings, store: PoolStore) -> None:
        self._counters = Counters()
        self._draining = False
        self._transport = _transport(settings.transport, self)
        self._pickers = PickerClients(self._transport)
        self.service = ExtProcService(
            store,
            self._pickers,
            self._counters,
            max_exchanges=settings.max_exchanges,
            max_retained_total=settings.max_retained_total,
        )
        self._server: Server | None = None

    @property
    def serving(self) -> bool:
        """Whether Envoy should send requests here: what gRPC health checks are answered."""
        return self._server is not None and not self._draining

    async def totals(self) -> Counters:
        """What came of the requests so far."""
        self._counters.retained_bytes = self.service.budget.used
        return self._counters

    def forget(self, pool: str) -> None:
        """Drop the numbers of a pool that is no more."""
        self._counters.pools.pop(pool, None)

    async def start(self, socket: str) -> None:
        """Bind the Unix socket.

        Raises:
            OSError, RuntimeError: it cannot be bound.
        """
        self._server = await self._transport.serve(socket, self.service.accept)

    async def drain(self, timeout: float) -> None:
        """No new streams; the open ones have `timeout` seconds to finish. 0 cuts a running drain."""
        self._draining = True
        self.service.drain()
        if self._server is not None:
            log.info("draining", open_streams=self.service.open_sessions)
            await self._server.drain(timeout)

    async def close(self) -> None:
        """Let go of the pickers and the pools, after `drain`."""
        await self._pickers.close()
        self.service.close()


def _transport(name: TransportName, plane: DataPlane) -> Transport:
    if name is TransportName.GRPCIO:
        from epp_client.wire.grpcio import GrpcioTransport  # 30 MB: only for those who want it

        return GrpcioTransport()
    from epp_client.wire.native import NativeTransport

    return NativeTransport(lambda: plane.serving)
