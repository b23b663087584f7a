"""Runs the containers of a Pod as processes of this machine, in the order of a kubelet.

A container sees its volumes under /run in a mount namespace of its own. Files of other volumes are named by
their paths here. There are no images, users and limits: every container is this user's process.
"""

import asyncio
import contextlib
import re
import shlex
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from testbed.cluster.api import Object
from testbed.envoy import envoy_binary
from testbed.process import Process

PROBE_TIMEOUT = 60.0
"""Seconds until a probe succeeds, on a busy machine."""
STOP_TIMEOUT = 30.0
"""Seconds from SIGTERM to SIGKILL."""
HOST = "127.0.0.1"
ENTRYPOINT = (sys.executable, "-m", "epp_client")
"""Of our image."""


@dataclass
class RunningPod:
    """A Pod whose containers run."""

    spec: Object
    volumes: Mapping[str, Path]
    """The folder of each volume."""
    variables: Mapping[str, str]
    """What the downward API and the cluster say, by field path or name."""
    processes: dict[str, Process] = field(default_factory=dict)
    """By the names of the containers, in the order of their start."""

    async def start(self) -> None:
        """Start the containers one after the other, each when the one before has ended or started up.

        Raises:
            ProcessFailed: an init container failed, or a probe did; the text has the end of its log.
        """
        for container in self.spec["initContainers"]:
            process = await self._started(container)
            if container.get("restartPolicy") == "Always":
                await self._until(container, "startupProbe")
            elif await process.exited():
                raise process.failed("failed")
            else:
                del self.processes[container["name"]]
        for container in self.spec["containers"]:
            await self._started(container)
        for container in self._lasting():
            await self._until(container, "startupProbe")
            await self._until(container, "readinessProbe")

    async def stop(self) -> dict[str, int]:
        """End the containers as a kubelet does, after their preStop hooks; the exit codes by name."""
        codes = {}
        for container in self.spec["containers"]:
            hook = container.get("lifecycle", {}).get("preStop", {}).get("exec")
            if hook is not None:
                process = await Process.start(*self._named_here(container, hook["command"]))
                codes[f"preStop of {container['name']}"] = await process.exited()
            codes |= await self._ended(container)
        for container in reversed(self.spec["initContainers"]):
            codes |= await self._ended(container)
        return codes

    async def passes(self, container: Object, name: str) -> bool:
        """Whether the probe of that name succeeds now; one that is not there does."""
        probe = container.get(name)
        if probe is None:
            return True
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        with contextlib.suppress(OSError, aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(probe.get("timeoutSeconds", 1)):
                if "tcpSocket" in probe:
                    _, writer = await asyncio.open_connection(
                        HOST, ports[probe["tcpSocket"]["port"]]
                    )
                    writer.close()
                    return True
                get = probe["httpGet"]
                url = f"http://{HOST}:{ports[get['port']]}{get['path']}"
                async with aiohttp.ClientSession() as session, session.get(url) as answer:
                    return 200 <= answer.status < 400
        return False

    def _lasting(self) -> list[Object]:
        init = [c for c in self.spec["initContainers"] if c.get("restartPolicy") == "Always"]
        return [*init, *self.spec["containers"]]

    async def _until(self, container: Object, probe: str) -> None:
        process = self.processes[container["name"]]
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(PROBE_TIMEOUT):
                while process.running:
                    if await self.passes(container, probe):
                        return
                    await asyncio.sleep(0.1)
        raise process.failed(f"did not pass its {probe}")

    async def _ended(self, container: Object) -> dict[str, int]:
        process = self.processes.pop(container["name"], None)
        return {} if process is None else {container["name"]: await process.stop(STOP_TIMEOUT)}

    async def _started(self, container: Object) -> Process:
        variables = dict(self.variables)
        for item in container.get("env", []):
            source = item.get("valueFrom", {}).get("fieldRef", {}).get("fieldPath")
            variables[item["name"]] = variables[source] if source else item["value"]
        words = [*container.get("command", ENTRYPOINT), *container.get("args", [])]
        if words[0] == "envoy":
            words[0] = envoy_binary()
        words = [re.sub(r"\$\((\w+)\)", lambda m: variables[m[1]], word) for word in words]
        environment = [f"{key}={value}" for key, value in variables.items() if "." not in key]
        process = await Process.start(
            *("unshare", "--mount", "sh", "-c", self._mounting(container), "sh"),
            *("env", "--unset=KUBECONFIG", *environment),
            *self._named_here(container, words),
        )
        process.name = container["name"]
        self.processes[container["name"]] = process
        return process

    def _mounting(self, container: Object) -> str:
        steps = ["mount -t tmpfs tmpfs /run"]
        for mount in container.get("volumeMounts", []):
            target = Path(mount["mountPath"])
            if not target.resolve().is_relative_to("/run"):
                continue
            place = shlex.quote(str(target))
            folder = shlex.quote(str(self.volumes[mount["name"]]))
            steps.append(f"mkdir -p {place} && mount --bind {folder} {place}")
            if mount.get("readOnly"):
                steps.append(f"mount -o remount,bind,ro {place}")
        return " && ".join([*steps, 'exec "$@"'])

    def _named_here(self, container: Object, words: Sequence[str]) -> list[str]:
        """The words with the paths of volumes that are not mounted."""
        for mount in container.get("volumeMounts", []):
            if not Path(mount["mountPath"]).resolve().is_relative_to("/run"):
                folder = str(self.volumes[mount["name"]])
                words = [word.replace(mount["mountPath"], folder) for word in words]
        return list(words)


@asynccontextmanager
async def running_pod(
    spec: Object,
    folder: Path,
    contents: Mapping[str, Mapping[str, str]],
    variables: Mapping[str, str],
) -> AsyncIterator[RunningPod]:
    """Run a Pod with this `spec` until its readiness probes pass.

    `folder` gets the volumes. `contents` has the files of those that are not empty at first, by volume.
    `variables` are those of the cluster and the fields of the downward API.

    Raises:
        ProcessFailed: see `RunningPod.start`.
    """
    volumes = {volume["name"]: folder / volume["name"] for volume in spec["volumes"]}
    for name, path in volumes.items():
        path.mkdir()
        for file, text in contents.get(name, {}).items():
            (path / file).write_text(text)
    pod = RunningPod(spec, volumes, variables)
    try:
        await pod.start()
        yield pod
    finally:
        for process in reversed(pod.processes.values()):
            await process.stop(5)
