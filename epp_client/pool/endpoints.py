"""EndpointTable: the `ip:port` members of one pool at one moment. Immutable; pure."""

import ipaddress
import re
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import NamedTuple

MAX_ENDPOINT_LENGTH = 64
_MAX_QUOTED = 200
_WORD = re.compile(r"[^\s,/\[\].:]+")
_PART = re.compile(r"[0-9A-Fa-f]{1,5}")
"""A part of an IP address, or a port."""


class Endpoint(NamedTuple):
    """One `podIP:port` of a pool."""

    key: str
    """`ip:port`, or `[ip]:port` for IPv6, in canonical spelling."""
    ip: str
    port: int
    pod: str
    ready: bool = True
    """False while draining: still a valid pick and in EDS, never a local pick or in a subset hint."""
    since: int = 0
    """Generation of the table that first had this endpoint."""
    other: bool = False
    """Whether this is a further address of its Pod (dual stack), whose first one is a member too: a valid
    pick and in EDS, never a local pick, as the Pod would count twice."""
    local: bool = True
    """Whether it can answer alone, so that it may be picked without the pool's picker: a Pod that only
    prefills cannot."""

    @property
    def usable(self) -> bool:
        """Whether it stands for its Pod, and is ready."""
        return self.ready and not self.other


@dataclass(frozen=True)
class EndpointTable:
    """Members by key. `generation` moves whenever the set of keys, which is what EDS shows, does."""

    by_key: MappingProxyType[str, Endpoint] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0

    @cached_property
    def ready(self) -> tuple[Endpoint, ...]:
        """Members that are not draining, in a stable order, each Pod by its first address.

        Found when first asked for: most tables of a large pool that changes are replaced before.
        """
        return tuple([endpoint for endpoint in self.by_key.values() if endpoint.usable])

    @cached_property
    def local(self) -> tuple[Endpoint, ...]:
        """Those of the `ready` ones that may be picked locally."""
        return tuple([endpoint for endpoint in self.ready if endpoint.local])

    @property
    def draining(self) -> int:
        """How many members drain."""
        return sum(not endpoint.ready for endpoint in self.by_key.values())


def canonical_ip(text: str) -> str | None:
    """The canonical spelling of an IP address; None for anything else.

    An IPv4 address mapped into IPv6 is refused: it would be a second name for one endpoint.
    """
    if "%" in text or not text.isascii():
        return None
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return None
    return str(address)


def unbracketed(text: str) -> str | None:
    """The key of an IPv6 address that is written without its brackets, as `fd99::5:8000`; None for anything
    else. It could be an address without a port, so it counts only where the table has the endpoint."""
    host, _, port = text.strip(" \t").rpartition(":")
    return parse_endpoint(f"[{host}]:{port}") if ":" in host and "[" not in host else None


def endpoint_key(ip: str, port: int) -> str:
    """`ip:port`, or `[ip]:port` for IPv6. `ip` is canonical."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def parse_endpoint(text: str) -> str | None:
    """Read `ip:port` or `[ip]:port` strictly; the canonical key, or None for anything else.

    No host names, no missing ports, no zones, no leading zeros or signs in ports.
    """
    if len(text) > MAX_ENDPOINT_LENGTH:
        return None
    host, colon, digits = text.strip(" \t").rpartition(":")
    if not colon or not (digits.isascii() and digits.isdigit()) or digits[0] == "0":
        return None
    port = int(digits)
    if port > 65535:
        return None
    bracketed = host.startswith("[") and host.endswith("]")
    ip = canonical_ip(host[1:-1] if bracketed else host)
    if ip is None or bracketed != (":" in ip):
        return None
    return endpoint_key(ip, port)


def quotable(text: str) -> str:
    """What may be logged of a text that should have been endpoints: what could be part of one.

    Anything else is shown as `…`: a picker may repeat there what a client has sent, a token for one.
    """
    return _WORD.sub(lambda word: word[0] if _PART.fullmatch(word[0]) else "…", text[:_MAX_QUOTED])
