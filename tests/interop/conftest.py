"""grpc-go as a process: built by `make interop` where Go is."""

import asyncio
import contextlib
import os
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

BINARY = Path(
    os.environ.get("GRPC_GO", Path(__file__).parents[2] / "build" / "go" / "grpc-go")
).absolute()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not BINARY.exists():
        skip = pytest.mark.skip(reason="no grpc-go peer: `make interop` builds it where Go is")
        for item in items:
            if Path(__file__).parent in item.path.parents:
                item.add_marker(skip)


@contextlib.asynccontextmanager
async def grpc_go(*arguments: str) -> AsyncIterator[Process]:
    """The program, ended at the end of the block."""
    process = await asyncio.create_subprocess_exec(
        str(BINARY), *arguments, stdin=PIPE, stdout=PIPE, stderr=DEVNULL
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


async def line(process: Process) -> str:
    """The next line of its output."""
    assert process.stdout is not None
    async with asyncio.timeout(50):
        return (await process.stdout.readline()).decode().strip()


@contextlib.asynccontextmanager
async def server(*flags: str) -> AsyncIterator[tuple[Process, str]]:
    """grpc-go as a server, and its address."""
    async with grpc_go("serve", *flags) as process:
        yield process, await line(process)
