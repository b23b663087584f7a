"""The same answers of a picker through Envoy alone and through Envoy with us: what comes of each.

The picker is in this process and says what a test has it say; the client and the model server are plain
sockets that show the bytes of HTTP itself.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from grpc import aio

from epp_client.data_plane.plane import DataPlane
from epp_client.envoy.bootstrap import envoy_config
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.metrics.counters import PoolCounters
from epp_client.picker.client import PROCESS
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.settings import UpstreamMode, serve_settings
from epp_client.sidecar import Sidecar, running
from testbed import yaml_text
from testbed.envoy import Envoy, running_envoy
from testbed.ports import free_ports
from testbed.stack import inference_pool, pod, service

from .h2_peer import Message as H2Message
from .h2_peer import h2_server

HOST = "127.0.0.31"
MODEL = "127.0.0.32"
MODEL_H2C = "127.0.0.33"
LIMIT = 1 << 20
"""Bytes of a line that the plain sockets read: more than any header here."""
CASE = "x-case"
"""The request header by which a test finds its request at the picker and at the model server."""

Pairs = list[tuple[str, str]]
Edit = Callable[[str, ProcessingResponse], Sequence[ProcessingResponse | bytes] | None]
"""Changes an answer of the picker's in place, by its kind, or says what to send in its place."""


@dataclass
class Http:
    """One HTTP/1.1 message as it was on the wire. `framing` says what ended the body."""

    start: str = ""
    headers: Pairs = field(default_factory=list)
    body: bytes = b""
    trailers: Pairs = field(default_factory=list)
    framing: str = ""

    def get(self, name: str) -> str | None:
        """All values of a header, joined; None when there is none."""
        values = [value for key, value in self.headers if key.lower() == name]
        return ", ".join(values) if values else None


async def _fields(reader: asyncio.StreamReader) -> Pairs:
    pairs: Pairs = []
    while (line := (await reader.readuntil(b"\r\n"))[:-2]) != b"":
        key, _, value = line.decode("latin-1").partition(":")
        pairs.append((key, value.strip()))
    return pairs


async def read_http(reader: asyncio.StreamReader, *, response: bool) -> Http | None:
    """Read one message; None when the connection ended before one began."""
    try:
        start = await reader.readuntil(b"\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    message = Http(start[:-2].decode("latin-1"))
    message.headers = await _fields(reader)
    chunked = message.get("transfer-encoding") == "chunked"
    length = message.get("content-length")
    status = message.start.split(" ")[1] if response else ""
    if status in ("204", "304") or status.startswith("1"):
        message.framing = "none"
    elif chunked:
        message.framing = "chunked"
        while size := int((await reader.readuntil(b"\r\n"))[:-2].split(b";")[0], 16):
            message.body += await reader.readexactly(size)
            await reader.readexactly(2)
        message.trailers = await _fields(reader)
    elif length is not None:
        message.framing = "length"
        message.body = await reader.readexactly(int(length))
    elif response:
        message.framing = "close"
        message.body = await reader.read()
    else:
        message.framing = "none"
    return message


class ModelServer:
    """A server that shows what it gets, and answers `answer`, whatever was asked."""

    def __init__(self) -> None:
        self.seen: list[Http] = []
        self.faults: list[str] = []
        self.answer = OK_ANSWER

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            while (request := await read_http(reader, response=False)) is not None:
                self.seen.append(request)
                writer.write(self.answer)
                await writer.drain()
        except (ValueError, EOFError, asyncio.LimitOverrunError, ConnectionError) as error:
            self.faults.append(repr(error))
        finally:
            writer.close()


OK_BODY = b'{"ok": true}'
OK_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-model: yes\r\n"
    b"content-length: 12\r\n\r\n" + OK_BODY
)
CHUNKED_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    b"c\r\n" + OK_BODY + b"\r\n0\r\n\r\n"
)
TRAILERS_ANSWER = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ntransfer-encoding: chunked\r\n"
    b"trailer: x-sum\r\n\r\nc\r\n" + OK_BODY + b"\r\n0\r\nx-sum: 1\r\n\r\n"
)


