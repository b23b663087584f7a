"""The names of our sockets are removed from under us: they are bound again, and nobody is cut off."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import httpx
import pytest

from epp_client.settings import TransportName
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.stack import ENVOY_HOST, Stack, running_stack

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(180)]

LONG = {"stream": True, "max_tokens": 40, "token_interval_ms": 250}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for nothing but sockets; a short path, as sockets want it."""
    with tempfile.TemporaryDirectory(prefix="epp-") as outer:
        inner = Path(outer) / "run"
        inner.mkdir()
        yield inner


async def until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not seen():
            await asyncio.sleep(0.02)


def sockets(stack: Stack) -> list[Path]:
    settings = stack.sidecar.settings
    assert settings.xds_socket is not None
    return [*settings.sockets, settings.xds_socket]


def trouble(stack: Stack) -> str:
    return stack.sidecar.readiness.reasons.get("sockets", "")


async def tokens(client: httpx.AsyncClient, url: str, began: asyncio.Event) -> str:
    said = ""
    async with client.stream("POST", f"{url}/v1/chat/completions", json=LONG) as answer:
        assert answer.status_code == 200
        async for text in answer.aiter_text():
            said += text
            began.set()
    return said


async def another_envoy(bootstrap: dict[str, Any]) -> AsyncIterator[str]:
    """An Envoy that starts now, with the same configuration on other ports; its URL."""
    listener, admin = [(ENVOY_HOST, port) for port in free_ports(2)]
    edited = deepcopy(bootstrap)
    resources = edited["static_resources"]
    resources["listeners"][0]["address"]["socket_address"]["port_value"] = listener[1]
    edited["admin"]["address"]["socket_address"]["port_value"] = admin[1]
    async with running_envoy(edited, admin):
        yield f"http://{ENVOY_HOST}:{listener[1]}"


@pytest.mark.parametrize("transport", TransportName)
@pytest.mark.parametrize("workers", [0, 2])
async def test_sockets_whose_folder_is_removed_are_bound_again_and_no_stream_is_cut(
    transport: TransportName, workers: int, folder: Path
) -> None:
    bootstraps: list[dict[str, Any]] = []
    async with (
        running_stack(
            transport=transport,
            workers=workers,
            socket=folder / "ext-proc.sock",
            xds_socket=folder / "xds.sock",
            edit_bootstrap=bootstraps.append,
        ) as stack,
        httpx.AsyncClient(timeout=60) as client,
    ):
        began = asyncio.Event()
        answer = asyncio.create_task(tokens(client, stack.pool_url("close"), began))
        await began.wait()

        shutil.rmtree(folder)
        await until(lambda: trouble(stack).count("cannot be bound again") == len(sockets(stack)))
        assert "sockets" in stack.sidecar.readiness.reasons
        folder.mkdir()
        await until(lambda: not trouble(stack) and all(s.is_socket() for s in sockets(stack)))

        # One name after the other, as somebody cleans a folder.
        for path in sockets(stack):
            path.unlink()
            await until(lambda path=path: path.is_socket())
        await until(lambda: not trouble(stack))

        async for url in another_envoy(bootstraps[0]):
            for pool in ("close", "open"):
                reply = await client.post(f"{url}/default/{pool}/echo", content=b"hello")
                assert reply.status_code == 200, (pool, reply.headers, reply.text)
        assert (await answer).endswith("data: [DONE]\n\n")
        reply = await client.post(stack.pool_url("close") + "/echo", content=b"hello")
        assert reply.status_code == 200, reply.text
