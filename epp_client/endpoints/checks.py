"""Checks the health of endpoints over TCP or HTTP. `health` decides what the results mean."""

import asyncio
import contextlib
import random
from collections.abc import Awaitable, Callable, Collection, Iterable

import aiohttp
import structlog

from epp_client.endpoints.health import EndpointHealth, State, Thresholds, checked
from epp_client.settings import EndpointSettings, host_port

log = structlog.get_logger(__name__)

MAX_CONCURRENT = 64
"""Checks at once."""
JITTER = 0.1
"""Share of the interval by which the checks of different endpoints are apart."""
UNTESTED_INTERVAL = 1.0
"""Upper bound in seconds of the interval until the first success of an endpoint."""

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


def probe_of(settings: EndpointSettings) -> Probe | None:
    """The configured check; None: there is none."""
    kind, _, path = settings.health_check.partition(":")
    if kind == "off":
        return None
    return HttpProbe(path) if kind == "http" else probe_tcp


class HealthChecks:
    """The health of all endpoints, each checked by a task of its own."""

    def __init__(
        self, settings: EndpointSettings, probe: Probe, changed: Callable[[], None]
    ) -> None:
        """`changed` is called after each change of an endpoint's state or failure."""
        self._interval = settings.health_check_interval
        self._timeout = settings.health_check_timeout
        self._thresholds = Thresholds(settings.healthy_threshold, settings.unhealthy_threshold)
        self._probe = probe
        self._changed = changed
        self._health: dict[str, EndpointHealth] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._untried: set[str] = set()
        self._tried = asyncio.Event()
        self._turns = asyncio.Semaphore(MAX_CONCURRENT)

    def follow(self, keys: Collection[str]) -> None:
        """Check these endpoints, and no others."""
        for key in self._tasks.keys() - keys:
            self._tasks.pop(key).cancel()
            self._health.pop(key, None)
            self._untried.discard(key)
        for key in keys:
            if key not in self._tasks:
                self._untried.add(key)
                self._tasks[key] = asyncio.create_task(self._watch(key))
        self._note_tried()

    def of(self, key: str) -> EndpointHealth:
        """The health of an endpoint."""
        return self._health.get(key, EndpointHealth())

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

    async def _watch(self, key: str) -> None:
        while True:
            async with self._turns:
                failure = await self._check(key)
            before = self.of(key)
            now = self._health[key] = checked(before, failure, self._thresholds)
            self._untried.discard(key)
            self._note_tried()
            first_failure = now.state is State.UNTESTED and not before.failure
            if now.ready and not before.ready:
                log.info(f"endpoint {key} is ready")
            elif not now.ready and (before.ready or first_failure):
                log.warning(f"endpoint {key} {now.problem}")
            if (now.state, now.problem) != (before.state, before.problem):
                self._changed()
            interval = self._interval
            if now.state is State.UNTESTED:
                interval = min(interval, UNTESTED_INTERVAL)
            await asyncio.sleep(interval * (1 + JITTER * random.uniform(-1, 1)))

    async def _check(self, key: str) -> str:
        """Why the check failed; empty if it succeeded."""
        try:
            async with asyncio.timeout(self._timeout):
                await self._probe(key)
        except TimeoutError:
            return f"no answer within {self._timeout:g} s"
        except OSError as error:
            return _said(error)
        return ""


def _said(error: OSError) -> str:
    text = error.strerror or str(error) or type(error).__name__
    return "connection refused" if isinstance(error, ConnectionRefusedError) else text


def unready(checks: HealthChecks, keys: Iterable[str]) -> dict[str, str]:
    """Why each of these endpoints that is not ready is not."""
    return {key: problem for key in keys if (problem := checks.of(key).problem)}