class ScriptedPicker:
    """A picker that answers everything as it should, but for what `edit` makes of it."""

    def __init__(self) -> None:
        self.destination = ""
        self.edit: Edit = lambda _, __: None
        self.seen: list[list[str]] = []
        """The messages of each stream, by kind."""
        self.requests: list[ProcessingRequest] = []

    async def process(self, messages: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        """One stream."""
        del context
        kinds: list[str] = []
        self.seen.append(kinds)
        body = b""
        async for raw in messages:
            message = ProcessingRequest.FromString(raw)
            self.requests.append(message)
            kind = str(message.WhichOneof("request"))
            kinds.append(kind)
            replies: list[ProcessingResponse] = []
            if kind == "request_headers":
                if message.request_headers.end_of_stream:
                    replies.append(self._pick())
            elif kind == "request_body":
                body += message.request_body.body
                if message.request_body.end_of_stream:
                    replies += [self._pick(), _body("request_body", body, True)]
            elif kind == "request_trailers":
                replies += [self._pick(), _body("request_body", body, False), _empty(kind)]
            elif kind == "response_body":
                part = message.response_body
                replies.append(_body(kind, part.body, part.end_of_stream))
            else:
                replies.append(_empty(kind))
            for reply in replies:
                for said in self._edited(reply):
                    yield said if isinstance(said, bytes) else said.SerializeToString()

    def _edited(self, reply: ProcessingResponse) -> Sequence[ProcessingResponse | bytes]:
        said = self.edit(str(reply.WhichOneof("response")), reply)
        return [reply] if said is None else said

    def _pick(self) -> ProcessingResponse:
        reply = _empty("request_headers")
        option = reply.request_headers.response.header_mutation.set_headers.add(append_action=2)
        option.header.key, option.header.raw_value = DESTINATION, self.destination.encode()
        lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
        lb.fields[DESTINATION].string_value = self.destination
        return reply


def _empty(kind: str) -> ProcessingResponse:
    reply = ProcessingResponse()
    getattr(reply, kind).SetInParent()
    return reply


def _body(kind: str, payload: bytes, end: bool) -> ProcessingResponse:
    reply = ProcessingResponse()
    chunk = getattr(reply, kind).response.body_mutation.streamed_response
    chunk.body, chunk.end_of_stream = payload, end
    return reply


class _Handler(grpc.GenericRpcHandler):  # type: ignore[misc]
    def __init__(self, picker: ScriptedPicker) -> None:
        self._picker = picker

    def service(self, handler_call_details: Any) -> Any:
        if handler_call_details.method == PROCESS:
            return grpc.stream_stream_rpc_method_handler(self._picker.process)
        return None


@dataclass
class Outcome:
    """What came of one request."""

    response: Http | str
    """What the client got, or how its connection broke."""
    request: Http | None
    """What the model server got."""
    h2_request: H2Message | None
    fault: str = ""
    """How the model server's connection broke."""

    @property
    def status(self) -> int | str:
        """The status that the client got, or how its connection broke."""
        if isinstance(self.response, str):
            return self.response
        return int(self.response.start.split(" ")[1])

    def header(self, name: str) -> str | None:
        """A header of the response."""
        return None if isinstance(self.response, str) else self.response.get(name)

    @property
    def body(self) -> bytes:
        """The body of the response."""
        return b"" if isinstance(self.response, str) else self.response.body


ALONE = "alone"


@dataclass
class Rig:
    """One picker and one model server behind two Envoys; pools `open`, `close` and `h2c`."""

    picker: ScriptedPicker
    model: ModelServer
    ports: dict[str, int]
    """Envoy's listener by pool, and by `alone` and `alone-h2c` where it asks the picker itself."""
    h2_seen: list[H2Message]
    destinations: dict[str, str]
    sidecar: Sidecar
    envoys: list[Envoy]

    async def counters(self, pool: str) -> PoolCounters:
        """The numbers of a pool."""
        assert isinstance(self.sidecar.relay, DataPlane)
        return (await self.sidecar.relay.totals()).pool(f"default/{pool}")

    async def ask(
        self,
        via: str,
        edit: Edit = lambda _, __: None,
        *,
        answer: bytes = OK_ANSWER,
        body: bytes | None = b"hello",
        headers: Pairs | None = None,
        path: str = "/v1/echo?a=b",
        trailers: str = "",
        wait: float = 5.0,
    ) -> Outcome:
        """Send one request via `alone` or a pool; the picker's answers are edited by `edit`."""
        h2c = via.endswith("h2c")
        self.picker.destination = self.destinations["h2c" if h2c else "h1"]
        self.picker.edit, self.model.answer = edit, answer
        self.picker.seen.clear()
        self.picker.requests.clear()
        self.model.seen.clear()
        self.model.faults.clear()
        self.h2_seen.clear()
        method = "GET" if body is None else "POST"
        lines = [f"{method} {path} HTTP/1.1", "host: example.test"]
        lines += [f"{key}: {value}" for key, value in headers or []]
        payload = b""
        if trailers:
            lines.append("transfer-encoding: chunked")
            payload = b"%x\r\n%s\r\n0\r\n%s\r\n\r\n" % (len(body or b""), body, trailers.encode())
        elif body is not None:
            lines.append(f"content-length: {len(body)}")
            payload = body
        reader, writer = await asyncio.open_connection(HOST, self.ports[via], limit=LIMIT)
        response: Http | str
        try:
            async with asyncio.timeout(wait):
                writer.write("\r\n".join((*lines, "", "")).encode("latin-1") + payload)
                response = await read_http(reader, response=True) or "closed"
        except TimeoutError:
            response = "hangs"
        except (ValueError, EOFError, asyncio.LimitOverrunError, ConnectionError) as error:
            response = f"broken: {error!r}"
        finally:
            writer.close()
        return Outcome(
            response,
            self.model.seen[0] if self.model.seen else None,
            self.h2_seen[0] if self.h2_seen else None,
            "; ".join([*self.model.faults, *(f"then {m.start!r}" for m in self.model.seen[1:])]),
        )


def _bootstrap(pool: str, port: int, socket: Path, **settings: Any) -> dict[str, Any]:
    name = PoolName("default", pool)
    document: dict[str, Any] = yaml_text.read(
        envoy_config(
            [name],
            listener=(HOST, port),
            admin=None,
            ext_proc_sockets=[socket],
            ads_socket=None,
            upstream_mode=UpstreamMode.ORIGINAL_DST,
            app_protocols={name: AppProtocol.H2C} if pool.endswith("h2c") else None,
            access_log=False,
            **settings,
        )
    )
    return document


@asynccontextmanager
async def running_rig(folder: Path, **settings: Any) -> AsyncIterator[Rig]:
    """Everything, on loopback."""
    async with AsyncExitStack() as owner:
        model = ModelServer()
        server = await asyncio.start_server(model.serve, MODEL, 0, limit=LIMIT)
        owner.callback(server.close)
        port = server.sockets[0].getsockname()[1]
        h2_port, h2_seen = await owner.enter_async_context(
            h2_server(MODEL_H2C, H2Message({"x-model": "yes"}, OK_BODY, {"x-sum": "9"}))
        )
        picker = ScriptedPicker()
        grpc_server = aio.server(options=[("grpc.max_receive_message_length", -1)])
        grpc_server.add_generic_rpc_handlers((_Handler(picker),))
        address = f"{HOST}:{grpc_server.add_insecure_port(f'{HOST}:0')}"
        grpc_server.add_insecure_port(f"unix:{folder}/picker.sock")
        await grpc_server.start()
        owner.push_async_callback(grpc_server.stop, 0)
        manifests = folder / "manifests"
        manifests.mkdir()
        h2_pod = pod("h2c", MODEL_H2C, app="h2c")
        h2c_pool = inference_pool(
            "h2c", h2_port, "picker", "FailOpen", appProtocol="kubernetes.io/h2c"
        )
        h2c_pool["spec"]["selector"] = {"matchLabels": {"app": "h2c"}}
        objects = [
            inference_pool("open", port, "picker", "FailOpen"),
            inference_pool("close", port, "picker", "FailClose"),
            h2c_pool,
            pod("model", MODEL),
            h2_pod,
            *service("picker", address),
        ]
        (manifests / "all.yaml").write_text(yaml_text.write_all(objects))
        chosen = serve_settings(
            {
                "pools": manifests,
                "socket": folder / "ext-proc.sock",
                "xds_socket": None,
                "upstream_mode": UpstreamMode.ORIGINAL_DST,
                "admin": "127.0.0.1:0",
                "workers": 0,
                "pool_defaults": {"tls": {"mode": "plaintext"}, "pick_timeout": 3.0},
                **settings,
            }
        )
        sidecar = await owner.enter_async_context(running(chosen))
        names = ("open", "close", "h2c", ALONE, f"{ALONE}-h2c")
        ports = dict(zip(names, free_ports(len(names)), strict=True))
        envoys = []
        for name, listener in ports.items():
            socket = folder / "picker.sock" if name.startswith(ALONE) else chosen.sockets[0]
            envoys.append(_bootstrap(name, listener, socket))
        whole = envoys[0]
        for other in envoys[1:]:
            static = whole["static_resources"]
            listeners = other["static_resources"]["listeners"]
            _rename(other, len(static["listeners"]))
            static["listeners"] += listeners
            known = {cluster["name"] for cluster in static["clusters"]}
            static["clusters"] += [
                c for c in other["static_resources"]["clusters"] if c["name"] not in known
            ]
        whole["admin"] = {"address": {"socket_address": {"address": HOST, "port_value": 0}}}
        envoy = await owner.enter_async_context(running_envoy(whole))
        yield Rig(
            picker,
            model,
            ports,
            h2_seen,
            {"h1": f"{MODEL}:{port}", "h2c": f"{MODEL_H2C}:{h2_port}"},
            sidecar,
            [envoy],
        )


def _rename(document: dict[str, Any], number: int) -> None:
    """Make the listener and the ext_proc cluster of one bootstrap unique among others."""
    static = document["static_resources"]
    static["listeners"][0]["name"] += f"-{number}"
    sidecar = static["clusters"][0]
    old = sidecar["name"]
    sidecar["name"] = sidecar["load_assignment"]["cluster_name"] = f"{old}-{number}"
    manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    service = manager["http_filters"][0]["typed_config"]["grpc_service"]
    service["envoy_grpc"]["cluster_name"] = f"{old}-{number}"
