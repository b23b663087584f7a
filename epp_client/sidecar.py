"""The running sidecar: builds the parts, starts them in order, drains them in the opposite order.

Knows every part's constructor and nothing of what the parts do.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

import structlog

from epp_client import collector
from epp_client.admin.server import AdminServer, Readiness
from epp_client.data_plane.plane import DataPlane
from epp_client.errors import SettingsError
from epp_client.manifests.source import ManifestSource
from epp_client.metrics.registry import Metrics
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.known import Known
from epp_client.pool.source import PoolSource
from epp_client.pool.store import PoolStore
from epp_client.settings import ServeSettings, UpstreamMode
from epp_client.wire.socket_names import SocketNames
from epp_client.workers.claims import Claims
from epp_client.workers.predecessor import Left, known_on, left_on
from epp_client.workers.supervisor import Workers
from epp_client.xds.ads import AdsServer

log = structlog.get_logger(__name__)

SYNC_PATIENCE = 5.0
"""Seconds that the pools may take before we look who serves or keeps requests meanwhile. If nobody does,
they get a clear refusal instead of no answer at all: Envoy goes on asking for about 10 s."""
KEPT_PATIENCE = 30.0
"""Seconds for all that a start waits for, while requests are kept (in sockets that we have claimed, or by
a holder: Envoy waits a minute) or somebody else serves them. Then they get what answer there is."""
UNSERVED_PATIENCE = 0.5
"""As long at most for an Envoy, or for relays from before, of whom there is no sign."""


class Sidecar:
    """All parts of one process."""

    def __init__(
        self,
        settings: ServeSettings,
        claims: Claims | None = None,
        *,
        upgraded: bool = False,
    ) -> None:
        """`claims` are the relay's sockets as far as they have been claimed already. `upgraded`: this
        process was another program before, whose workers may serve."""
        self.settings = settings
        self._claims = claims or Claims(settings.sockets)
        self._upgraded = upgraded
        self.store = PoolStore()
        self.metrics = Metrics(transport=str(settings.transport))
        self.readiness = Readiness()
        self.relay: DataPlane | Workers
        if settings.workers:
            workers = Workers(settings, self.store, self._workers_changed, self.want, self._claims)
            self.readiness.note("hold", lambda: workers.unheld)
            self.relay = workers
        else:
            self.relay = DataPlane(settings, self.store, wanted=lambda pool: self.want((pool,)))
        self.admin = AdminServer(
            settings.admin,
            self.store,
            self.metrics,
            self.relay,
            self.readiness,
            settings.admin_hosts,
        )
        self.admin_address = ""
        self._ads: AdsServer | None = None
        self._source: PoolSource | None = None
        self._following: asyncio.Task[None] | None = None
        self._recalled = False
        self._unsubscribe = self.store.subscribe(self._pools_changed)
        self._synced = asyncio.Event()
        self._naming: asyncio.Task[None] | None = None
        self._stopped = False
        self._poolless = False
        self.readiness.note("no-pool", self._no_pool)

    async def start(self) -> None:
        """Claim the relay's sockets, bind the admin page and ADS, read the pools, tell Envoy, then serve.

        Requests that come meanwhile wait in the claimed sockets, so they meet a sidecar that knows its
        pools and whose Envoy knows them too, however slow the machine is. Where somebody else serves the
        sockets (workers of the process before) or keeps them (a holder), that is who the requests are with.

        Envoy has an endpoint before we pick it, and as long as those workers may.

        Raises:
            SettingsError: an address or socket that cannot be bound; nothing stays bound.
        """
        settings = self.settings
        self.readiness.set("pools", ok=False, reason="the pools have not been read yet")
        self.readiness.set("serving", ok=False, reason="starting")
        kept_until = asyncio.get_running_loop().time() + KEPT_PATIENCE
        try:
            self._claim()
            self.admin_address = await self.admin.start()
            if settings.xds_socket is not None:
                self._ads = AdsServer(
                    self.store,
                    str(settings.xds_socket),
                    settings.upstream_mode,
                    self.metrics,
                    self._followed,
                )
                await self._ads.start()
            self._follow_pools()
            asking = asyncio.create_task(self._known_before())
            try:
                await self._pools_known(kept_until)
                self._check_source()
                known = await self._answered(asking)
            finally:
                asking.cancel()
            if self._ads is not None:
                self._ads.begin(known)
                await self._envoy_told(self._ads, kept_until, served=bool(known))
            await self.relay.start()
        except (OSError, RuntimeError, SettingsError) as error:
            await self.stop(0)
            taken = "; is another sidecar running?" if "in use" in str(error) else ""
            raise SettingsError(f"cannot start: {error}{taken}") from error
        self.readiness.set("serving", ok=True)
        self._keep_names()
        collector.settle()
        log.info("serving", sockets=[*map(str, settings.sockets)], admin=self.admin_address)

    def _keep_names(self) -> None:
        relay = self.relay
        names = relay.names if isinstance(relay, Workers) else [relay.name]
        if self._ads is not None:
            names.append(self._ads.name)
        self._naming = asyncio.create_task(SocketNames(names, self._names_changed).run())

    def _names_changed(self, names: SocketNames) -> None:
        self.readiness.set("sockets", ok=not names.trouble, reason=names.trouble)

    def _claim(self) -> None:
        # else the relay binds its socket itself, in this process
        if self.settings.workers:
            self._claims.claim()

    async def _known_before(self) -> Known:
        """What relays from before may pick, if Envoy takes endpoints from us: else it matters to nobody."""
        if self._ads is None or self.settings.upstream_mode is UpstreamMode.ORIGINAL_DST:
            return {}
        return await known_on(self._claims.others, KEPT_PATIENCE)

    async def _answered(self, asking: "asyncio.Task[Known]") -> Known:
        """What they say. A holder's sockets take the question also when nobody is there to answer: then it
        had the time that the pools took, and `UNSERVED_PATIENCE`."""
        if self.settings.hold is not None and not self._upgraded:
            await asyncio.wait({asking}, timeout=UNSERVED_PATIENCE)
            return asking.result() if asking.done() else {}
        return await asking

    async def _envoy_told(self, ads: AdsServer, kept_until: float, *, served: bool) -> None:
        """Until an Envoy has acknowledged what we have, if there is a sign of one: it is connected, or has
        requests in the claimed sockets, or somebody else has `served` it till now.

        With `original_dst` requests alone are no sign: such an Envoy can reach every endpoint as it is,
        and need not take anything from ADS."""
        if await ads.told(UNSERVED_PATIENCE):
            return
        knocked = (
            self.settings.upstream_mode is not UpstreamMode.ORIGINAL_DST and self._claims.knocked
        )
        if served or ads.connected or knocked:
            left = kept_until - asyncio.get_running_loop().time()
            if not await ads.told(max(0.0, left)):
                log.warning(
                    "no Envoy has acknowledged its endpoints: picks may name some that it does not have",
                    connected=ads.connected,
                )

    async def _pools_known(self, kept_until: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_PATIENCE):
                    await self._synced.wait()
                return
            # who served when we looked first may have gone since
            self._claim()
            left = await left_on(self._claims.others, self._claims.any)
            if left is not Left.SERVING and self._source is not None and not self._recalled:
                self._recalled = True
                if self._source.recall():
                    continue
            if left is Left.REFUSING or (left is Left.KEEPING and loop.time() > kept_until):
                return

    def _source_of(self, settings: ServeSettings) -> PoolSource:
        clock, defaults = asyncio.get_running_loop().time, settings.pool_defaults
        if settings.kubernetes is None:
            assert settings.pools is not None
            return ManifestSource(settings.pools, self.store, defaults, clock, self._listed)
        # 70 MB: only when it is used
        from epp_client.kubernetes.pools import KubernetesPools

        kubernetes = KubernetesPools(settings.kubernetes, self.store, defaults, clock, self._listed)
        self.metrics.follow_api(kubernetes)
        return kubernetes

    def _follow_pools(self) -> None:
        source = self._source = self._source_of(self.settings)
        self.readiness.note("kubernetes", source.staleness)
        self._following = asyncio.create_task(source.run())
        self._following.add_done_callback(self._source_ended)

    def _listed(self, missing: str) -> None:
        """How far the first reading of the pools has come. Once ready, a stale sidecar stays ready."""
        if not self._synced.is_set():
            self.readiness.set("pools", ok=not missing, reason=missing)
            if not missing:
                self._synced.set()

    def _pools_changed(self, changed: set[PoolName]) -> None:
        self.metrics.pools_changed(self.store, changed)
        poolless = bool(why := self._no_pool())
        if poolless and not self._poolless:
            log.warning("no InferencePool is served", hint=why)
        self._poolless = poolless

    def _no_pool(self) -> str:
        """Why requests can only be refused though all is well; empty while there is a pool."""
        if not self.store.synced or self.store.snapshots:
            return ""
        where = self._source.where if self._source is not None else "the source"
        return (
            f"{where} has no InferencePool that can be served, so every request is refused as pool_unknown;"
            " /pools lists what was not read"
        )

    async def _followed(self) -> None:
        if isinstance(self.relay, Workers):
            await self.relay.followed()

    def want(self, pools: Collection[str]) -> None:
        """Picks wait for endpoints of these pools."""
        if self._ads is not None:
            self._ads.want(pools)

    def _workers_changed(self, workers: Workers) -> None:
        self.metrics.workers.set(workers.serving)
        reason = "no relay worker is running"
        self.readiness.set("workers", ok=workers.serving > 0, reason=reason)

    async def replace_workers(self) -> None:
        """Put fresh relay workers in the place of the running ones; no stream is cut."""
        if isinstance(self.relay, Workers):
            await self.relay.replace()

    @property
    def leaving(self) -> int:
        """Workers that have been replaced and finish their streams."""
        return self.relay.leaving if isinstance(self.relay, Workers) else 0

    def _check_source(self) -> None:
        """A source that has ended before it said anything never will say anything.

        Raises:
            SettingsError: why it has.
        """
        following = self._following
        if following is not None and following.done() and not self.store.synced:
            raise SettingsError(str(following.exception()))

    def _source_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.readiness.set("pools", ok=False, reason=f"the pools are not followed: {error}")
            log.error("the source of pools stopped; the last state serves", error=str(error))
            self._synced.set()

    async def stop(self, timeout: float) -> None:
        """Drain: not ready, no new streams, the open ones have `timeout` seconds to finish.

        xDS and the admin page stay until the last stream is gone. Once is enough.
        """
        if self._stopped:
            return
        self._stopped = True
        self.readiness.set("serving", ok=False, reason="draining")
        if self._naming is not None:
            self._naming.cancel()
            await asyncio.wait({self._naming})
        # Another replica reports status from now on, not after the drain.
        retiring = [self._source.retire()] if self._source is not None else []
        await asyncio.gather(self.relay.drain(timeout), *retiring)
        if self._following is not None:
            self._following.cancel()
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await self._following
        await self.relay.close()
        self._unsubscribe()
        if self._ads is not None:
            await self._ads.close()
        await self.admin.close()

    async def cut(self) -> None:
        """End the open streams of a running drain now; `stop` then comes to its end."""
        await self.relay.drain(0)


@contextlib.asynccontextmanager
async def running(settings: ServeSettings) -> AsyncIterator[Sidecar]:
    """A started sidecar, stopped without a grace at the end of the block."""
    sidecar = Sidecar(settings)
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.stop(0)
