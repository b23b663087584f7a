"""EndpointTable: the endpoints of one pool at one moment, immutable, and the syntax of endpoints. Pure."""

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
"""Part of an IP address, or a port."""


class Endpoint(NamedTuple):
    """One `podIP:port` of a pool."""

    key: str
    """`ip:port`, or `[ip]:port` for IPv6, in canonical spelling."""
    ip: str
    port: int
    pod: str
    ready: bool = True
    """False while draining: the endpoint is still a valid pick and in EDS, but never a local pick or in a
    subset hint."""
    since: int = 0
    """Generation of the table that first had this endpoint."""
    other: bool = False
    """Whether this is the second address of a dual-stack Pod, and the first one is a member too. It is a
    valid pick and in EDS, but never a local pick, because the Pod would count twice."""
    local: bool = True
    """Whether a local pick may choose it. A Pod that only prefills cannot answer alone."""

    @property
    def usable(self) -> bool:
        """Whether it is ready and the first address of its Pod."""
        return self.ready and not self.other


@dataclass(frozen=True)
class EndpointTable:
    """Members by key. `generation` grows whenever the set of keys, which is what EDS has, changes."""

    by_key: MappingProxyType[str, Endpoint] = field(default_factory=lambda: MappingProxyType({}))
    generation: int = 0

    @cached_property
    def ready(self) -> tuple[Endpoint, ...]:
        """Members that are not draining, in a stable order, one per Pod and port.

        Computed on first use: most tables of a large, changing pool are replaced before they are used.
        """
        return tuple([endpoint for endpoint in self.by_key.values() if endpoint.usable])

    @cached_property
    def local(self) -> tuple[Endpoint, ...]:
        """The `ready` members that a local pick may choose."""
        return tuple([endpoint for endpoint in self.ready if endpoint.local])

    @property
    def draining(self) -> int:
        """Number of draining members."""
        return sum(not endpoint.ready for endpoint in self.by_key.values())


def canonical_ip(text: str) -> str | None:
    """The canonical spelling of an IP address; None for any other text.

    An IPv4-mapped IPv6 address is refused: it would be a second name of one endpoint.
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
    """The key of an IPv6 endpoint written without brackets, such as `fd99::5:8000`; None for any other
    text. The text could be an address without a port, so use the key only if the table has it."""
    host, _, port = text.strip(" \t").rpartition(":")
    return parse_endpoint(f"[{host}]:{port}") if ":" in host and "[" not in host else None


def endpoint_key(ip: str, port: int) -> str:
    """`ip:port`, or `[ip]:port` for IPv6. `ip` is canonical."""
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def parse_endpoint(text: str) -> str | None:
    """The canonical key of `ip:port` or `[ip]:port`; None for any other text.

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
    """Redact a text that should have been endpoints for the log: every word that cannot be part of one
    becomes `…`. A picker may repeat there what a client has sent, such as a token.
    """
    return _WORD.sub(lambda word: word[0] if _PART.fullmatch(word[0]) else "…", text[:_MAX_QUOTED])
