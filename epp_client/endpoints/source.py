"""EndpointSource: publishes a pool of options, and follows the name of its picker."""

import asyncio
import socket
from collections.abc import Awaitable, Callable

import structlog

from epp_client.endpoints.listed import Lookup, host_to_look_up, pool_of, resolve_listed
from epp_client.pool.endpoints import canonical_ip
from epp_client.pool.resolve import PoolResolution
from epp_client.pool.settings import PoolSettings
from epp_client.pool.source import Listed
from epp_client.pool.store import PoolStore
from epp_client.settings import EndpointSettings

log = structlog.get_logger(__name__)

LOOKUP_INTERVAL = 10.0
"""Seconds between two lookups of a picker's host."""
LOOKUP_RETRY = 1.0
"""Seconds from a failed lookup to the next one."""
LOOKUP_TIMEOUT = 5.0

LookUp = Callable[[str], Awaitable[tuple[str, ...]]]


async def look_up(host: str) -> tuple[str, ...]:
    """The addresses of a host.

    Raises:
        OSError: it has none, or cannot be looked up in time.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(LOOKUP_TIMEOUT):
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    ips = (canonical_ip(str(address[4][0])) for address in found)
    return tuple(sorted({ip for ip in ips if ip is not None}))


class EndpointSource:
    """Keeps a store in step with the given pool."""

    def __init__(
        self,
        settings: EndpointSettings,
        store: PoolStore,
        defaults: PoolSettings,
        clock: Callable[[], float],
        listed: Listed = lambda _: None,
        look_up: LookUp = look_up,
    ) -> None:
        self._pool = pool_of(settings, defaults)
        self._store = store
        self._clock = clock
        self._listed = listed
        self._look_up = look_up
        self._looked_up = Lookup()
        self._last: PoolResolution | None = None

    async def reload(self) -> None:
        """Look up the picker's host, and publish the pool."""
        if (host := host_to_look_up(self._pool.pool)) is not None:
            before, self._looked_up = self._looked_up, await self._lookup(host)
            if self._looked_up.failure and not before.failure:
                log.warning(
                    "the picker's host cannot be looked up",
                    host=host,
                    error=self._looked_up.failure,
                    kept=[*self._looked_up.ips],
                )
        self._publish()

    async def _lookup(self, host: str) -> Lookup:
        try:
            ips = await self._look_up(host)
        except TimeoutError:
            return Lookup(self._looked_up.ips, f"no answer within {LOOKUP_TIMEOUT:g} s")
        except (OSError, UnicodeError) as error:
            return Lookup(self._looked_up.ips, str(getattr(error, "strerror", None) or error))
        return Lookup(ips) if ips else Lookup(self._looked_up.ips, "it has no usable address")

    def _publish(self) -> None:
        self._last = resolve_listed(self._pool, self._looked_up, self._last, self._clock())
        problems = tuple(
            problem._replace(field="picker") if problem.field.endswith("Ref") else problem
            for problem in self._last.problems
        )
        self._store.publish({self._pool.pool.name: self._last.snapshot}, problems)
        self._listed("")

    # --- as a PoolSource ---

    @property
    def where(self) -> str:
        """What gives the pool."""
        return "--endpoint"

    def recall(self) -> bool:
        """Nothing to recall: the options are always there."""
        return False

    async def retire(self) -> None:
        """Nothing to do: no task is for one replica only."""

    def staleness(self) -> str:
        """Never stale."""
        return ""

    async def run(self) -> None:
        """Follow the picker's name until cancelled. No task is left running then."""
        while True:
            await self.reload()
            await asyncio.sleep(LOOKUP_RETRY if self._looked_up.failure else LOOKUP_INTERVAL)
