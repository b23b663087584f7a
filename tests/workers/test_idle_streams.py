"""Ten thousand streams that wait, on one worker: what they cost, and that they leave nothing behind.

`python -m tests.workers.test_idle_streams` prints the figures.
"""

import asyncio
import contextlib
import sys
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psutil
import pytest
import yaml

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.picker.client import PROCESS
from epp_client.wire.native import NativeTransport
from epp_client.wire.protocol import ClientProtocol, as_protocol
from epp_client.wire.transport import NoOwner, Stream, StreamEvents
from testbed.stack import inference_pool, pod, service

from ..relay.conversation import picked, request_headers
from ..wire.test_native import loopback

STREAMS = 10_000
CONNECTIONS = 4
"""Of Envoy's threads."""


class Picker(NoOwner):
    """Picks, and never says more."""

    def __init__(self, stream: Stream) -> None:
        self._stream = stream

    def message_received(self, message: bytes) -> None:
        self._stream.send(picked("10.0.0.1:8000"))


def accept(stream: Stream, path: str, metadata: object) -> StreamEvents:
    del path, metadata
    return Picker(stream)


class Waiting(NoOwner):
    """One of Envoy's streams; counts down when it has its pick."""

    def __init__(self, told: asyncio.Event, left: list[int]) -> None:
        self._told = told
        self._left = left
        self.messages: list[bytes] = []

    def message_received(self, message: bytes) -> None:
        self.messages.append(message)
        self._left[0] -= 1
        if not self._left[0]:
            self._told.set()


@dataclass
class Worker:
    """The relay worker of a running sidecar, and the way to it."""

    process: psutil.Process
    protocols: list[ClientProtocol]
    served: bool = False
    """Whether all of the newest streams have got a pick, and no refusal."""

    @property
    def megabytes(self) -> float:
        return float(self.process.memory_info().rss) / 1e6

    @property
    def descriptors(self) -> int:
        return int(self.process.num_fds())

    async def open(self, count: int) -> list[Stream]:
        """So many streams, each with its pick, none with an end."""
        told, left = asyncio.Event(), [count]
        waiting = [Waiting(told, left) for _ in range(count)]
        streams = []
        for n, owner in enumerate(waiting):
            connection = self.protocols[n % len(self.protocols)].connection
            stream = connection.open(PROCESS, {"x-inference-pool": "default/p"}, owner)
            stream.send(request_headers(True, authorization=f"Bearer {n}", x_request_id=str(n)))
            streams.append(stream)
            if n % 500 == 499:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(60):
            await told.wait()
        answers = {
            ProcessingResponse.FromString(owner.messages[0]).WhichOneof("response")
            for owner in waiting
        }
        self.served = answers == {"request_headers"}
        return list(streams)

    async def close(self, streams: list[Stream]) -> None:
        for n, stream in enumerate(streams):
            stream.cancel()
            if n % 500 == 499:
                await asyncio.sleep(0.05)
        # whoever is served now comes after all of that
        (last,) = await self.open(1)
        last.cancel()


@contextlib.asynccontextmanager
async def running_worker(folder: Path, transport: str = "native") -> AsyncIterator[Worker]:
    sock, address = loopback()
    picker = await NativeTransport().serve_socket(sock, accept)
    pool = inference_pool(
        "p", 8000, "epp", "FailOpen", annotations={"epp-client.dev/tls": "plaintext"}
    )
    (folder / "pools.yaml").write_text(
        yaml.safe_dump_all([pod("model-0", "10.0.0.1"), *service("epp", address), pool])
    )
    path = folder / "s"
    sidecar = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "epp_client", "serve", "--pools", str(folder / "pools.yaml")),
        *("--socket", str(path), "--no-xds", "--admin", "127.0.0.1:0", "--transport", transport),
        stderr=asyncio.subprocess.DEVNULL,
    )
    protocols: list[ClientProtocol] = []
    try:
        async with asyncio.timeout(60):
            while not path.exists():
                assert sidecar.returncode is None
                await asyncio.sleep(0.05)
        loop = asyncio.get_running_loop()
        for _ in range(CONNECTIONS):
            protocol = ClientProtocol("http", "sidecar", 3600, 3600)
            await loop.create_unix_connection(partial(as_protocol, protocol), str(path))
            protocols.append(protocol)
            await protocol.ready
        (process,) = psutil.Process(sidecar.pid).children()
        worker = Worker(process, protocols)
        async with asyncio.timeout(60):
            # the pools are read, and the picker's connection is there
            while not worker.served:
                (first,) = await worker.open(1)
                first.cancel()
        yield worker
    finally:
        for protocol in protocols:
            protocol.end("done")
        with contextlib.suppress(ProcessLookupError):
            sidecar.terminate()
        await sidecar.wait()
        await picker.drain(0)


async def rounds(worker: Worker) -> dict[str, list[float]]:
    """Megabytes and descriptors: idle, with a tenth, with all, with none again, with all again."""
    found: dict[str, list[float]] = {"megabytes": [], "descriptors": []}

    def note() -> None:
        found["megabytes"].append(worker.megabytes)
        found["descriptors"].append(worker.descriptors)

    note()
    few = await worker.open(STREAMS // 10)
    note()
    rest = await worker.open(STREAMS - STREAMS // 10)
    assert worker.served
    note()
    await worker.close(few + rest)
    note()
    again = await worker.open(STREAMS)
    note()
    await worker.close(again)
    return found


@pytest.mark.timeout(180)
async def test_ten_thousand_waiting_streams_are_bounded_and_leave_nothing(tmp_path: Path) -> None:
    async with running_worker(tmp_path) as worker:
        found = await rounds(worker)
    idle, few, many, _, again = found["megabytes"]
    assert idle < 90
    assert few < 250
    assert many < 400
    assert again < many * 1.1, "what the first ten thousand took was not there for the next"
    assert len(set(found["descriptors"])) == 1, "a stream needs no descriptor"


async def main() -> None:
    for transport in sys.argv[1:] or ["native"]:
        with tempfile.TemporaryDirectory() as folder:
            async with running_worker(Path(folder), transport) as worker:
                for name, values in (await rounds(worker)).items():
                    print(transport, name, [round(value, 1) for value in values])


if __name__ == "__main__":
    asyncio.run(main())
