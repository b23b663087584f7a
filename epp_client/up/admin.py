"""Requests of the gateway to the admin pages of its two processes, the sidecar and Envoy."""

import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, NamedTuple

import aiohttp

from epp_client.up.supervision import Clients

TIMEOUT: Final = 5.0
"""Seconds that a process has for an answer."""
ALIVE_TIMEOUT: Final = 3.0
"""The same, for the question whether it hangs."""
_PREFIXES: Final = ("http.inference", "http.gateway")
"""Of Envoy's counters: routes of pools, and of a Gateway."""


class Pool(NamedTuple):
    """A pool, as the sidecar reports it."""

    namespace: str
    name: str
    request_mode: str
    response_mode: str
    app_protocol: str
    ready: int
    """Ready endpoints."""
    picker: str
    """The states of its picker's addresses."""
    untried: bool = False
    """Whether one of these has not been checked yet."""


class Listener(NamedTuple):
    """A port of a Gateway, as the sidecar reports it."""

    port: int
    tls: bool


class Gateway(NamedTuple):
    """The Gateway that the sidecar serves."""

    name: str
    """`namespace/name`."""
    listeners: tuple[Listener, ...]
    routes: int
    """Rows of its route table."""


class Served(NamedTuple):
    """What the sidecar serves."""

    pools: tuple[Pool, ...] = ()
    gateway: Gateway | None = None

    def __bool__(self) -> bool:
        return bool(self.pools) or self.gateway is not None


class NoAnswer(Exception):
    """The process does not answer, or not as expected. The text says why, and is never empty."""


async def unready(sidecar: str) -> str:
    """Why the sidecar at this host:port is not ready; empty if it is.

    Raises:
        NoAnswer: it does not answer.
    """
    status, text = await _ask("GET", f"http://{sidecar}/readyz")
    if status == 200:
        return ""
    return "; ".join(text.split("\n")).strip("; ") or f"/readyz answers {status}"


async def served(sidecar: str) -> Served:
    """What the sidecar at this host:port serves.

    Raises:
        NoAnswer: it does not answer.
    """
    return Served(tuple(await pools(sidecar)), await gateway(sidecar))


async def gateway(sidecar: str) -> Gateway | None:
    """The Gateway of the sidecar at this host:port; None if it has none.

    Raises:
        NoAnswer: it does not answer.
    """
    async with (
        _session() as session,
        _errors(),
        session.get(f"http://{sidecar}/gateway", headers={"accept": "application/json"}) as answer,
    ):
        if answer.status == 404:
            return None
        found = await answer.json()
        listeners = tuple(
            Listener(one["port"], any(chain["certificates"] for chain in one["chains"]))
            for one in found["listeners"]
        )
        return Gateway(found["gateway"], listeners, len(found["routes"]))


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
        request_mode=row["requestMode"],
        response_mode=row["responseMode"],
        app_protocol=row["appProtocol"],
        ready=row["ready"],
        picker=state,
        untried=picker is not None and "untried" in picker["health"],
    )


async def sidecar_alive(sidecar: str) -> None:
    """Ask the sidecar at this host:port for any answer.

    Raises:
        NoAnswer: it does not answer.
    """
    await _ask("GET", f"http://{sidecar}/livez", ALIVE_TIMEOUT)


async def envoy_alive(envoy: str) -> None:
    """Ask the Envoy at this host:port of its admin page for any answer.

    Raises:
        NoAnswer: it does not answer.
    """
    await _ask("GET", f"http://{envoy}/ready", ALIVE_TIMEOUT)


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
    """What clients have open at the listeners.

    Raises:
        NoAnswer: it does not answer.
    """
    _, text = await _ask(
        "GET", f"http://{envoy}/stats?filter=^http.(inference|gateway).downstream_.._active$"
    )
    async with _errors():
        values = {
            name: int(value)
            for name, _, value in (line.partition(": ") for line in text.splitlines())
        }
    requests, connections = (
        sum(values.get(f"{prefix}.downstream_{what}_active", 0) for prefix in _PREFIXES)
        for what in ("rq", "cx")
    )
    return Clients(requests, connections)


async def _ask(method: str, url: str, timeout: float | None = None) -> tuple[int, str]:
    async with _session(timeout) as session, _errors(), session.request(method, url) as answer:
        return answer.status, await answer.text()


def _session(timeout: float | None = None) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout or TIMEOUT))


@contextlib.asynccontextmanager
async def _errors() -> AsyncIterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise NoAnswer("no answer in time") from error
    except (aiohttp.ClientError, ValueError, KeyError) as error:
        raise NoAnswer(str(error) or type(error).__name__) from error
