"""Looks up the names of pickers' hosts, again and again."""

import asyncio
import socket
from collections.abc import Awaitable, Callable, Collection

import structlog

from epp_client.pool.endpoints import canonical_ip
from epp_client.pool.inference_pool import EndpointPickerRef
from epp_client.pool.picker_host import Lookup, host_to_look_up

log = structlog.get_logger(__name__)

INTERVAL = 10.0
"""Seconds between two lookups of a host."""
RETRY = 1.0
"""Seconds from a failed lookup to the next one."""
TIMEOUT = 3.0
"""Seconds for one lookup."""

NOT_LOOKED_UP = Lookup(failure="not looked up yet")
LookUp = Callable[[str], Awaitable[tuple[str, ...]]]


async def look_up(host: str) -> tuple[str, ...]:
    """The addresses of a host.

    Raises:
        OSError: it has none, or cannot be looked up in time.
    """
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(TIMEOUT):
        found = await loop.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    ips = (canonical_ip(str(address[4][0])) for address in found)
    return tuple(sorted({ip for ip in ips if ip is not None}))


class Lookups:
    """The newest addresses of hosts."""

    def __init__(self, look_up: LookUp = look_up) -> None:
        self._look_up = look_up
        self._found: dict[str, Lookup] = {}

    def of(self, ref: EndpointPickerRef | None) -> Lookup:
        """What is known of the host of this picker."""
        return self._found.get(host_to_look_up(ref) or "", NOT_LOOKED_UP)

    def lacks(self, hosts: Collection[str]) -> bool:
        """Whether one of these has not been looked up yet."""
        return any(host not in self._found for host in hosts)

    @property
    def pause(self) -> float:
        """Seconds until the next lookups."""
        return RETRY if any(found.failure for found in self._found.values()) else INTERVAL

    async def refresh(self, hosts: Collection[str]) -> bool:
        """Look these hosts up, and forget all others. True if anything changed."""
        hosts = sorted(hosts)
        results = await asyncio.gather(*(self._lookup(host) for host in hosts))
        found = dict(zip(hosts, results, strict=True))
        for host, lookup in found.items():
            if lookup.failure and not self._found.get(host, Lookup()).failure:
                log.warning(
                    "the picker's host cannot be looked up",
                    host=host,
                    error=lookup.failure,
                    kept=[*lookup.ips],
                )
        changed, self._found = found != self._found, found
        return changed

    async def _lookup(self, host: str) -> Lookup:
        kept = self._found.get(host, Lookup()).ips
        try:
            ips = await self._look_up(host)
        except TimeoutError:
            return Lookup(kept, f"no answer within {TIMEOUT:g} s")
        except (OSError, UnicodeError) as error:
            return Lookup(kept, str(getattr(error, "strerror", None) or error))
        return Lookup(ips) if ips else Lookup(kept, "it has no usable address")
