"""The volumes of a Pod as folders of this machine, with contents, modes and groups as a kubelet gives.

A folder per Pod: `volumes/<name>`. emptyDir with medium Memory is a tmpfs, so this process has to be in a
mount namespace of its own.
"""

import asyncio
import base64
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from testbed.cluster.api import Api, ApiError, Object
from testbed.cluster.kubelet.sandbox import run
from testbed.cluster.kubelet.spec import BadSpec, field

REFRESH = 60.0
"""Seconds between two readings of ConfigMaps, Secrets and tokens."""
_DEFAULT_MODE = 0o644
_PRIVATE = 0o600
"""Of a ServiceAccount token whose Pod has an fsGroup."""


@dataclass(frozen=True)
class File:
    """A file of a volume."""

    content: bytes
    mode: int


class Missing(Exception):
    """A ConfigMap or Secret is not there yet; the text names it."""


class Contents:
    """Reads the contents of volumes from the API server."""

    def __init__(self, api: Api) -> None:
        self._api = api

    async def data(self, kind: str, namespace: str, name: str) -> dict[str, bytes] | None:
        """What is in a ConfigMap or Secret; None if there is none."""
        item = {
            "apiVersion": "v1",
            "kind": kind,
            "metadata": {"name": name, "namespace": namespace},
        }
        try:
            found = await self._api.get(item)
        except ApiError as error:
            if error.status == 404:
                return None
            raise
        if kind == "Secret":
            return {k: base64.b64decode(v) for k, v in (found.get("data") or {}).items()}
        plain = {k: v.encode() for k, v in (found.get("data") or {}).items()}
        return plain | {k: base64.b64decode(v) for k, v in (found.get("binaryData") or {}).items()}

    async def files(self, volume: Object, pod: Object) -> dict[str, File] | None:
        """The files of a volume; None for an empty one.

        Raises:
            Missing: a source is not there yet.
            BadSpec: the volume is of a kind that is not known here.
        """
        if "emptyDir" in volume:
            return None
        for kind, word in (("configMap", "ConfigMap"), ("secret", "Secret")):
            if kind in volume:
                source = volume[kind]
                return await self._taken(
                    word, source.get("secretName", source.get("name")), source, pod
                )
        if "downwardAPI" in volume:
            return _downward(volume["downwardAPI"], pod)
        if "projected" in volume:
            return await self._projected(volume["projected"], pod)
        raise BadSpec(f"volume {volume['name']} is of a kind that is not known here")

    async def _projected(self, projected: Object, pod: Object) -> dict[str, File]:
        mode = int(projected.get("defaultMode", _DEFAULT_MODE))
        files: dict[str, File] = {}
        for source in projected["sources"]:
            if "serviceAccountToken" in source:
                asked = source["serviceAccountToken"]
                grouped = "fsGroup" in (pod["spec"].get("securityContext") or {})
                token = (await self._token(asked, pod)).encode()
                files[asked["path"]] = File(token, _PRIVATE if grouped else mode)
            elif "downwardAPI" in source:
                files |= _downward({"defaultMode": mode, **source["downwardAPI"]}, pod)
            else:
                kind = "ConfigMap" if "configMap" in source else "Secret"
                given = {"defaultMode": mode, **source[kind[0].lower() + kind[1:]]}
                files |= await self._taken(kind, given["name"], given, pod)
        return files

    async def _taken(self, kind: str, name: str, source: Object, pod: Object) -> dict[str, File]:
        data = await self.data(kind, pod["metadata"]["namespace"], name)
        if data is None:
            if source.get("optional"):
                return {}
            raise Missing(f"there is no {kind} {name} yet")
        mode = int(source.get("defaultMode", _DEFAULT_MODE))
        if "items" not in source:
            return {key: File(content, mode) for key, content in data.items()}
        files = {}
        for item in source["items"]:
            if item["key"] in data:
                files[item["path"]] = File(data[item["key"]], int(item.get("mode", mode)))
            elif not source.get("optional"):
                raise Missing(f"there is no key {item['key']} in {kind} {name} yet")
        return files

    async def _token(self, asked: Object, pod: Object) -> str:
        """By TokenRequest, bound to the Pod."""
        metadata = pod["metadata"]
        account = pod["spec"].get("serviceAccountName", "default")
        bound = {
            "apiVersion": "v1",
            "kind": "Pod",
            "name": metadata["name"],
            "uid": metadata["uid"],
        }
        spec: Object = {
            "expirationSeconds": asked.get("expirationSeconds", 3600),
            "boundObjectRef": bound,
        }
        if "audience" in asked:
            spec["audiences"] = [asked["audience"]]
        answer = await self._api.call(
            "POST",
            f"/api/v1/namespaces/{metadata['namespace']}/serviceaccounts/{account}/token",
            {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec},
        )
        return str(answer["status"]["token"])


