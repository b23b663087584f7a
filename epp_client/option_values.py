"""The forms of option values: which text is valid, and what it stands for. Pure.

A validator returns the value. The text of its ValueError follows the name of the option.
"""

import re
from ipaddress import ip_address
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

from epp_client.pool.endpoints import parse_endpoint
from epp_client.pool.selector import parse_selector

MAX_TARGET_PORTS = 8
"""Target ports of a pool, as of an InferencePool."""
_SERVICE = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?/[a-z0-9]([-a-z0-9]*[a-z0-9])?")


def host_port(text: str) -> tuple[str, int]:
    """Split `host:port`. An IPv6 host is in brackets, which are removed.

    Raises:
        ValueError: `text` is not of that form.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65535:
        raise ValueError("is not of the form host:port")
    return host.strip("[]"), int(port)


def reachable(address: str) -> str:
    """Where a client on this machine reaches a listener of this `host:port`: loopback, if it listens on all
    addresses.

    Raises:
        ValueError: it is not of that form.
    """
    host, port = host_port(address)
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1" if host == "0.0.0.0" else "::1"
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def checked_host_port(text: str) -> str:
    """`text`, if it is `host:port` of something to connect to.

    Raises:
        ValueError: it is not.
    """
    host, port = host_port(text)
    if not port or "/" in host or any(sign.isspace() for sign in host):
        raise ValueError("is not of the form host:port")
    return text


def is_service(picker: str) -> bool:
    """Whether a picker is a Service, `namespace/name:port`, and not `host:port`."""
    return "/" in picker


def _bound(text: str) -> str:
    host_port(text)
    return text


def _host_name(text: str) -> str:
    if not text or any(sign in text for sign in "/@ *") or text.count(":") == 1:
        raise ValueError("is not a host name or an address (give it without a port)")
    return text


def _ip_address(text: str) -> str:
    try:
        return str(ip_address(text.strip("[]")))
    except ValueError:
        raise ValueError("is not an IP address") from None


def _full_name(text: str) -> str:
    namespace, slash, name = text.partition("/")
    if not (namespace and slash and name) or "/" in name:
        raise ValueError("is not of the form namespace/name")
    return text


def _endpoint(text: str) -> str:
    key = parse_endpoint(text)
    if key is None:
        raise ValueError(
            "is not of the form ip:port, such as 10.0.0.7:8000 or [fd00::7]:8000; "
            "pickers name endpoints by address, so a host name cannot be used"
        )
    return key


def _once(values: tuple[str, ...]) -> tuple[str, ...]:
    for value in values:
        if values.count(value) > 1:
            raise ValueError(f"{value} is given twice")
    return values


def _picker(text: str) -> str:
    if not is_service(text):
        return checked_host_port(text)
    service, port = host_port(text)
    if not port or not _SERVICE.fullmatch(service):
        raise ValueError("is not of the form host:port, or namespace/name:port of a Service")
    return text


def _label_selector(text: str) -> str:
    if not text.strip():
        raise ValueError("is empty; write one such as app=vllm")
    parse_selector(text)
    return text.strip()


def _split(value: object) -> object:
    return [part.strip() for part in value.split(",")] if isinstance(value, str) else value


def _few(ports: tuple[int, ...]) -> tuple[int, ...]:
    found = tuple(dict.fromkeys(ports))
    if len(found) > MAX_TARGET_PORTS:
        raise ValueError(f"{len(found)} ports are more than {MAX_TARGET_PORTS}")
    return found


BoundAddress = Annotated[str, AfterValidator(_bound)]
"""`host:port` to listen on."""
HostName = Annotated[str, AfterValidator(_host_name)]
"""A host without a port."""
FullName = Annotated[str, AfterValidator(_full_name)]
"""`namespace/name`."""
EndpointKeys = Annotated[
    tuple[Annotated[str, AfterValidator(_endpoint)], ...], AfterValidator(_once)
]
"""Different `ip:port`, in canonical spelling."""
CollectorAddress = Annotated[str, AfterValidator(checked_host_port)]
"""`host:port` of an OpenTelemetry collector."""
PerCent = Annotated[float, Field(ge=0, le=100)]
PickerAddress = Annotated[str, AfterValidator(_picker)]
"""`host:port`, or `namespace/name:port` of a Service."""
LabelSelector = Annotated[str, AfterValidator(_label_selector)]
"""A label selector as text, not empty."""
TargetPorts = Annotated[
    tuple[Annotated[int, Field(ge=1, le=65535)], ...], BeforeValidator(_split), AfterValidator(_few)
]
"""Different ports, as a list or as text with commas."""

CheckKind = Annotated[str, Field(pattern=r"^(off|tcp|http:/[!-~]*)$")]
CheckInterval = Annotated[float, Field(gt=0, le=3600)]
CheckTimeout = Annotated[float, Field(gt=0, le=60)]
CheckThreshold = Annotated[int, Field(ge=1, le=100)]
IpAddress = Annotated[str, AfterValidator(_ip_address)]
"""An IP address."""
