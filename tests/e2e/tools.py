"""What the end-to-end tests ask with, and look at."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Collection
from contextlib import asynccontextmanager
from typing import Any

import grpc
import httpx
from grpc import aio
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from epp_client.data_plane.plane import DataPlane
from epp_client.data_plane.service import ExtProcService
from testbed import yaml_text
from testbed.conversation import Record
from testbed.picker import start_picker
from testbed.stack import Stack, service

HEADER_TO_METADATA = {
    "name": "envoy.filters.http.header_to_metadata",
    "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.header_to_metadata.v3.Config",
        "request_rules": [
            {
                "header": header,
                "remove": True,
                "on_header_present": {
                    "metadata_namespace": "envoy.lb.subset_hint",
                    "key": "x-gateway-destination-endpoint-subset",
                    **kind,
                },
            }
            for header, kind in (
                ("x-subset", {"type": "STRING"}),
                ("x-subset-list", {"type": "PROTOBUF_VALUE", "encode": "BASE64"}),
            )
        ],
    },
}
"""Makes a subset hint of a client's header: no gateway would, but tests must say it somehow."""


def connection_manager(bootstrap: dict[str, Any]) -> dict[str, Any]:
    """The HTTP connection manager of a bootstrap, to be changed in place."""
    listener = bootstrap["static_resources"]["listeners"][0]
    manager: dict[str, Any] = listener["filter_chains"][0]["filters"][0]["typed_config"]
    return manager


def with_subset_hints(bootstrap: dict[str, Any]) -> None:
    """Put HEADER_TO_METADATA before ext_proc."""
    connection_manager(bootstrap)["http_filters"].insert(0, HEADER_TO_METADATA)


async def echo(
    client: httpx.AsyncClient, stack: Stack, pool: str, body: bytes = b"hello", **headers: Any
) -> httpx.Response:
    """POST `body` to a pool's echo; `_` in header names is `-`."""
    named = {key.replace("_", "-"): value for key, value in headers.items()}
    return await client.post(stack.pool_url(pool) + "/echo", content=body, headers=named)


async def until(
    client: httpx.AsyncClient,
    stack: Stack,
    pool: str,
    seen: Callable[[httpx.Response], bool],
    **headers: Any,
) -> list[httpx.Response]:
    """Ask until an answer shows the change; all answers on the way."""
    answers: list[httpx.Response] = []
    async with asyncio.timeout(60):
        while not answers or not seen(answers[-1]):
            answers.append(await echo(client, stack, pool, **headers))
    return answers


async def routable(stack: Stack, pool: str, keys: Collection[str]) -> None:
    """Until Envoy has these endpoints of a pool."""
    async with asyncio.timeout(60):
        while True:
            snapshot = stack.sidecar.store.snapshots.get(f"default/{pool}")
            if snapshot is not None and all(map(snapshot.routable, keys)):
                return
            await asyncio.sleep(0.02)


def ext_proc_service(stack: Stack) -> ExtProcService:
    """The service of a sidecar without worker processes."""
    assert isinstance(stack.sidecar.relay, DataPlane)
    return stack.sidecar.relay.service


async def settled(stack: Stack) -> None:
    """Until Envoy has closed every stream: it does so a moment after the client has its answer."""
    async with asyncio.timeout(60):
        while ext_proc_service(stack).open_sessions:
            await asyncio.sleep(0.01)


async def metrics(client: httpx.AsyncClient, stack: Stack) -> dict[str, Metric]:
    """The metric families of the admin page, by name."""
    text = (await client.get(f"http://{stack.sidecar.admin_address}/metrics")).text
    families = text_string_to_metric_families(text)
    return {family.name: family for family in families if not family.name.endswith("_created")}


def split(labels: dict[str, str]) -> dict[str, str]:
    """With the labels `namespace` and `pool` for a pool that is `namespace/name`."""
    namespace, slash, pool = labels.get("pool", "").rpartition("/")
    return {**labels, "namespace": namespace, "pool": pool} if slash else labels


def value(families: dict[str, Metric], family: str, **labels: str) -> float:
    """The sum of a family's samples that have these labels. `pool` is `namespace/name`."""
    labels = split(labels)
    return sum(
        sample.value
        for sample in families[family].samples
        if labels.items() <= sample.labels.items()
        and not sample.name.endswith(("_created", "_bucket"))
    )