def _downward(source: Object, pod: Object) -> dict[str, File]:
    mode = int(source.get("defaultMode", _DEFAULT_MODE))
    return {
        item["path"]: File(field(pod, item["fieldRef"]["fieldPath"]).encode(), mode)
        for item in source.get("items") or ()
    }


@asynccontextmanager
async def mounted_volumes(
    pod: Object, contents: Contents, folder: Path
) -> AsyncIterator[dict[str, Path]]:
    """The folders of a Pod's volumes by name, until the Pod ends.

    Raises:
        Missing: see `Contents.files`; nothing is left then.
        BadSpec: as there.
    """
    group = _group(pod)
    folders: dict[str, Path] = {}
    async with AsyncExitStack() as owner:
        owner.callback(shutil.rmtree, folder, ignore_errors=True)
        for volume in pod["spec"].get("volumes") or ():
            path = folder / volume["name"]
            path.mkdir(parents=True)
            if volume.get("emptyDir", {}).get("medium") == "Memory":
                size = _bytes(volume["emptyDir"].get("sizeLimit", "64Mi"))
                await run(f"mount -t tmpfs -o size={size} tmpfs '{path}'")
                owner.push_async_callback(run, f"umount -l '{path}'")
            files = await contents.files(volume, pod)
            _fill(path, files, group)
            folders[volume["name"]] = path
        yield folders


def _group(pod: Object) -> int | None:
    group: int | None = (pod["spec"].get("securityContext") or {}).get("fsGroup")
    return group


async def keep_fresh(pod: Object, contents: Contents, folders: Mapping[str, Path]) -> None:
    """Read the contents of volumes again and again: tokens expire, ConfigMaps and Secrets change. Files
    whose key is gone stay. Ends when it is cancelled."""
    while True:
        await asyncio.sleep(REFRESH)
        for volume in pod["spec"].get("volumes") or ():
            # A source that is gone, or an API server that is away: what was read stays.
            with contextlib.suppress(Missing, ApiError, aiohttp.ClientError, TimeoutError):
                if files := await contents.files(volume, pod):
                    _fill(folders[volume["name"]], files, _group(pod))


def _fill(path: Path, files: Mapping[str, File] | None, group: int | None) -> None:
    if files is None:
        path.chmod(0o777)
    for name, file in (files or {}).items():
        target, new = path / name, path / f"{name}.new"
        target.parent.mkdir(parents=True, exist_ok=True)
        new.write_bytes(file.content)
        new.chmod(file.mode)
        if group is not None:
            os.chown(new, -1, group)
            # What the owner may read, the group may read.
            new.chmod(file.mode | (file.mode & 0o400) >> 3)
        # A reader sees the old content or the new one.
        new.rename(target)
    if group is not None:
        os.chown(path, -1, group)
        path.chmod(path.stat().st_mode & 0o777 | 0o2070)


def _bytes(quantity: str) -> int:
    for suffix, factor in (("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30)):
        if quantity.endswith(suffix):
            return int(quantity.removesuffix(suffix)) * factor
    return int(quantity)


async def until_there(
    owner: AsyncExitStack, pod: Object, contents: Contents, folder: Path
) -> dict[str, Path]:
    """The volumes of a Pod, once all that they take is there.

    Raises:
        BadSpec: see `Contents.files`.
    """
    while True:
        try:
            return await owner.enter_async_context(mounted_volumes(pod, contents, folder))
        except Missing:
            await asyncio.sleep(0.5)
