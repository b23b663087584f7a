"""The installation under test: model servers, pickers behind links, the sidecar as a process, Envoy.

It starts, restarts and observes its parts. `faults` decides when.
"""

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from chaos import objects
from chaos.clock import WallClock
from chaos.patience import patience
from chaos.peers import started
from chaos.source import ApiServer, ManifestFolder, SourceName
from epp_client.envoy.bootstrap import envoy_config
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.settings import Modes, RequestMode
from epp_client.settings import TransportName, UpstreamMode, worker_sockets
from testbed.deaths import Death, ledger, worker_death
from testbed.envoy import Envoy, running_envoy
from testbed.link import Link
from testbed.looks import AdminPage, News, children, ended, listened
from testbed.ports import free_ports
from testbed.process import Process, ProcessFailed
from testbed.stack import ENVOY_HOST, HOSTS

PICK_TIMEOUT = 2.0
"""Seconds. With the default of 300 s a run would have few faults."""
DRAIN_TIMEOUT = 20.0


class Installation:
    """One installation in `folder`, started and stopped as a whole or in parts."""

    def __init__(
        self,
        folder: Path,
        transport: TransportName = TransportName.NATIVE,
        mode: UpstreamMode = UpstreamMode.OVERRIDE_HOST,
        *,
        source: SourceName = SourceName.MANIFESTS,
        hold: bool = False,
        workers: int = 2,
        seed: int = 0,
        drain: float = DRAIN_TIMEOUT,
        options: tuple[str, ...] = (),
        clock: Path | None = None,
        models_together: bool = False,
        request_mode: RequestMode = RequestMode.RELAY,
    ) -> None:
        """`models_together`: the model servers are one process, which starts faster; then none can be
        killed by itself."""
        self.folder = folder
        self.transport = transport
        self.mode = mode
        self.workers = workers
        self.drain = drain
        self.models: dict[str, Process] = {}
        self._models_together = models_together
        self.pickers: dict[str, Process] = {}
        self.links = {name: Link(seed + n) for n, name in enumerate(("open", "close"))}
        self.objects: list[dict[str, Any]] = []
        self.exits: list[int] = []
        """Exit codes of the sidecars that were told to end."""
        self._killed: set[int] = set()
        self.source_name = source
        self.holds = hold and transport is TransportName.NATIVE
        """Whether a holder keeps the relay's sockets."""
        self._holder: Process | None = None
        self._sidecar: Process | None = None
        self._away = False
        """Whether the sidecar was ended on purpose."""
        self._envoy: Envoy | None = None
        self._envoy_life = AsyncExitStack()
        self.request_mode = request_mode
        self._options = options
        self._clock = WallClock(clock, folder) if clock else None
        listener, admin, own = free_ports(3)
        self.listener, self._envoy_admin = (ENVOY_HOST, listener), (ENVOY_HOST, admin)
        self.url = f"http://{ENVOY_HOST}:{listener}"
        self.admin = f"{ENVOY_HOST}:{own}"
        self.source: ApiServer | ManifestFolder = (
            ApiServer(folder, seed + len(self.links))
            if source.has(SourceName.API)
            else ManifestFolder(folder)
        )
        self._hold_socket = folder / "hold.sock"
        self.log = folder / "sidecar.log"
        self._news = News(self.log)
        self.program = ["epp_client"]
        """The sidecar's module and arguments before `serve`."""
        self.ads_socket = folder / "xds.sock"
        """The ADS socket in Envoy's configuration."""
        self.page = AdminPage(self.admin)

    @property
    def sidecar(self) -> Process:
        """The running control process."""
        assert self._sidecar is not None
        return self._sidecar

    @property
    def envoy(self) -> Envoy:
        """The running Envoy."""
        assert self._envoy is not None
        return self._envoy

    @property
    def sockets(self) -> list[Path]:
        """The relay workers' sockets."""
        return worker_sockets(self.folder / "ext-proc.sock", self.workers)

    async def start_peers(self) -> None:
        """Start model servers and pickers, and write the objects of the pools."""
        await self.page.open()
        await self.source.start()
        (port,) = free_ports(1)
        models = [f"{host}:{port}" for host in HOSTS]
        if self._models_together:
            process, ready = await started("testbed.model_server", "--listen", *models)
            self.models = dict.fromkeys(ready["addresses"], process)
        else:
            await asyncio.gather(*map(self.start_model, models))
        await asyncio.gather(*(self.start_picker(name) for name in self.links))
        pools = objects.pools(port)
        self.pools = [PoolName("default", pool["metadata"]["name"]) for pool in pools]
        pickers = {name: link.address for name, link in self.links.items()}
        self.objects = [*pools, *objects.peers(pickers)]
        await self.source.write(self.objects)

    async def start(self) -> None:
        """Start everything, and wait until requests can be served."""
        await self.start_peers()
        if self.holds:
            await self.start_holder()
        # The order does not matter: sidecar and Envoy do not wait for each other.
        await self.start_sidecar()
        await self.start_envoy()
        await self.ready()

    async def stop(self) -> None:
        """Stop everything."""
        await self.stop_envoy()
        if self._sidecar is not None and self._sidecar.running:
            self.exits.append(await self._sidecar.stop(self.drain + 10))
        for link in self.links.values():
            await link.down()
        for process in {*self.pickers.values(), *self.models.values()}:
            await process.stop(1)
        await self.source.stop()
        if self._holder is not None:
            await self._holder.stop()
        await self.page.close()
        self.note_deaths()

    # --- parts ---

    async def start_model(self, address: str) -> str:
        """Start or restart the model server at `address`."""
        process, ready = await started("testbed.model_server", "--listen", address)
        self.models[ready["address"]] = process
        return str(ready["address"])

    async def start_picker(self, name: str) -> None:
        """Start or restart a picker behind its link."""
        process, ready = await started("testbed.picker", "--endpoints", ",".join(self.models))
        self.pickers[name] = process
        await self.links[name].up(ready["address"])

    def serve_command(self) -> list[str]:
        """The command that starts the sidecar."""
        return [
            *(self._clock.command() if self._clock else ()), sys.executable, "-m", *self.program, "serve",
            *self.source.options, "--socket", str(self.folder / "ext-proc.sock"),
            "--xds-socket", str(self.folder / "xds.sock"), "--admin", self.admin,
            "--transport", self.transport, "--workers", str(self.workers),
            "--upstream-mode", self.mode, "--picker-tls", "plaintext",
            "--request-mode", self.request_mode,
            *(("--hold", str(self._hold_socket)) if self.holds else ()),
            "--pick-timeout", str(PICK_TIMEOUT), "--response-timeout", "1",
            "--drain-timeout", str(self.drain),
            *self._options,
        ]  # fmt: skip

    def set_clock(self, seconds: int) -> None:
        """Set the sidecar's wall clock to `seconds` ahead of the true time."""
        assert self._clock is not None
        self._clock.set(seconds)

    async def start_sidecar(self) -> None:
        """Start or restart the control process, which starts its workers."""
        self._sidecar = await Process.start(*self.serve_command(), log=self.log)
        self._sidecar.name = "the sidecar"
        self._away = False

    async def start_holder(self) -> None:
        """Start or restart the holder of the relay's sockets."""
        self._holder = await Process.start(
            sys.executable, "-m", "epp_client", "hold", "--socket", str(self._hold_socket)
        )

    async def kill_holder(self) -> None:
        """SIGKILL."""
        assert self._holder is not None
        await self._holder.kill()

    async def held(self) -> None:
        """Wait until the holder has the sockets. Raises NotBack."""
        async with patience("the sockets are held"):
            while "hold: " in (await self.page.readiness() or "hold: ?"):
                await asyncio.sleep(0.05)

    async def kill_sidecar(self) -> None:
        """SIGKILL for the control process."""
        self._away = True
        await self.sidecar.kill()

    async def drain_sidecar(self) -> int:
        """Send SIGTERM and wait; returns the exit code."""
        self._away = True
        code = await self.sidecar.stop(self.drain + 10)
        self.exits.append(code)
        return code

    def bootstrap(self, listener: tuple[str, int], admin: tuple[str, int]) -> str:
        """The bootstrap of an Envoy with its pools; `listener` and `admin` are (address, port)."""
        return envoy_config(
            self.pools,
            listener=listener,
            admin=admin,
            ext_proc_sockets=self.sockets,
            ads_socket=self.ads_socket,
            upstream_mode=self.mode,
            app_protocols={PoolName("default", "h2c"): AppProtocol.H2C},
            modes=dict.fromkeys(self.pools, Modes(self.request_mode)),
            access_log=False,
        )

    async def start_envoy(self) -> None:
        """Start or restart Envoy with the same configuration."""
        bootstrap = self.bootstrap(self.listener, self._envoy_admin)
        self._envoy = await self._envoy_life.enter_async_context(
            running_envoy(bootstrap, self._envoy_admin)
        )

    async def stop_envoy(self) -> None:
        """Stop Envoy."""
        await self._envoy_life.aclose()
        self._envoy_life = AsyncExitStack()

    @property
    def worker_pids(self) -> list[int]:
        """Process ids of the control process's children."""
        return children(self.sidecar.pid)

    @property
    def processes(self) -> dict[str, int]:
        """The sidecar's processes by name: `control`, `worker 0`…"""
        workers = {f"worker {n}": pid for n, pid in enumerate(sorted(self.worker_pids))}
        return {"control": self.sidecar.pid} | workers

    @property
    def relaying(self) -> bool:
        """Whether every relay socket accepts connections."""
        return listened(self.sockets)

    async def ready(self) -> None:
        """Wait until the sidecar is ready, every worker listens, and Envoy is connected and ready.

        Raises:
            NotBack: not within PATIENCE.
        """
        await self.until(lambda: self.relaying, "every relay socket listens")
        async with patience("the sidecar and Envoy are ready"):
            while not (
                await self.page.readiness()
                and await self.page.answers(f"{self.envoy.admin}/ready")
                and (await self.metrics()).get("epp_client_envoys_connected")
            ):
                self._alive()
                await asyncio.sleep(0.05)

    async def workers_replaced(self, old: list[int]) -> None:
        """Wait until new workers have replaced `old`, which may still finish streams. Raises NotBack."""
        await self.until(
            lambda: len(set(self.worker_pids) - set(old)) >= self.workers and self.relaying,
            "the workers are replaced",
        )
        async with patience("the new workers serve"):
            while (await self.metrics()).get("epp_client_workers", 0) < self.workers:
                await asyncio.sleep(0.02)

    async def calm(self, seconds: float) -> None:
        """Wait until no worker has exited for `seconds`: delayed signals have then been carried out, and
        orphaned workers have noticed. Raises NotBack."""
        async with patience("no worker exits any more"):
            since = time.monotonic()
            while time.monotonic() < since + seconds:
                self._alive()
                if len(self.worker_pids) != self.workers:
                    since = time.monotonic()
                await asyncio.sleep(0.05)

    async def followed(self) -> None:
        """Wait until the sidecar's tables have the written Pods and are current. Raises NotBack."""
        wanted = self.source.ready_pods
        async with patience(f"the tables have {', '.join(sorted(wanted))} and are current"):
            while (
                await self.page.ready_pods() != [wanted] * len(self.pools)
                or (await self.metrics()).get("epp_client_api_stale_seconds", 0.0) > 0
            ):
                await asyncio.sleep(0.05)

    def signal(self, pid: int, number: signal.Signals) -> None:
        """Signal one of our own processes."""
        if number is signal.SIGKILL:
            self._killed.add(pid)
        # The process may have exited.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)

    def note_deaths(self) -> None:
        """Record deaths of workers from the sidecar's log, except those that we killed."""
        for line in self._news.lines():
            died = worker_death(line)
            if died and not (died[0] in self._killed and died[1] == -signal.SIGKILL):
                ledger().append(Death("a relay worker", *died, asked=False, tail=line))

    async def gone(self, pid: int) -> None:
        """Wait until a killed process has ended. Raises NotBack."""
        await self.until(lambda: ended(pid), f"the end of process {pid}")

    async def until(self, happened: Callable[[], bool], what: str) -> None:
        """Wait until `happened` returns True. Raises NotBack."""
        async with patience(what):
            while not happened():
                self._alive()
                # Other processes do not report changes: poll.
                await asyncio.sleep(0.02)

    def _alive(self) -> None:
        if not (self._away or self.sidecar.running):
            raise ProcessFailed(f"the sidecar has ended:\n{self.sidecar.tail}")

    async def metrics(self) -> dict[str, float]:
        """The sidecar's metrics, summed over labels; empty if it does not answer."""
        return await self.page.metrics()

    async def settled(self) -> dict[str, float]:
        """Wait until no request is open and nothing is retained; returns what is left after 10 s."""
        names = ("epp_client_in_flight", "epp_client_retained_bytes")
        left = dict.fromkeys(names, 0.0)
        for _ in range(100):
            numbers = await self.metrics()
            # A new sidecar has no series of a pool yet.
            left = {name: numbers.get(name, 0.0) if numbers else -1.0 for name in names}
            if not any(left.values()):
                return {}
            await asyncio.sleep(0.1)
        return left


@asynccontextmanager
async def running_installation(folder: Path, **settings: Any) -> AsyncIterator[Installation]:
    """A started installation, stopped at the end of the block."""
    installation = Installation(folder, **settings)
    try:
        await installation.start()
        yield installation
    finally:
        await installation.stop()
