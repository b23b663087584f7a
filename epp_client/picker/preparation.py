"""Prepares Envoy's messages for the picker. Pure.

Removes request headers that only a picker may set, narrows the subset hint to the pool, and puts the served
endpoint where the protocol requires it.
"""

from collections.abc import Callable, Iterable
from typing import Final, NamedTuple, final

from mypy_extensions import mypyc_attr

from epp_client.errors import ENDPOINT_REASONS, Reason
from epp_client.ext_proc.messages import Message
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderValue, ProcessingRequest
from epp_client.ext_proc.plain import plain_served
from epp_client.ext_proc.replies import ERROR_HEADER
from epp_client.picker.protocol import (
    LB_NAMESPACE,
    SERVED,
    SUBSET,
    SUBSET_NAMESPACE,
    UPSTREAM_ADDRESS,
    parse_request,
)
from epp_client.pool.endpoints import parse_endpoint
from epp_client.pool.settings import DESTINATION_PREFIX
from epp_client.pool.snapshot import PoolSnapshot

_LB_BYTES: Final = LB_NAMESPACE.encode()
_SERVED_BYTES: Final = SERVED.encode()


class Subset(NamedTuple):
    """The endpoints that a request may go to, if Envoy sent a subset hint."""

    members: frozenset[str]
    """Keys of all endpoints in the subset, including draining ones. These are valid picks."""
    ready: tuple[str, ...]
    """Keys of the ready ones. The picker gets these."""


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class RequestHeaders:
    """Request headers as they are sent to the picker."""

    __slots__ = ("raw", "stripped", "subset")

    def __init__(self, raw: bytes, stripped: tuple[str, ...], subset: Subset | None) -> None:
        """`raw` is the ProcessingRequest for the picker. `stripped` has the names of the client's headers
        that were removed. The model server must not get them either."""
        self.raw = raw
        self.stripped = stripped
        self.subset = subset


def prepare_request_headers(raw: bytes, snapshot: PoolSnapshot) -> RequestHeaders:
    """Remove headers that only a picker may set, and narrow the subset hint to the pool.

    Raises:
        EnvoyViolation: `raw` is not a ProcessingRequest.
    """
    settings = snapshot.pool.settings
    if settings.of_requests.stripped.search(raw) is None:
        return RequestHeaders(raw, (), None)
    message = parse_request(raw)
    headers = message.request_headers.headers.headers
    kept: list[HeaderValue] = []
    names: set[str] = set()
    for header in headers:
        name = header.key.lower()
        if name.startswith(DESTINATION_PREFIX) or name in settings.strip_headers:
            names.add(header.key)
        else:
            kept.append(header)
    stripped = tuple(sorted(names))
    if stripped:
        del headers[:]
        headers.extend(kept)
    wanted = _subset_hint(message)
    if wanted is None:
        return RequestHeaders(message.SerializeToString() if stripped else raw, stripped, None)
    subset = _narrow(wanted, snapshot)
    hint = message.metadata_context.filter_metadata[SUBSET_NAMESPACE]
    hint.fields[SUBSET].Clear()
    for key in subset.ready:
        hint.fields[SUBSET].list_value.values.add().string_value = key
    return RequestHeaders(message.SerializeToString(), stripped, subset)


_UPGRADE: Final = b"\n\x07upgrade"
"""The name of the header in protobuf's encoding. A header's value cannot contain these bytes."""


def is_upgrade(message: Message) -> bool:
    """Whether the request headers ask for an upgrade. After them comes no body, and no end of a body."""
    # Not `in`, which raises an error within, to find out that the operand is no int.
    return not message.end_of_stream and message.raw.find(_UPGRADE) >= 0


def _subset_hint(message: ProcessingRequest) -> list[str] | None:
    """The entries of the hint. It is a list, or a comma-separated string, which some gateways send."""
    metadata = message.metadata_context.filter_metadata
    if SUBSET_NAMESPACE not in metadata or SUBSET not in metadata[SUBSET_NAMESPACE].fields:
        return None
    value = metadata[SUBSET_NAMESPACE].fields[SUBSET]
    if value.WhichOneof("kind") == "list_value":
        texts = [item.string_value for item in value.list_value.values]
    else:
        texts = [value.string_value]
    return [entry.strip() for text in texts for entry in text.split(",") if entry.strip()]


def _narrow(wanted: Iterable[str], snapshot: PoolSnapshot) -> Subset:
    """The endpoints of the pool that the hint names, by `ip:port`, or by `ip` for all ports of that IP."""
    table = snapshot.table
    keys: set[str] = set()
    addresses: set[str] = set()
    for entry in wanted:
        key = entry if entry in table.by_key else parse_endpoint(entry)
        if key is None:
            addresses.add(entry.strip("[]"))
        else:
            keys.add(key)
    members = [e for e in table.by_key.values() if e.key in keys or e.ip in addresses]
    return Subset(frozenset(e.key for e in members), tuple(e.key for e in members if e.ready))


def read_served(raw: bytes) -> tuple[str | None, bytes]:
    """The served endpoint of a response-headers message, and the message for the picker.

    Envoy's `selected_host_key` writes the endpoint into the metadata. With ORIGINAL_DST only the attribute
    `upstream.address` has it; it is copied to the metadata, where the protocol requires it.

    Raises:
        EnvoyViolation: `raw` is not a ProcessingRequest.
    """
    served = plain_served(raw, _LB_BYTES, _SERVED_BYTES)
    if served is not None:
        return served, raw
    message = parse_request(raw)
    metadata = message.metadata_context.filter_metadata
    if LB_NAMESPACE in metadata and SERVED in metadata[LB_NAMESPACE].fields:
        return metadata[LB_NAMESPACE].fields[SERVED].string_value, raw
    for attributes in message.attributes.values():
        if address := attributes.fields[UPSTREAM_ADDRESS].string_value:
            metadata[LB_NAMESPACE].fields[SERVED].string_value = address
            return address, message.SerializeToString()
    return None, raw


_ERROR: Final = ERROR_HEADER.encode()
_ENDPOINT_FAILURES: Final = {str(reason): reason for reason in ENDPOINT_REASONS}


def read_endpoint_failure(raw: bytes) -> Reason | None:
    """Why Envoy answered instead of the endpoint. `raw` is a response-headers message. Our configuration
    (`envoy.local_replies`) adds a header with the reason to such answers."""
    if raw.find(_ERROR) < 0:
        return None
    for header in parse_request(raw).response_headers.headers.headers:
        if header.key == ERROR_HEADER:
            return _ENDPOINT_FAILURES.get(header.raw_value.decode("latin-1") or header.value)
    return None


LocalPick = Callable[[PoolSnapshot, Subset | None], tuple[str, ...]]
"""Chooses the endpoints of a local pick: an ordered list of keys, empty if none is ready."""
