"""The life of one container: started, probed, restarted with a back-off, ended with its grace."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from testbed.cluster.api import Object
from testbed.cluster.kubelet.images import PATH, Image
from testbed.cluster.kubelet.probes import Prober, Verdict
from testbed.cluster.kubelet.spec import Identity, words
from testbed.cluster.kubelet.status import ContainerStatus, Running, Terminated, Waiting, now
from testbed.container import Container, prepared
from testbed.process import Process

BACK_OFF = 1.0
"""Seconds before the second restart, doubled for each one after it. A kubelet begins with 10."""
MOST_BACK_OFF = 60.0
_BEFORE = ("chroot", "setpriv", "env")
"""Programs that execute the container's own one after the other."""
_EXEC = ("nsenter", "--mount", "--pid", "--net", "--root", "--wd")


@dataclass(frozen=True)
class Place:
    """Where a container runs."""

    network: Path
    address: str
    volumes: Mapping[str, Path]
    log: Path
    """The file of its output."""


@dataclass
class ContainerLife:
    """One container of a Pod."""

    spec: Object
    status: ContainerStatus
    image: Image
    identity: Identity
    variables: Mapping[str, str]
    place: Place
    restart: Callable[[int], bool]
    """Whether it is started again after this exit code."""
    grace: float
    """Seconds that it has for its end if a probe wants it restarted."""
    changed: Callable[[], None]
    """Called after each change of the status."""
    up: asyncio.Event = field(default_factory=asyncio.Event)
    """It is started, or has ended for good."""
    _process: Process | None = None
    _ending: bool = False

    async def live(self) -> None:
        """Run it until it has ended for good."""
        crashes = 0
        while not self._ending:
            code = await self._once()
            if self._ending or not self.restart(code):
                break
            self.status.restarts += 1
            if crashes:
                # The first restart comes at once.
                pause = min(BACK_OFF * 2 ** (crashes - 1), MOST_BACK_OFF)
                message = f"back-off {pause:.0f}s restarting failed container={self.status.name}"
                self.status.state = Waiting("CrashLoopBackOff", message)
                self.changed()
                await asyncio.sleep(pause)
            crashes += 1
        self.up.set()

    async def end(self, deadline: float) -> None:
        """End it: its preStop hook, SIGTERM, and SIGKILL at `deadline`, a time of the loop."""
        self._ending = True
        await self._stop(deadline)

    async def kill(self) -> None:
        """End it at once."""
        self._ending = True
        if self._process is not None:
            await self._process.kill()

    async def execute(self, command: list[str], timeout: float) -> bool:
        """Run a command in the container; whether it exited with 0 within `timeout` seconds."""
        init = self._init()
        if init is None:
            return False
        who = self.identity
        groups = ",".join(map(str, who.groups))
        variables = [f"{name}={value}" for name, value in self._environment().items()]
        process = await Process.start(
            *_EXEC, f"--target={init}", "setpriv", f"--reuid={who.user}", f"--regid={who.group}",
            f"--groups={groups}" if groups else "--clear-groups", "env", "-i", *variables, *command,
            log=self.place.log,
        )  # fmt: skip
        try:
            async with asyncio.timeout(timeout):
                return await process.exited() == 0
        except TimeoutError:
            return False
        finally:
            await process.kill()

    async def _once(self) -> int:
        """Start it, and wait for its end."""
        since = now()
        with prepared(self._container()) as command:
            self._process = await Process.start(*command, log=self.place.log)
            while self._process.running and self._init() is None:
                await asyncio.sleep(0.01)
            self.status.state = Running(since)
            probing = asyncio.create_task(self._probe())
            try:
                code = await self._process.exited()
            finally:
                probing.cancel()
                (ended,) = await asyncio.gather(probing, return_exceptions=True)
                if isinstance(ended, Exception):
                    print(f"kubelet: {self.status.name}: its probes: {ended!r}", flush=True)
        await self._process.kill()
        code = code if code >= 0 else 128 - code
        self.status.state = self.status.last = Terminated(code, since, now())
        self.status.ready = self.status.started = False
        self.changed()
        return code

    async def _probe(self) -> None:
        """Follow its probes: the startup probe first, then the others."""
        prober = Prober(self.spec, self.place.address, self.execute)
        if "postStart" in (self.spec.get("lifecycle") or {}):
            await self._hook(self.spec["lifecycle"]["postStart"], self.grace)
        if "startupProbe" in self.spec:
            passed = asyncio.Event()

            async def heard(verdict: Verdict) -> None:
                if verdict.failed:
                    await self._unhealthy("startup")
                if verdict.good:
                    passed.set()

            following = asyncio.create_task(prober.follow(self.spec["startupProbe"], heard))
            try:
                await passed.wait()
            finally:
                following.cancel()
        self.status.started = True
        self.status.ready = "readinessProbe" not in self.spec
        self.up.set()
        self.changed()
        async with asyncio.TaskGroup() as tasks:
            if "readinessProbe" in self.spec:
                tasks.create_task(prober.follow(self.spec["readinessProbe"], self._readiness))
            if "livenessProbe" in self.spec:
                tasks.create_task(prober.follow(self.spec["livenessProbe"], self._liveness))

    async def _readiness(self, verdict: Verdict) -> None:
        # Between the thresholds it stays as it is.
        if verdict.good or verdict.failed:
            ready = verdict.good
            if ready != self.status.ready:
                self.status.ready = ready
                self.changed()

    async def _liveness(self, verdict: Verdict) -> None:
        # Not during its end: a container that drains may answer no more.
        if verdict.failed and not self._ending:
            await self._unhealthy("liveness")

    async def _unhealthy(self, probe: str) -> None:
        print(f"kubelet: {self.status.name}: {probe} probe failed, restarting it", flush=True)
        # In a task of its own: the end of the container cancels this one.
        self._stopping = asyncio.create_task(
            self._stop(asyncio.get_running_loop().time() + self.grace)
        )
        await self._stopping

    async def _stop(self, deadline: float) -> None:
        process, loop = self._process, asyncio.get_running_loop()
        if process is None or not process.running:
            return
        exited = asyncio.create_task(process.exited())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline):
                if hook := (self.spec.get("lifecycle") or {}).get("preStop"):
                    await self._hook(hook, deadline - loop.time())
                while process.running:
                    if init := self._init():
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(init, signal.SIGTERM)
                        break
                    await asyncio.sleep(0.01)
                await asyncio.shield(exited)
        if process.running:
            process.signal(signal.SIGKILL)
        await exited

    async def _hook(self, hook: Object, timeout: float) -> None:
        if "sleep" in hook:
            await asyncio.sleep(hook["sleep"]["seconds"])
        elif "exec" in hook:
            await self.execute(hook["exec"]["command"], timeout)
        else:
            with contextlib.suppress(aiohttp.ClientError, OSError):
                await Prober(self.spec, self.place.address, self.execute).http(hook["httpGet"])

    def _init(self) -> int | None:
        """Process 1 of the container; None until its own program runs, and after its end."""
        if self._process is None:
            return None
        pid = self._process.pid
        with contextlib.suppress(OSError, ValueError):
            # Only `unshare` has a child. That has a root of its own once all is mounted.
            child = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
            program = Path(os.readlink(f"/proc/{child}/exe")).name
            if os.readlink(f"/proc/{child}/root") != "/" and program not in _BEFORE:
                return child
        return None

    def _environment(self) -> dict[str, str]:
        return {"PATH": PATH, "HOME": "/", **self.image.environment, **self.variables}

    def _container(self) -> Container:
        read_only, writable = dict(self.image.mounts), dict[str, Path]()
        for mount in self.spec.get("volumeMounts") or ():
            source = self.place.volumes[mount["name"]] / mount.get("subPath", "")
            (read_only if mount.get("readOnly") else writable)[mount["mountPath"]] = source
        context = self.spec.get("securityContext") or {}
        return Container(
            words(self.spec, self.image.entrypoint, self.variables),
            self._environment(),
            read_only,
            writable,
            user=f"{self.identity.user}:{self.identity.group}",
            groups=self.identity.groups,
            read_only_root=bool(context.get("readOnlyRootFilesystem")),
            network=self.place.network,
        )


def status_of(spec: Object, *, init: bool) -> ContainerStatus:
    """The status of a container before its start."""
    restartable = not init or spec.get("restartPolicy") == "Always"
    return ContainerStatus(spec["name"], spec["image"], restartable, init)