def replace_manifest(stack: Stack, text: str) -> None:
    """Write the manifest of a stack by renaming, as editors do."""
    path = stack.manifests / "all.yaml"
    new = path.with_suffix(".new")
    new.write_text(text)
    new.rename(path)


def edit(stack: Stack, change: Callable[[dict[str, Any]], None]) -> None:
    """Change every object of the manifest in place."""
    objects = list(yaml_text.read_all((stack.manifests / "all.yaml").read_text()))
    for item in objects:
        change(item)
    replace_manifest(stack, yaml_text.write_all(objects))


@asynccontextmanager
async def edited(stack: Stack, change: Callable[[dict[str, Any]], None]) -> AsyncIterator[None]:
    """`edit`, until the end of the block."""
    before = (stack.manifests / "all.yaml").read_text()
    edit(stack, change)
    try:
        yield
    finally:
        replace_manifest(stack, before)


def add_objects(stack: Stack, objects: list[dict[str, Any]], name: str = "more.yaml") -> None:
    """Add a manifest; written by renaming, as ConfigMaps do."""
    new = stack.manifests / f"{name}.new"
    new.write_text(yaml_text.write_all(objects))
    new.rename(stack.manifests / name)


async def remove_objects(client: httpx.AsyncClient, stack: Stack, name: str, *pools: str) -> None:
    """Remove a manifest, and wait until the sidecar has forgotten its pools: a later test may add pools of
    the same names, and would see the pickers of these."""
    (stack.manifests / name).unlink()
    async with asyncio.timeout(60):
        for pool in pools:
            url = f"http://{stack.sidecar.admin_address}/pools/default/{pool}"
            while (await client.get(url)).status_code != 404:
                await asyncio.sleep(0.02)


@asynccontextmanager
async def recording_picker(
    name: str, endpoints: list[str], dialects: list[str] | None = None
) -> AsyncIterator[tuple[list[dict[str, Any]], list[Record]]]:
    """A picker in this process: the objects of its Service, and what it has seen."""
    records: list[Record] = []
    server, address = await start_picker(
        "127.0.0.1:0", endpoints, None, dialects or [], records.append
    )
    try:
        yield service(name, address), records
    finally:
        await server.stop(0)


async def record_of(records: list[Record], mark: str) -> Record:
    """What the picker has seen of the request with header `x-mark`: it tells at the stream's end."""
    async with asyncio.timeout(60):
        while True:
            for record in records:
                if record.headers.get("x-mark") == mark:
                    return record
            await asyncio.sleep(0.01)


async def raw_stream(
    target: str, method: str, messages: list[bytes], **metadata: str
) -> list[bytes]:
    """Open a gRPC stream of bytes, send, and read all answers."""
    named = tuple((key.replace("_", "-"), text) for key, text in metadata.items())
    async with aio.insecure_channel(target) as channel:
        call = channel.stream_stream(method)(metadata=named)
        for message in messages:
            await call.write(message)
        await call.done_writing()
        answers: list[bytes] = []
        try:
            async for answer in call:
                answers.append(answer)
        except grpc.aio.AioRpcError as error:
            raise AssertionError(f"{error.code()}: {error.details()}") from error
        return answers


async def streaming(url: str, tokens: int, first: asyncio.Event) -> str:
    """A streamed completion, a token every 100 ms. Sets `first` when it has begun."""
    headers = {"x-max-tokens": str(tokens), "x-token-interval-ms": "100"}
    body = {"model": "llama", "prompt": "Hello", "stream": True}
    received = ""
    async with (
        httpx.AsyncClient(timeout=60) as client,
        client.stream("POST", f"{url}/v1/completions", headers=headers, json=body) as answer,
    ):
        async for text in answer.aiter_text():
            received += text
            first.set()
    return received


COMMAND = (sys.executable, "-m", "epp_client")


async def run(*arguments: str) -> tuple[int, str]:
    """The exit code of a command of `epp-client`, and all that it prints."""

    def call() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, *arguments], capture_output=True, text=True, timeout=40, check=False
        )

    done = await asyncio.to_thread(call)
    return done.returncode, done.stdout + done.stderr
