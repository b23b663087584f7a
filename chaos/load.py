"""The client process: sends requests at a steady rate and writes the outcome of each as a line of JSON.

It judges a response by itself only. `account` relates it to faults and to the promise.
"""

import argparse
import asyncio
import hashlib
import json
import signal
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import uvloop

from chaos.spans import CUT, REFUSED
from chaos.subjects import BACKEND, HOST, ROUTE, Port
from chaos.workload import LONG, Ask, requests
from epp_client.errors import ENDPOINT_REASONS

BOUND = 30.0
"""Seconds for the head of a response, and again for the rest; later the request is lost."""

LAST = 2 * BOUND + LONG[1] + 10.0
"""Seconds after which the last request has an outcome."""


@dataclass(frozen=True)
class Edge:
    """Where requests go."""

    bases: dict[Port, str]
    """`http://host:port` of each listener, or `https://`."""
    authority: str = ""
    """Path of the certificate that the certificates for TLS are verified with."""


class _Noted(ssl.SSLObject):
    """Notes the peer's certificate in its context: aiohttp may have released the connection before the
    response can be asked for it."""

    def do_handshake(self) -> None:
        super().do_handshake()
        assert isinstance(self.context, _Context)
        self.context.certificate = self.getpeercert(True) or b""


class _Context(ssl.SSLContext):
    """The context of one request, which so has a connection of its own."""

    certificate = b""
    sslobject_class = _Noted


def _tls(edge: Edge, request: Ask) -> _Context | None:
    if request.port is not Port.TLS:
        return None
    context = _Context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(edge.authority)
    return context


def fingerprint(certificate: bytes) -> str:
    """The name of a certificate (DER) in an answer."""
    return hashlib.sha256(certificate).hexdigest()[:8]


async def ask(
    session: aiohttp.ClientSession, edge: Edge | str, request: Ask, bound: float = BOUND
) -> dict[str, Any]:
    """Send one request; returns its line. The head may take `bound` seconds and the rest again, besides the
    time of the model server. Times are of CLOCK_MONOTONIC, which all processes share."""
    line: dict[str, Any] = {
        "number": request.number,
        "pool": request.pool,
        "kind": request.kind,
        "dialect": request.dialect,
        "seed": request.seed,
        "began": time.monotonic(),
        "first": None,
        "status": None,
        "reason": "",
        "server": "",
        "subject": request.subject,
        "answer": "",
    }
    if isinstance(edge, str):
        edge = Edge({Port.PLAIN: edge})
    context = _tls(edge, request)
    try:
        async with (
            asyncio.timeout(bound + request.first_ms / 1000) as limit,
            session.post(
                edge.bases[request.port] + request.path,
                data=request.body(),
                headers=request.headers,
                ssl=context or True,
                server_hostname=HOST if context else None,
            ) as answer,
        ):
            line["first"] = time.monotonic()
            limit.reschedule(asyncio.get_running_loop().time() + bound + request.seconds)
            line["status"] = answer.status
            line["server"] = answer.headers.get("x-model-server", "")
            line["reason"] = answer.headers.get("x-inference-error", "")
            said = [answer.headers.get(name, "") for name in (ROUTE, BACKEND)]
            said.append(fingerprint(context.certificate) if context else "")
            body = await answer.read()
            # Envoy's own responses have the headers of the route too.
            known = answer.status == 200 and any(said)
            line["answer"] = " ".join(filter(None, said)) if known else str(answer.status)
        line |= _judged(request, answer.status, line["reason"], body)
    except TimeoutError:
        what = "no head" if line["first"] is None else "no whole answer"
        line |= {"outcome": "lost", "detail": f"{what} within {bound:g} s"}
    except aiohttp.ClientConnectorError as error:
        line |= {"outcome": "lost", "detail": f"{type(error).__name__}: {error}", "answer": REFUSED}
    except (aiohttp.ClientError, OSError) as error:
        line |= {"outcome": "lost", "detail": f"{type(error).__name__}: {error}", "answer": CUT}
    line["ended"] = time.monotonic()
    return line


def _judged(request: Ask, status: int, reason: str, body: bytes) -> dict[str, str]:
    if status == 200:
        wrong = request.wrong(body)
        return {"outcome": "lost" if wrong else "answered", "detail": wrong}
    if reason and reason not in ENDPOINT_REASONS:
        return {"outcome": "refused", "detail": ""}
    if request.dialect.startswith("refuse-") and body == b"the picker refuses":
        return {"outcome": "refused", "reason": f"by the picker, {status}", "detail": ""}
    return {"outcome": "lost", "detail": f"{status}: {body[:200].decode(errors='replace')}"}


class Load:
    """Requests at a steady rate, with at most `concurrency` at once."""

    def __init__(self, arguments: argparse.Namespace, out: TextIO) -> None:
        self._arguments = arguments
        self._out = out
        self._stop = asyncio.Event()
        self._slots = asyncio.Semaphore(arguments.concurrency)
        self._edge = Edge({Port.PLAIN: arguments.base})
        if arguments.edge:
            self._edge = Edge(**json.loads(arguments.edge))

    async def run(self) -> None:
        """Run until SIGTERM, then finish the open requests."""
        a = self._arguments
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, self._stop.set)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            asyncio.TaskGroup() as tasks,
        ):
            due = time.monotonic()
            asked = requests(
                a.seed, a.faulty_share, ranked=a.ranked, subjects=a.subjects, longest=a.longest
            )
            for request in asked:
                await self._slots.acquire()
                # Do not catch up on missed requests.
                due = max(due + 1 / a.rate, time.monotonic())
                try:
                    async with asyncio.timeout(due - time.monotonic()):
                        await self._stop.wait()
                except TimeoutError:
                    pass
                if self._stop.is_set():
                    return
                tasks.create_task(self._one(session, request))

    async def _one(self, session: aiohttp.ClientSession, request: Ask) -> None:
        try:
            line = await ask(session, self._edge, request)
        finally:
            self._slots.release()
        self._out.write(json.dumps(line) + "\n")
        self._out.flush()


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="http://host:port of Envoy")
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--rate", type=float, default=40.0, help="requests per second")
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--faulty-share", type=float, default=0.2)
    parser.add_argument("--ranked", action="store_true")
    parser.add_argument("--longest", type=float, default=LONG[1], help="seconds of a long response")
    parser.add_argument("--edge", default="", help="JSON of an Edge")
    parser.add_argument("--subjects", nargs="*", default=[], help="ask for these changing routes")
    arguments = parser.parse_args()
    with arguments.out.open("w") as out:
        uvloop.run(Load(arguments, out).run())


if __name__ == "__main__":
    main()
