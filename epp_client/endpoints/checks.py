"""Checks the health of endpoints over TCP or HTTP. `health` decides what the results mean."""

import asyncio
import contextlib
import errno
import random
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import NamedTuple

import aiohttp
import structlog

from epp_client.endpoints.health import EndpointHealth, HealthCheck, State, checked
from epp_client.option_values import host_port

log = structlog.get_logger(__name__)

MAX_CONCURRENT = 64
"""Checks at once."""
JITTER = 0.1
"""Fraction by which intervals vary at random, so that endpoints are not checked at the same time."""
UNTESTED_INTERVAL = 1.0
"""Longest interval in seconds between the checks of an endpoint before its first success."""
_OURS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
"""Errors because this process lacks descriptors or memory. They say nothing about an endpoint."""

Probe = Callable[[str], Awaitable[None]]
"""Checks one `ip:port`.

Raises:
    OSError: it is not healthy; the text says why.
"""


async def probe_tcp(key: str) -> None:
    """Succeed if the endpoint accepts a connection."""
    _, writer = await asyncio.open_connection(*host_port(key))
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()


class HttpProbe:
    """Succeeds if a GET is answered with a status from 200 to 299. The body is not read."""

    def __init__(self, path: str) -> None:
        self._path = path

    async def __call__(self, key: str) -> None:
        """Check one endpoint. See `Probe`."""
        connector = aiohttp.TCPConnector(force_close=True)
        jar = aiohttp.DummyCookieJar()
        async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:
            try:
                url = f"http://{key}{self._path}"
                async with session.get(url, allow_redirects=False) as response:
                    status = response.status
                    # Do not wait for the body, which may be of any size.
                    response.close()
            except aiohttp.ClientConnectorError as error:
                raise error.os_error from error
            except aiohttp.ClientError as error:
                raise OSError(f"invalid HTTP answer: {error or type(error).__name__}") from error
        if not 200 <= status < 300:
            raise OSError(f"{self._path} answered with status {status}")


def probe_of(check: HealthCheck) -> Probe:
    """The probe for a kind of check."""
    kind, _, path = check.kind.partition(":")
    return HttpProbe(path) if kind == "http" else probe_tcp


class Target(NamedTuple):
    """An endpoint, and how it is checked. Pools that share both share the result."""

    check: HealthCheck
    key: str
    """`ip:port`."""


class HealthChecks:
    """The health of all endpoints, each checked by a task of its own."""

    def __init__(
        self,
        changed: Callable[[], None],
        probe_of: Callable[[HealthCheck], Probe] = probe_of,
    ) -> None:
        """`changed` is called after each change of an endpoint's state or failure."""
        self._changed = changed
        self._probe_of = probe_of
        self._health: dict[Target, EndpointHealth] = {}
        self._tasks: dict[Target, asyncio.Task[None]] = {}
        self._untried: set[Target] = set()
        self._tried = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)

    def follow(self, targets: Collection[Target]) -> None:
        """Check these endpoints, and no others."""
        for target in self._tasks.keys() - targets:
            self._tasks.pop(target).cancel()
            self._health.pop(target, None)
            self._untried.discard(target)
        for target in targets:
            if target not in self._tasks:
                self._untried.add(target)
                self._tasks[target] = asyncio.create_task(self._watch(target))
        self._note_tried()

    def of(self, target: Target) -> EndpointHealth:
        """The health of an endpoint."""
        return self._health.get(target, EndpointHealth())

    async def first_round(self, timeout: float) -> None:
        """Wait until every endpoint has been checked once, for `timeout` seconds at most."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await self._tried.wait()

    async def close(self) -> None:
        """End all checks."""
        tasks = [*self._tasks.values()]
        self.follow(())
        await asyncio.gather(*tasks, return_exceptions=True)

    def _note_tried(self) -> None:
        if self._untried:
            self._tried.clear()
        else:
            self._tried.set()

    async def _watch(self, target: Target) -> None:
        check, key = target
        probe = self._probe_of(check)
        while True:
            async with self._turns:
                failure = await _failure(probe, target)
            before = now = self.of(target)
            if failure is not None:
                now = self._health[target] = checked(before, failure, check.thresholds)
            self._untried.discard(target)
            self._note_tried()
            first_failure = now.state is State.UNTESTED and not before.failure
            if now.ready and not before.ready:
                log.info(f"endpoint {key} is ready")
            elif not now.ready and (before.ready or (first_failure and now.failure)):
                log.warning(f"endpoint {key} {now.problem}")
            if (now.state, now.problem) != (before.state, before.problem):
                self._changed()
            interval = check.interval
            if now.state is State.UNTESTED:
                interval = min(interval, UNTESTED_INTERVAL)
            await asyncio.sleep(interval * (1 + JITTER * random.uniform(-1, 1)))


async def _failure(probe: Probe, target: Target) -> str | None:
    """Why the check failed; empty if it succeeded; None if it says nothing about the endpoint."""
    timeout = target.check.timeout
    try:
        async with asyncio.timeout(timeout):
            await probe(target.key)
    except TimeoutError:
        return f"no answer within {timeout:g} s"
    except OSError as error:
        if error.errno in _OURS:
            log.warning("an endpoint cannot be checked", endpoint=target.key, error=_said(error))
            return None
        return _said(error)
    return ""


def _said(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return "connection refused" if isinstance(error, ConnectionRefusedError) else text


def unready(checks: HealthChecks, check: HealthCheck, keys: Iterable[str]) -> dict[str, str]:
    """Those of the endpoints that are not ready, and why."""
    return {key: problem for key in keys if (problem := checks.of(Target(check, key)).problem)}
