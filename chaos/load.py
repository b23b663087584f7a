"""The client process: sends requests at a steady rate and writes the outcome of each as a line of JSON.

It judges a response by itself only. `account` relates it to faults and to the promise.
"""

import argparse
import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any, TextIO

import aiohttp
import uvloop

from chaos.workload import LONG, Ask, requests
from epp_client.errors import ENDPOINT_REASONS

BOUND = 30.0
"""Seconds for the head of a response, and again for the rest; later the request is lost."""

LAST = 2 * BOUND + LONG[1] + 10.0
"""Seconds after which the last request has an outcome."""


async def ask(
    session: aiohttp.ClientSession, base: str, request: Ask, bound: float = BOUND
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
    }
    try:
        async with (
            asyncio.timeout(bound + request.first_ms / 1000) as limit,
            session.post(
                base + request.path, data=request.body(), headers=request.headers
            ) as answer,
        ):
            line["first"] = time.monotonic()
            limit.reschedule(asyncio.get_running_loop().time() + bound + request.seconds)
            line["status"] = answer.status
            line["server"] = answer.headers.get("x-model-server", "")
            line["reason"] = answer.headers.get("x-inference-error", "")
            body = await answer.read()
        line |= _judged(request, answer.status, line["reason"], body)
    except TimeoutError:
        what = "no head" if line["first"] is None else "no whole answer"
        line |= {"outcome": "lost", "detail": f"{what} within {bound:g} s"}
    except (aiohttp.ClientError, OSError) as error:
        line |= {"outcome": "lost", "detail": f"{type(error).__name__}: {error}"}
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
            for request in requests(a.seed, a.faulty_share, ranked=a.ranked):
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
            line = await ask(session, self._arguments.base, request)
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
    arguments = parser.parse_args()
    with arguments.out.open("w") as out:
        uvloop.run(Load(arguments, out).run())


if __name__ == "__main__":
    main()
