"""Whatever a client, a picker or a manifest says, the log says none of it: the real program, at debug."""

import asyncio
import contextlib
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp_client.picker.client import PROCESS
from epp_client.wire.http2 import frames
from epp_client.wire.native import NativeTransport
from epp_client.wire.protocol import ClientProtocol, as_protocol
from epp_client.wire.status import OK, Status
from epp_client.wire.transport import Stream, StreamEvents
from testbed.stack import inference_pool, pod, service

from ..relay.conversation import body, immediate, picked, request_headers, streamed
from ..wire.owners import Owner
from ..wire.raw import block
from ..wire.test_native import loopback, until

SECRET = "s3cr3t-"
"""Every secret below begins with it."""


class Picker(Owner):
    """Answers as its pool's name tells it to."""

    def __init__(self, stream: Stream, behaviour: str) -> None:
        super().__init__(stream=stream)
        self._behaviour = behaviour

    def message_received(self, message: bytes) -> None:
        assert self.stream is not None
        match self._behaviour:
            case "good":
                self.stream.send(picked("10.0.0.1:8000", x_token=SECRET + "picker-header"))
                self.stream.send(streamed(f"{SECRET}picker-body".encode(), True))
            case "outside":
                self.stream.send(picked(f"192.0.2.1:{SECRET}port"))
            case "garbage":
                self.stream.send(b"\xff\xff\xff" + SECRET.encode())
            case "refuses":
                self.stream.send(immediate(429))
            case "fails":
                self.stream.finish(Status(13))
            case "hangs":
                return
            case "resets":
                self.stream.cancel()


BEHAVIOURS = ("good", "outside", "garbage", "refuses", "fails", "hangs", "resets")


def write_manifests(folder: Path, addresses: Mapping[str, str]) -> None:
    documents = [pod("model-0", "10.0.0.1")]
    for name, address in addresses.items():
        documents += service(f"{name}-epp", address)
        for mode in ("FailOpen", "FailClose"):
            documents.append(
                inference_pool(
                    f"{name}-{mode.lower()}",
                    8000,
                    f"{name}-epp",
                    mode,
                    annotations={
                        "epp-client.dev/tls": "plaintext",
                        "epp-client.dev/pick-timeout": "0.3",
                    },
                )
            )
    (folder / "pools.yaml").write_text(yaml.safe_dump_all(documents))
    # What may lie beside the pools, and what is wrong in it.
    token = {"token": SECRET + "in-a-secret"}
    kubeconfig = {"apiVersion": "v1", "kind": "Config", "users": [{"name": "a", "user": token}]}
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": token}
    (folder / "kubeconfig.yaml").write_text(yaml.safe_dump_all([kubeconfig, secret]))
    (folder / "broken.yaml").write_text(f"token: {SECRET}in-broken-yaml\n  - [: {{\n")


async def ask(path: Path, pool: str, *, nonsense: bool = False) -> None:
    """One request with secrets everywhere, to its end."""
    protocol = ClientProtocol("http", "sidecar", 10, 5)
    await asyncio.get_running_loop().create_unix_connection(
        lambda: as_protocol(protocol), str(path)
    )
    async with asyncio.timeout(60):
        await protocol.ready
    call = Owner()
    metadata = {"x-inference-pool": pool, "authorization": f"Bearer {SECRET}in-metadata"}
    stream = call.stream = protocol.connection.open(PROCESS, metadata, call)
    headers: dict[str, Any] = {
        ":path": f"/v1/chat?key={SECRET}in-path",
        "authorization": f"Bearer {SECRET}in-header",
        "cookie": f"session={SECRET}in-cookie",
        "x-gateway-destination-endpoint": f"192.0.2.1:80{SECRET}",
    }
    stream.send(request_headers(**headers))
    stream.send(body(f'{{"prompt": "{SECRET}in-body"'.encode()))
    stream.send(body(b"}", True))
    await until(call, lambda: bool(call.messages) or call.status is not None)
    if nonsense:
        stream.send(f"\xff{SECRET}in-nonsense".encode("latin-1"))
    stream.finish(OK)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await until(call, lambda: call.status is not None)
    protocol.end("done")


async def speak_nonsense(path: Path) -> None:
    """Header blocks that cannot be read, or are malformed, and an HTTP/1.1 request."""
    field = [(":method", "POST"), ("authorization ", f"Bearer {SECRET}in-a-malformed-list")]
    for said in (
        frames.frame(frames.HEADERS, 5, 1, b"\x00\x0dauthorization\xff" + SECRET.encode()),
        frames.frame(frames.HEADERS, 5, 1, block(field)),
    ):
        reader, writer = await asyncio.open_unix_connection(str(path))
        writer.write(
            frames.PREFACE
            + frames.settings({})
            + said
            + frames.goaway(0, frames.ErrorCode.NO_ERROR, SECRET)
        )
        writer.write_eof()
        await reader.read()
        writer.close()
    reader, writer = await asyncio.open_unix_connection(str(path))
    writer.write(f"GET /?k={SECRET} HTTP/1.1\r\nauthorization: {SECRET}\r\n\r\n".encode())
    await reader.read()
    writer.close()


@pytest.mark.parametrize("transport", ["native", "grpcio"])
@pytest.mark.parametrize("workers", ["0", "1"])
async def test_no_secret_is_logged(transport: str, workers: str, tmp_path: Path) -> None:
    servers, addresses = [], {}
    for behaviour in BEHAVIOURS:

        def accept(
            stream: Stream, path: str, metadata: object, behaviour: str = behaviour
        ) -> StreamEvents:
            del path, metadata
            return Picker(stream, behaviour)

        sock, addresses[behaviour] = loopback()
        servers.append(await NativeTransport().serve_socket(sock, accept))
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    write_manifests(manifests, addresses)
    path, log = tmp_path / "s", tmp_path / "log"
    options = {
        "--pools": manifests,
        "--socket": path,
        "--xds-socket": tmp_path / "x",
        "--admin": "127.0.0.1:0",
        "--transport": transport,
        "--workers": workers,
        "--log-level": "debug",
    }
    with log.open("wb") as output:
        sidecar = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "epp_client", "serve"),
            *(str(word) for pair in options.items() for word in pair),
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(60):
            # Without an Envoy that takes endpoints the start waits 30 s for one, once a request is there.
            while '"serving"' not in log.read_text():
                assert sidecar.returncode is None, log.read_text()
                await asyncio.sleep(0.05)
            # Until the pools are known: a refusal for another reason would show nothing.
            while not servers[0]._protocols:
                await ask(path, "default/good-failopen")
        for behaviour in BEHAVIOURS:
            for mode in ("failopen", "failclose"):
                await ask(path, f"default/{behaviour}-{mode}")
        await ask(path, f"default/{SECRET}pool")
        await ask(path, "default/good-failopen", nonsense=True)
        await speak_nonsense(path)
        sidecar.send_signal(signal.SIGTERM)
        async with asyncio.timeout(60):
            assert await sidecar.wait() == 0
    finally:
        with contextlib.suppress(ProcessLookupError):
            sidecar.kill()
        await sidecar.wait()
        for server in servers:
            await server.drain(0)
    text = log.read_text()
    for expected in (
        "failed open",
        "refused a request",
        "envoy_protocol",
        "broken.yaml",
        "stopped",
    ):
        # it did speak
        assert expected in text, text
    assert SECRET not in text
