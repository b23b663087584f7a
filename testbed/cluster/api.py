"""A client of the API server for tests, with calls like kubectl's. To follow objects: `watch`."""

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import aiohttp
import yaml

Object = dict[str, Any]

MERGE = "application/merge-patch+json"
_LINE = 4 * 1024 * 1024
"""Bytes of the longest event of a watch."""
STATUS = "status"


class ApiError(Exception):
    """The API server refused. `status` is the HTTP status, `text` the body."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status}: {text}")
        self.status = status
        self.text = text


@dataclass(frozen=True)
class Kubeconfig:
    """Access of one identity to the API server."""

    server: str
    ca_file: Path
    cert_file: Path | None = None
    key_file: Path | None = None
    token: str | None = None

    def write(self, path: Path) -> Path:
        """Write it as a kubeconfig file."""
        user: Object = {"token": self.token}
        if self.token is None:
            user = {
                "client-certificate": str(self.cert_file),
                "client-key": str(self.key_file),
            }
        cluster = {"server": self.server, "certificate-authority": str(self.ca_file)}
        text = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": user}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "current-context": "test",
        }
        path.write_text(yaml.safe_dump(text))
        return path

    def tls(self) -> ssl.SSLContext:
        """A context that verifies the server and has the client certificate, if there is one."""
        context = ssl.create_default_context(cafile=str(self.ca_file))
        if self.cert_file is not None:
            context.load_cert_chain(self.cert_file, self.key_file)
        return context


def read_kubeconfig(path: Path) -> Kubeconfig:
    """The access that `Kubeconfig.write` has written."""
    text = yaml.safe_load(path.read_text())
    cluster, user = text["clusters"][0]["cluster"], text["users"][0]["user"]
    files = [user.get(key) for key in ("client-certificate", "client-key")]
    cert, key = (Path(name) if name else None for name in files)
    authority = Path(cluster["certificate-authority"])
    return Kubeconfig(cluster["server"], authority, cert, key, user.get("token"))


@dataclass
class Api:
    """A client with one identity."""

    identity: Kubeconfig
    _session: aiohttp.ClientSession = field(init=False)
    _paths: dict[tuple[str, str], tuple[str, bool]] = field(default_factory=dict)

    async def __aenter__(self) -> Self:
        headers = {}
        if self.identity.token is not None:
            headers["authorization"] = f"Bearer {self.identity.token}"
        self._session = aiohttp.ClientSession(
            headers=headers,
            connector=aiohttp.TCPConnector(ssl=self.identity.tls(), limit=32),
            timeout=aiohttp.ClientTimeout(total=30),
        )
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self._session.close()

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        """Send one request.

        Raises:
            ApiError: the server refused it.
        """
        headers = {"content-type": content_type} if body is not None else {}
        async with self._session.request(
            method, self.identity.server + path, json=body, params=query, headers=headers
        ) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await answer.text())
            if "json" in answer.content_type:
                return await answer.json()
            return await answer.text()

    async def lines(self, path: str, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The lines of an answer as they come, such as those of a watch.

        Raises:
            ApiError: the server refused it.
        """
        forever = aiohttp.ClientTimeout(total=None, sock_connect=5)
        async with self._session.get(
            self.identity.server + path, params=query, timeout=forever, read_bufsize=_LINE
        ) as answer:
            if answer.status >= 400:
                raise ApiError(answer.status, await answer.text())
            async for line in answer.content:
                yield line

    async def _collection(self, item: Object) -> str:
        """The path of an object's collection, from discovery."""
        version, kind = item["apiVersion"], item["kind"]
        root = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if (version, kind) not in self._paths:
            for resource in (await self.call("GET", root))["resources"]:
                if "/" not in resource["name"]:
                    known = (resource["name"], resource["namespaced"])
                    self._paths[version, resource["kind"]] = known
        name, namespaced = self._paths[version, kind]
        if not namespaced:
            return f"{root}/{name}"
        return f"{root}/namespaces/{item['metadata'].get('namespace', 'default')}/{name}"

    async def path(self, item: Object, subresource: str = "") -> str:
        """The path of an object."""
        own = f"{await self._collection(item)}/{item['metadata']['name']}"
        return f"{own}/{subresource}" if subresource else own

    async def create(self, item: Object, *, dry_run: bool = False) -> Object:
        """Create an object, and patch its status if it has one: the server ignores it in the POST."""
        query = {"fieldValidation": "Strict"} | ({"dryRun": "All"} if dry_run else {})
        made: Object = await self.call("POST", await self._collection(item), item, query=query)
        if "status" in item and not dry_run:
            made = await self.patch(item, {"status": item["status"]}, STATUS)
        return made

    async def apply(self, items: Sequence[Object], *, dry_run: bool = False) -> None:
        """Apply like `kubectl apply --server-side`; unknown fields are refused."""
        query = {"fieldManager": "tests", "force": "true", "fieldValidation": "Strict"}
        if dry_run:
            query["dryRun"] = "All"
        for item in items:
            await self.call(
                "PATCH",
                await self.path(item),
                item,
                query=query,
                content_type="application/apply-patch+yaml",
            )

    async def get(self, item: Object) -> Object:
        """The current object with the identity of `item`."""
        found: Object = await self.call("GET", await self.path(item))
        return found

    async def patch(self, item: Object, change: Object, subresource: str = "") -> Object:
        """Apply a JSON merge patch."""
        path = await self.path(item, subresource)
        changed: Object = await self.call("PATCH", path, change, content_type=MERGE)
        return changed

    async def delete(self, item: Object, grace: int = 0) -> None:
        """Delete an object. A Pod with a `grace` stays terminating, as no kubelet ends it."""
        await self.call("DELETE", await self.path(item), {"gracePeriodSeconds": grace})
