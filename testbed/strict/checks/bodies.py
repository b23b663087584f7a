"""Checks of what passes through: bodies, streams, trailers, HTTP/2 to model servers."""

import asyncio
import hashlib
import json
from itertools import pairwise

import grpc
from grpc import aio

from testbed.strict.checks.registry import check
from testbed.strict.client import ask_with_trailers
from testbed.strict.site import Failed, Site
from testbed.strict.workloads import PORTS

KIB = 1024
SIZES = (0, 1, 64 * KIB - 1, 64 * KIB, 64 * KIB + 1, KIB * KIB, 4 * KIB * KIB)
"""Around the size of a proxy's usual chunk, and beyond all of its buffers."""
TOKENS, INTERVAL = 20, 0.05
"""Events of a stream, and the seconds between two."""
_ECHO = "/gateway_api_conformance.echo_basic.grpcecho.GrpcEcho/"


def _body(size: int) -> bytes:
    return (b"%032d" % size * (size // 32 + 1))[:size]


@check("request-bodies", "Request bodies of 0 B to 4 MiB reach the model server whole.", "gamma")
async def request_bodies(site: Site) -> None:
    """The model server says which digest its body has."""
    host = "up.example"
    async with site.made(site.route(host, "gamma")):
        await site.serves(host, {"200 gamma"}, 8, path="/v1/models")
        for size in SIZES:
            body = _body(size)
            answer = await site.ask(host, "/echo", body=body)
            if answer.status != 200:
                raise Failed(f"{size} bytes: {answer.said}")
            found = json.loads(answer.body)
            if (found["size"], found["sha256"]) != (size, hashlib.sha256(body).hexdigest()):
                raise Failed(f"{size} bytes were sent, and {found['size']} others arrived")


@check("response-bodies", "Response bodies of 0 B to 4 MiB reach the client whole.", "gamma")
async def response_bodies(site: Site) -> None:
    """Byte n of an answer is n modulo 256."""
    host, cycle = "down.example", bytes(range(256))
    async with site.made(site.route(host, "gamma")):
        await site.serves(host, {"200 gamma"}, 8, path="/v1/models")
        for size in SIZES:
            answer = await site.ask(host, f"/echo?size={size}", body=b"{}")
            if answer.status != 200:
                raise Failed(f"{size} bytes: {answer.said}")
            if answer.body != (cycle * (size // 256 + 1))[:size]:
                raise Failed(f"{size} bytes: {len(answer.body)} others arrived")


@check("streams", "Events of a stream reach the client one by one, as they are made.", "gamma")
async def streams(site: Site) -> None:
    """20 events, 50 ms apart: a gateway that buffers brings them together, or late."""
    host, path = "streamed.example", "/v1/chat/completions"
    fields = {"stream": True, "max_tokens": TOKENS, "token_interval_ms": INTERVAL * 1000}
    body = json.dumps({"model": "m", "messages": [], **fields}).encode()
    async with site.made(site.route(host, "gamma")):
        await site.serves(host, {"200 gamma"}, 8, path="/v1/models")
        for answer in await asyncio.gather(*(site.ask(host, path, body=body) for _ in range(4))):
            if answer.status != 200 or not answer.body.endswith(b"data: [DONE]\n\n"):
                raise Failed(f"a stream was cut: {answer.said}")
            times = [at for at, _ in answer.arrivals]
            pieces = sum(b - a > INTERVAL / 5 for a, b in pairwise(times)) + 1
            # A busy machine delays events, but brings no later one nearer to the first.
            if times[0] > times[-1] - TOKENS * INTERVAL / 2:
                text = (
                    f"the first event came after {times[0]:.2f} s, the last after {times[-1]:.2f} s"
                )
                raise Failed(f"buffered: {text}")
            if pieces < TOKENS / 2:
                raise Failed(f"{TOKENS} events came in {pieces} pieces")


@check(
    "h2c",
    "A pool's appProtocol says how its model servers are asked: HTTP/1.1, or HTTP/2 for h2c.",
    "gamma",
)
async def h2c(site: Site) -> None:
    """The model server says which version it was asked with. It speaks both."""
    pools = {
        "is-h2c": ("2", {"appProtocol": "kubernetes.io/h2c"}),
        "is-http": ("1.1", {"appProtocol": "http"}),
        "is-default": ("1.1", {}),
    }
    for name, (version, more) in pools.items():
        host = f"{name}.example"
        async with site.made(site.pool(name, "gamma", **more), site.route(host, name)):
            for answer in await site.serves(host, {"200 gamma"}, 8, path="/echo", body=_body(10)):
                found = answer.headers.get("x-http-version")
                if found != version:
                    raise Failed(f"{name}: asked with HTTP/{found} instead of HTTP/{version}")


@check(
    "request-trailers",
    "A request with trailers reaches the model server with its body whole, and once.",
    "gamma",
)
async def request_trailers(site: Site) -> None:
    """Over HTTP/2 on both sides. A proxy that keeps the body for retries may send it twice."""
    host, pool = "trailed.example", site.pool("trailed", "gamma", appProtocol="kubernetes.io/h2c")
    address = site.addresses["one"], PORTS["one"][0]
    async with site.made(pool, site.route(host, "trailed")):
        await site.serves(host, {"200 gamma"}, 8, path="/v1/models")
        for size in (1, 1000, 64 * KIB + 1, 256 * KIB):
            body, trailers = _body(size), {"x-checksum": "one"}
            digest = hashlib.sha256(body).hexdigest()
            for _ in range(4):
                answer = await ask_with_trailers(address, host, "/echo", body, trailers)
                if answer.status != 200:
                    raise Failed(f"{size} bytes: {answer.said}")
                found = json.loads(answer.body)
                if found["sha256"] != digest:
                    raise Failed(f"{size} bytes were sent, and {found['size']} arrived")


@check(
    "trailers",
    "gRPC passes: HTTP/2 from the client, trailers with the status back, of each kind of call.",
    "delta",
)
async def trailers(site: Site) -> None:
    """grpcio asks the gRPC echo server of Gateway API's suite, one of whose methods is not implemented."""
    host = "grpc.example"
    address = f"{site.addresses['one']}:{PORTS['one'][0]}"
    options = [("grpc.default_authority", host)]
    async with (
        site.made(site.route(host, "delta")),
        aio.insecure_channel(address, options=options) as channel,
    ):

        async def status(method: str) -> tuple[str, bytes]:
            try:
                return "OK", await channel.unary_unary(_ECHO + method)(b"", timeout=10)
            except grpc.aio.AioRpcError as error:
                return error.code().name, (error.details() or "").encode()

        async def holds() -> str:
            code, said = await status("Echo")
            return "" if code == "OK" else f"{code} {said.decode()}"

        await site.until("Echo is answered", holds)
        for _ in range(10):
            for method, code, part in (
                ("Echo", "OK", b"delta-"),
                ("EchoTwo", "OK", b"delta-"),
                ("EchoThree", "UNIMPLEMENTED", b"EchoThree"),
            ):
                found, said = await status(method)
                if found != code or part not in said:
                    raise Failed(f"{method}: expected {code}, got {found} {said[:200]!r}")
