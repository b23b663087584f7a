"""The running sidecar: builds the parts, starts them in order, drains them in the opposite order.

Knows every part's constructor and nothing of what the parts do.
"""

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator

import structlog

from epp_client.admin.server import AdminServer, Readiness
from epp_client.errors import SettingsError
from epp_client.metrics import Metrics
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.manifests import ManifestSource
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings
from epp_client.sidecar.data_plane import DataPlane
from epp_client.xds.ads import AdsServer

log = structlog.get_logger(__name__)


class Sidecar:
    """All parts of one process."""

    def __init__(self, settings: ServeSettings) -> None:
        self.settings = settings
        self.store = PoolStore()
        self.metrics = Metrics(transport=str(settings.transport))
        self.readiness = Readiness()
        self.data_plane = DataPlane(settings, self.store)
        self.admin = AdminServer(
            settings.admin, self.store, self.metrics, self.data_plane, self.readiness
        )
        self.admin_address = ""
        self._ads: AdsServer | None = None
        self._source: asyncio.Task[None] | None = None
        self._unsubscribe = self.store.subscribe(self._pools_changed)

    async def start(self) -> None:
        """Bind everything, then begin to read the pools.

        Raises:
            SettingsError: an address or socket that cannot be bound; nothing stays bound.
        """
        settings = self.settings
        self.readiness.set("pools", ok=False, reason="the pools have not been read yet")
        self.readiness.set("serving", ok=False, reason="starting")
        try:
            self.admin_address = await self.admin.start()
            if settings.xds_socket is not None:
                self._ads = AdsServer(
                    self.store, str(settings.xds_socket), settings.upstream_mode, self.metrics
                )
                await self._ads.start()
            await self.data_plane.start(str(settings.socket))
        except (OSError, RuntimeError) as error:
            await self.stop(0)
            raise SettingsError(f"cannot listen: {error}; is another sidecar running?") from error
        source = ManifestSource(
            settings.pools, self.store, settings.pool_defaults, asyncio.get_running_loop().time
        )
        self._source = asyncio.create_task(source.run())
        self._source.add_done_callback(self._source_ended)
        self.readiness.set("serving", ok=True)
        log.info("serving", socket=str(settings.socket), admin=self.admin_address)

    def _pools_changed(self, changed: set[PoolName]) -> None:
        self.readiness.set("pools", ok=True)
        self.metrics.pools_changed(self.store, changed)

    def _source_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.readiness.set("pools", ok=False, reason=f"the manifests are not followed: {error}")
            log.error("the manifest source stopped; the last state keeps serving", error=str(error))

    async def stop(self, timeout: float) -> None:
        """Drain: not ready, no new streams, the open ones have `timeout` seconds to finish.

        xDS and the admin page stay until the last stream is gone.
        """
        self.readiness.set("serving", ok=False, reason="draining")
        await self.data_plane.drain(timeout)
        if self._source is not None:
            self._source.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._source
        await self.data_plane.close()
        self._unsubscribe()
        if self._ads is not None:
            await self._ads.close()
        await self.admin.close()

    async def cut(self) -> None:
        """End the open streams of a running drain now; `stop` then comes to its end."""
        await self.data_plane.drain(0)


@contextlib.asynccontextmanager
async def running(settings: ServeSettings) -> AsyncIterator[Sidecar]:
    """A started sidecar, stopped without a grace at the end of the block."""
    sidecar = Sidecar(settings)
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.stop(0)


async def serve(settings: ServeSettings) -> None:
    """Serve until SIGTERM or SIGINT, then drain. A second signal cuts the drain short."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, asked.set)
    sidecar = Sidecar(settings)
    await sidecar.start()
    await asked.wait()
    asked.clear()
    drained = asyncio.create_task(sidecar.stop(settings.drain_timeout))
    again = asyncio.create_task(asked.wait())
    await asyncio.wait({drained, again}, return_when=asyncio.FIRST_COMPLETED)
    again.cancel()
    if not drained.done():
        log.warning("a second signal: open streams are cut")
        await sidecar.cut()
    await drained
    log.info("stopped")
