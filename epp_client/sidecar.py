"""The running sidecar: builds its parts, starts them in order and drains them in reverse order.

It holds no logic of the parts themselves.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection

import structlog

from epp_client import collector
from epp_client.admin.server import AdminServer, Readiness
from epp_client.data_plane.plane import DataPlane
from epp_client.errors import SettingsError
from epp_client.imports import uncollected
from epp_client.metrics.certificates import CertificateSource
from epp_client.metrics.registry import Metrics
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.known import Known
from epp_client.pool.source import PoolSource
from epp_client.pool.store import PoolStore
from epp_client.served_gateway import ServedGateway, edge_of
from epp_client.settings import ServeSettings, UpstreamMode
from epp_client.wire.socket_names import SocketNames
from epp_client.workers.claims import Claims
from epp_client.workers.predecessor import Left, known_on, left_on
from epp_client.workers.supervisor import Workers
from epp_client.xds.ads import AdsServer

log = structlog.get_logger(__name__)

SYNC_PATIENCE = 5.0
"""Seconds to read the pools. After that the start checks whether requests are served or queued until the
pools are known. If neither, the sidecar starts to serve and refuses requests: Envoy stops trying to connect
after about 10 s."""
KEPT_PATIENCE = 30.0
"""Upper bound in seconds of all waits of a start while requests queue (in claimed sockets, or in a
holder's) or earlier workers serve them. Envoy lets a request wait for a minute."""
UNSERVED_PATIENCE = 0.5
"""Upper bound in seconds of the wait for an Envoy, or for earlier workers, that may not exist."""


class Sidecar:
    """All parts of one process."""

    def __init__(
        self,
        settings: ServeSettings,
        claims: Claims | None = None,
        *,
        upgraded: bool = False,
    ) -> None:
        """`claims` are the relay's sockets that have been claimed already. `upgraded`: SIGUSR2 has
        replaced the program of this process, and its earlier workers may still serve."""
        self.settings = settings
        self._claims = claims or Claims(settings.sockets)
        self._upgraded = upgraded
        self.store = PoolStore()
        self.metrics = Metrics(transport=str(settings.transport))
        self.readiness = Readiness()
        self.gateway = ServedGateway(self.readiness)
        self.metrics.follow_certificates(
            CertificateSource(
                self.gateway.certificates,
                lambda: {s.pool.settings.tls for s in self.store.snapshots.values()},
            )
        )
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
            lambda: self.gateway.resolution,
            serves_xds=settings.xds_socket is not None,
            log_decisions=settings.log_decisions,
        )
        self.admin.watching.log_debug = settings.log_level == "debug"
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
        """Claim the relay's sockets, bind the admin page and ADS, read the pools, configure Envoy, then
        serve.

        New requests queue in the claimed sockets until the sidecar knows its pools and Envoy has their
        endpoints. If earlier workers still serve the sockets, or a holder keeps them, requests stay with
        those instead. An endpoint is in Envoy before a worker may pick it, and for as long as earlier
        workers may pick it.

        Raises:
            SettingsError: an address or socket cannot be bound. Nothing stays bound then.
        """
        settings = self.settings
        self.readiness.set("pools", ok=False, reason="the pools have not been read yet")
        self.readiness.set("serving", ok=False, reason="starting")
        kept_until = asyncio.get_running_loop().time() + KEPT_PATIENCE
        try:
            self._claim()
            self.admin_address = await self.admin.start()
            if settings.xds_socket is not None:
                self._ads = self._made_ads(str(settings.xds_socket))
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

    def log_at(self, level: str) -> None:
        """Change the log level of the relay workers, and of what this process logs for them."""
        self.admin.watching.log_debug = level == "debug"
        if isinstance(self.relay, Workers):
            self.relay.log_at(level)

    def _made_ads(self, socket: str) -> AdsServer:
        settings = self.settings
        kubernetes = settings.kubernetes
        gateways = settings.pools is not None or (
            kubernetes is not None and kubernetes.may_serve_gateway
        )
        ads = AdsServer(
            self.store,
            socket,
            settings.upstream_mode,
            self.metrics,
            self._followed,
            edge_of(settings.gateway_edge, settings.upstream_mode, len(settings.sockets))
            if gateways
            else None,
            self.gateway.told,
        )
        if gateways:
            self.gateway.connect(ads)
        return ads

    def _keep_names(self) -> None:
        relay = self.relay
        names = relay.names if isinstance(relay, Workers) else [relay.name]
        if self._ads is not None:
            names.append(self._ads.name)
        self._naming = asyncio.create_task(SocketNames(names, self._names_changed).run())

    def _names_changed(self, names: SocketNames) -> None:
        self.readiness.set("sockets", ok=not names.trouble, reason=names.trouble)

    def _claim(self) -> None:
        # With `--workers 0` the relay of this process binds its socket itself.
        if self.settings.workers:
            self._claims.claim()

    async def _known_before(self) -> Known:
        """The endpoints that earlier workers may pick. Needed only where Envoy takes endpoints from us."""
        if self._ads is None or self.settings.upstream_mode is UpstreamMode.ORIGINAL_DST:
            return {}
        return await known_on(self._claims.others, KEPT_PATIENCE)

    async def _answered(self, asking: "asyncio.Task[Known]") -> Known:
        """The earlier workers' answer. A holder's sockets accept the question even if no worker exists, so
        an answer that is missing `UNSERVED_PATIENCE` after the pools were read will not come."""
        if self.settings.hold is not None and not self._upgraded:
            await asyncio.wait({asking}, timeout=UNSERVED_PATIENCE)
            return asking.result() if asking.done() else {}
        return await asking

    async def _envoy_told(self, ads: AdsServer, kept_until: float, *, served: bool) -> None:
        """Wait until an Envoy has acknowledged its endpoints, if there is a sign of one: it is connected,
        or has requests in the claimed sockets, or earlier workers have `served` it.

        In mode `original_dst` queued requests are no sign: such an Envoy reaches every endpoint without
        ADS."""
        if await ads.told(UNSERVED_PATIENCE):
            return
        knocked = (
            self.settings.upstream_mode is not UpstreamMode.ORIGINAL_DST and self._claims.knocked
        )
        if served or ads.connected or knocked:
            left = kept_until - asyncio.get_running_loop().time()
            if not await ads.told(max(0.0, left)):
                log.warning(
                    "no Envoy has acknowledged its endpoints; picks that it does not know will fail",
                    connected=ads.connected,
                )

    async def _pools_known(self, kept_until: float) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SYNC_PATIENCE):
                    await self._synced.wait()
                return
            # A process that held the sockets before may have exited.
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
        # Imported only if used: a tenth of the CPU time of a start is theirs, and 70 MB are the last's.
        if settings.endpoints.listed:
            from epp_client.endpoints.source import EndpointSource

            return EndpointSource(
                settings.endpoints,
                self.store,
                defaults,
                clock,
                self._listed,
                reloaded=self.metrics.reloads.reloaded,
            )
        if settings.kubernetes is None:
            assert settings.pools is not None
            from epp_client.manifests.source import ManifestSource

            return ManifestSource(
                settings.pools,
                self.store,
                defaults,
                clock,
                self._listed,
                self.gateway.read,
                self.metrics.reloads.reloaded,
            )
        with uncollected():
            from epp_client.kubernetes.pools import KubernetesPools

        kubernetes = KubernetesPools(
            settings.kubernetes,
            self.store,
            defaults,
            clock,
            self._listed,
            settings.endpoints,
            self.gateway.use(),
        )
        self.gateway.follow(kubernetes.gateway)
        self.metrics.follow_api(kubernetes)
        return kubernetes

    def _follow_pools(self) -> None:
        source = self._source = self._source_of(self.settings)
        self.readiness.note("kubernetes", source.staleness)
        self._following = asyncio.create_task(source.run())
        self._following.add_done_callback(self._source_ended)

    def _listed(self, missing: str) -> None:
        """Note what is `missing` of the first list of pools. Once ready, a stale sidecar stays ready."""
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
        """Why every request is refused although nothing failed; empty while a pool is served."""
        if not self.store.synced or self.store.snapshots or self.gateway.resolution is not None:
            return ""
        where = self._source.where if self._source is not None else "the source"
        return (
            f"{where} has no usable InferencePool, so every request is refused (pool_unknown);"
            " see the problems at /pools"
        )

    async def _followed(self) -> None:
        if isinstance(self.relay, Workers):
            await self.relay.followed()

    def want(self, pools: Collection[str]) -> None:
        """Tell xDS that picks wait for endpoints of these pools."""
        if self._ads is not None:
            self._ads.want(pools)

    def _workers_changed(self, workers: Workers) -> None:
        self.metrics.workers.set(workers.serving)
        reason = "no relay worker is running"
        self.readiness.set("workers", ok=workers.serving > 0, reason=reason)

    async def replace_workers(self) -> None:
        """Replace the running relay workers with new ones. No stream is cut."""
        if isinstance(self.relay, Workers):
            await self.relay.replace()

    @property
    def leaving(self) -> int:
        """The number of replaced workers that still finish their streams."""
        return self.relay.leaving if isinstance(self.relay, Workers) else 0

    def _check_source(self) -> None:
        """Fail if the source of pools ended before its first list.

        Raises:
            SettingsError: the source has ended; the text says why.
        """
        following = self._following
        if following is not None and following.done() and not self.store.synced:
            raise SettingsError(str(following.exception()))

    def _source_ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            self.readiness.set(
                "pools", ok=False, reason=f"pools are not followed any more: {error}"
            )
            log.error("the source of pools failed; serving the last known pools", error=str(error))
            self._synced.set()

    async def stop(self, timeout: float) -> None:
        """Drain: become unready, accept no new streams, and give open ones `timeout` seconds to finish.

        xDS and the admin page serve until the last stream has ended. A second call does nothing.
        """
        if self._stopped:
            return
        self._stopped = True
        self.readiness.set("serving", ok=False, reason="draining")
        if self._naming is not None:
            self._naming.cancel()
            await asyncio.wait({self._naming})
        # Give up the Lease now, so that another replica reports status during the drain.
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
        """End the open streams of a running drain now, so that `stop` returns."""
        await self.relay.drain(0)


@contextlib.asynccontextmanager
async def running(settings: ServeSettings) -> AsyncIterator[Sidecar]:
    """A started sidecar, stopped without a drain at the end of the block."""
    sidecar = Sidecar(settings)
    await sidecar.start()
    try:
        yield sidecar
    finally:
        await sidecar.stop(0)
