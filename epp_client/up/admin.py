"""Requests of the gateway to the admin pages of its two processes, the sidecar and Envoy."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import aiohttp

from epp_client.up.supervision import Clients

_TIMEOUT: Final = aiohttp.ClientTimeout(total=5)
_ALIVE_TIMEOUT: Final = aiohttp.ClientTimeout(total=3)
_REQUESTS: Final = "http.inference.downstream_rq_active"
_CONNECTIONS: Final = "http.inference.downstream_cx_active"


class Pool(NamedTuple):
    """A pool, as the sidecar reports it."""

    namespace: str
    name: str
    response_mode: str
    app_protocol: str
    ready: int
    """Ready endpoints."""
    picker: str
    """The states of its picker's addresses."""


class NoAnswer(Exception):
    """The process does not answer, or not as expected."""


async def unready(sidecar: str) -> str:
    """Why the sidecar at this host:port is not ready; empty if it is.

    Raises:
        NoAnswer: it does not answer.
    """
    status, text = await _ask("GET", f"http://{sidecar}/readyz")
    return "" if status == 200 else "; ".join(text.split("\n")).strip("; ")


async def pools(sidecar: str) -> list[Pool]:
    """All pools of the sidecar at this host:port.

    Raises:
        NoAnswer: it does not answer.
    """
    found: list[Pool] = []
    async with _session() as session:
        while True:
            url = f"http://{sidecar}/summary?offset={len(found)}"
            async with _errors(), session.get(url) as answer:
                page = (await answer.json())["pools"]
            found += map(_pool, page["rows"])
            if not page["rows"] or len(found) >= page["total"]:
                return sorted(found)


def _pool(row: dict[str, Any]) -> Pool:
    picker = row["picker"]
    if picker is None:
        state = "no picker"
    elif not picker["addresses"]:
        state = f"picker has no address: {picker['problem']}"
    else:
        states = (
            # A picker without a health service is never "serving". "unknown" would look like an error.
            f"{count} {'connected' if state == 'unknown' else state}"
            for state, count in sorted(picker["health"].items())
        )
        state = f"picker: {', '.join(states)}"
    return Pool(
        namespace=row["namespace"],
        name=row["name"],
        response_mode=row["responseMode"],
        app_protocol=row["appProtocol"],
        ready=row["ready"],
        picker=state,
    )


async def sidecar_alive(sidecar: str) -> None:
    """Ask the sidecar at this host:port for any answer.

    Raises:
        NoAnswer: it does not answer.
    """
    await _ask("GET", f"http://{sidecar}/livez", _ALIVE_TIMEOUT)


async def envoy_alive(envoy: str) -> None:
    """Ask the Envoy at this host:port of its admin page for any answer.

    Raises:
        NoAnswer: it does not answer.
    """
    await _ask("GET", f"http://{envoy}/ready", _ALIVE_TIMEOUT)


async def envoy_ready(envoy: str) -> bool:
    """Whether the Envoy at this host:port of its admin page is ready.

    Raises:
        NoAnswer: it does not answer.
    """
    status, _ = await _ask("GET", f"http://{envoy}/ready")
    return status == 200


async def close_listeners(envoy: str) -> None:
    """Tell Envoy to accept no more connections, and to close each open one after its response.

    Raises:
        NoAnswer: it does not answer.
    """
    await _ask("POST", f"http://{envoy}/healthcheck/fail")
    await _ask("POST", f"http://{envoy}/drain_listeners")


async def clients(envoy: str) -> Clients:
    """What clients have open at the listener.

    Raises:
        NoAnswer: it does not answer.
    """
    _, text = await _ask(
        "GET", f"http://{envoy}/stats?filter=^http.inference.downstream_.._active$"
    )
    async with _errors():
        values = {
            name: int(value)
            for name, _, value in (line.partition(": ") for line in text.splitlines())
        }
    return Clients(values.get(_REQUESTS, 0), values.get(_CONNECTIONS, 0))


async def _ask(method: str, url: str, timeout: aiohttp.ClientTimeout = _TIMEOUT) -> tuple[int, str]:
    async with _session(timeout) as session, _errors(), session.request(method, url) as answer:
        return answer.status, await answer.text()


def _session(timeout: aiohttp.ClientTimeout = _TIMEOUT) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=timeout)


@contextlib.asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except (aiohttp.ClientError, TimeoutError, ValueError, KeyError) as error:
        raise NoAnswer(str(error)) from error
