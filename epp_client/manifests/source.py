"""ManifestSource: follows the pools of YAML or JSON files and publishes their snapshots.

`kubectl get inferencepools,pods,services,endpointslices -o json` of any cluster is valid input. A file
that becomes unreadable keeps its last content, and a pool that becomes invalid its last valid version; both
are reported as problems.
"""

import asyncio
import contextlib
from collections.abc import Callable
from pathlib import Path

from epp_client.files import log_new, watch
from epp_client.gateway.resolve import resolve_gateway
from epp_client.gateway.world import GatewayResolution
from epp_client.manifests.files import load
from epp_client.manifests.world import Contents, Loaded, contents_of, placed
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.resolve import Resolution, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.source import Listed, LocalSource, Reloaded
from epp_client.pool.store import PoolStore


class ManifestSource(LocalSource):
    """Keeps a store in step with a file or a directory of manifests."""

    def __init__(
        self,
        path: Path,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        listed: Listed = lambda _: None,
        gateway_changed: Callable[[GatewayResolution | None], None] = lambda _: None,
        reloaded: Reloaded = lambda _: None,
    ) -> None:
        """`gateway_changed` gets the one Gateway of the manifests after each load; None: there is none."""
        self._listed = listed
        self._gateway_changed = gateway_changed
        self._reloaded = reloaded
        self._path = path
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._loaded = Loaded({})
        self._last: Resolution | None = None
        self._contents = Contents()
        self._faults: tuple[Problem, ...] = ()
        self._gateway: GatewayResolution | None = None

    def reload(self) -> None:
        """Read everything and publish it."""
        self._take(load(self._path))

    def _take(self, loaded: Loaded) -> None:
        if str(self._path) in loaded.failed:
            kept = self._loaded.objects
        else:
            kept = {
                name: found for name, found in self._loaded.objects.items() if name in loaded.failed
            }
        self._loaded = Loaded({**loaded.objects, **kept})
        pools = self._contents.world.pools
        self._contents = contents_of(self._loaded, self._defaults, pools)
        self._faults = (*loaded.problems, *self._contents.problems)
        self.resolve()
        self._reloaded(not any(p.severity is Severity.ERROR for p in self._faults))

    def resolve(self) -> None:
        """Resolve the loaded objects at the current time, and publish."""
        self._last = resolve(self._contents.world, self._last, self._clock())
        found = (*self._last.problems, *self._resolve_gateway())
        problems = (*self._faults, *placed(found, self._loaded))
        log_new(problems, self._store, "problem in a manifest")
        if not (self._loaded.objects or self._store.synced) and self._faults:
            # Nothing could be read: unknown pools are not deleted pools.
            self._store.problems = problems
        else:
            self._store.publish(self._last.snapshots, problems)
            self._gateway_changed(self._gateway)
            self._listed("")

    def _resolve_gateway(self) -> tuple[Problem, ...]:
        """Resolve the Gateway, if there is one; returns its problems."""
        worlds = [*self._contents.gateways.values()]
        if len(worlds) > 1:
            names = ", ".join(map(str, self._contents.gateways))
            text = f"{self._path} has {len(worlds)} Gateways ({names}); one sidecar serves one"
            self._gateway = None
            return (Problem(Severity.ERROR, text),)
        self._gateway = resolve_gateway(worlds[0], self._gateway) if worlds else None
        return self._gateway.problems if self._gateway is not None else ()

    # --- as a PoolSource ---

    @property
    def where(self) -> str:
        """The path of the manifests."""
        return str(self._path)

    async def run(self) -> None:
        """Follow the files until cancelled. No task is left running then.

        Raises:
            ManifestError: the directory cannot be watched.
        """
        changed = asyncio.Event()
        watcher = asyncio.create_task(watch(self._path, changed))
        watcher.add_done_callback(lambda _: changed.set())
        try:
            # Let the watch begin before the first load, so that no edit is missed.
            await asyncio.sleep(0)
            while not watcher.done():
                changed.clear()
                self._take(await asyncio.to_thread(load, self._path))
                while not changed.is_set():
                    await self._wait(changed)
                    if not changed.is_set():
                        self.resolve()
            await watcher
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _wait(self, changed: asyncio.Event) -> None:
        """Wait until a file changes or a drain grace ends."""
        at = self._last.next_change if self._last else None
        delay = None if at is None else max(0.0, at - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await changed.wait()
