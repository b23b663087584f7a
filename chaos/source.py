"""The source of the sidecar's pools: an API server behind a link, or a directory of manifests.

Both get the complete wanted state with each write. `pool_faults` decides about faults.
"""

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import Any

import aiohttp
import yaml

from chaos.peers import started
from epp_client.kubernetes.client.resources import Resource
from testbed import yaml_text
from testbed.kubernetes.double import ADMIN
from testbed.kubernetes.objects import ALL
from testbed.link import Link
from testbed.process import Process

Object = dict[str, Any]
_BY_KIND: dict[str, Resource] = {resource.kind: resource for resource in ALL}
Key = tuple[str, str, str]
"""Kind, namespace and name."""
_MERGE = {"content-type": "application/merge-patch+json"}


class SourceName(StrEnum):
    """How the sidecar gets its pools."""

    API = "api"
    """`serve --kubernetes`: list and watch, as in a cluster."""
    MANIFESTS = "manifests"
    """`serve --pools`: files that are replaced."""
    GATEWAY = "gateway"
    """As `api`, and Envoy's listeners and routes are those of a Gateway and its HTTPRoutes."""

    def has(self, wanted: "SourceName") -> bool:
        """Whether what needs the source `wanted` can run with this one."""
        return wanted is self or (self, wanted) == (SourceName.GATEWAY, SourceName.API)


class ManifestFolder:
    """A directory with one manifest."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "manifests"
        self.options = ["--pools", str(self._folder)]
        """Options of `serve`."""

        self.ready_pods: set[str] = set()
        """Ready Pods of the last write."""

    async def start(self) -> None:
        """Create the directory."""
        self._folder.mkdir(parents=True)

    async def write(self, objects: list[Object] | str) -> None:
        """Replace the manifest by renaming, as editors and ConfigMaps do."""
        if not isinstance(objects, str):
            self.ready_pods = _ready_pods(objects)
        new = self._folder / "all.new"
        new.write_text(objects if isinstance(objects, str) else yaml_text.write_all(objects))
        new.rename(self._folder / "all.yaml")

    async def stop(self) -> None:
        """Nothing to stop."""


class ApiServer:
    """An API server process. Tests write to it directly; the sidecar connects through the link."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.link = Link(seed)
        self._folder = folder
        self._kubeconfig = folder / "kubeconfig"
        self.last_known = folder / "last-known.json"
        """The sidecar's last-known file."""
        self.options = [
            "--kubernetes",
            "--kubeconfig",
            str(self._kubeconfig),
            "--last-known",
            str(self.last_known),
        ]
        """Options of `serve`."""
        self.ready_pods: set[str] = set()
        """Ready Pods of the last write."""
        self._known: dict[Key, Object] = {}
        self._routing: dict[Key, Object] = {}
        """The written objects of a Gateway."""
        self._process: Process | None = None
        self._http: aiohttp.ClientSession | None = None
        self._address = ""

    @property
    def process(self) -> Process:
        """The running server."""
        assert self._process is not None
        return self._process

    async def start(self) -> None:
        """Start the server and the link, and write a kubeconfig for the link."""
        self._folder.mkdir(parents=True, exist_ok=True)
        self._http = aiohttp.ClientSession(
            headers={"authorization": f"Bearer {ADMIN}"},
            timeout=aiohttp.ClientTimeout(total=30),
        )
        await self.start_process()
        await self.connect()
        self._kubeconfig.write_text(
            yaml.safe_dump(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "chaos",
                    "contexts": [{"name": "chaos", "context": {"cluster": "c", "user": "u"}}],
                    "clusters": [
                        {"name": "c", "cluster": {"server": f"http://{self.link.address}"}}
                    ],
                    "users": [{"name": "u", "user": {}}],
                }
            )
        )

    async def start_process(self) -> None:
        """Start the server with the state of its journal. The sidecar can reach it after `connect`."""
        self._process, ready = await started("chaos.api_server", str(self._folder / "journal"))
        self._address = str(ready["address"])

    async def connect(self) -> None:
        """Let the sidecar reach the server."""
        await self.link.up(self._address)

    async def kill(self) -> None:
        """SIGKILL. Connections are refused until `start_process` and `connect`."""
        await self.process.kill()
        await self.link.down()

    async def write(self, objects: list[Object]) -> None:
        """Create, patch and delete what has changed since the last time."""
        self.ready_pods = _ready_pods(objects)
        await self._change(objects, self._known)

    async def write_routing(self, objects: list[Object]) -> None:
        """The same for the objects of a Gateway, again and again while the server is away."""
        while True:
            try:
                await self._change(objects, self._routing)
                return
            except (OSError, aiohttp.ClientError, TimeoutError):
                await asyncio.sleep(0.05)

    async def _change(self, objects: list[Object], known: dict[Key, Object]) -> None:
        wanted = {_key(item): item for item in objects}
        for key in known.keys() - wanted.keys():
            # A server that was killed may have carried it out.
            await self._ask("DELETE", *key, carried_out=404)
            del known[key]
        for key, item in wanted.items():
            before = known.get(key)
            if before is None:
                created = await self._ask("POST", *key, data=item, carried_out=409)
                before = {**item, "status": None} if created else {}
            if _without_status(item) != _without_status(before):
                await self._ask("PATCH", *key, data=_without_status(item))
            if item.get("status") != before.get("status"):
                await self._ask("PATCH", *key, "status", data={"status": item["status"]})
            known[key] = item

    async def _ask(
        self,
        method: str,
        kind: str,
        namespace: str,
        name: str,
        subresource: str = "",
        data: Object | None = None,
        carried_out: int = 0,
    ) -> bool:
        """Send a request; returns False for the status `carried_out`."""
        assert self._http is not None
        at = "" if method == "POST" else name
        url = f"http://{self._address}{_BY_KIND[kind].path(namespace, at, subresource)}"
        headers = _MERGE if method == "PATCH" else {}
        async with self._http.request(method, url, json=data, headers=headers) as answer:
            if answer.status != carried_out:
                answer.raise_for_status()
            return answer.status != carried_out

    async def stop(self) -> None:
        """Stop everything."""
        await self.link.down()
        if self._process is not None:
            await self._process.stop(1)
        if self._http is not None:
            await self._http.close()


def _key(item: Object) -> Key:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]


def _without_status(item: Object) -> Object:
    return {key: value for key, value in item.items() if key != "status"}


def _ready_pods(objects: list[Object]) -> set[str]:
    return {
        item["metadata"]["name"]
        for item in objects
        if item["kind"] == "Pod" and item["status"]["conditions"][0]["status"] == "True"
    }
