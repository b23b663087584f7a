"""The Endpoint Picker Protocol (GAIE proposal 004): its keys, reading picks, writing hints. Pure."""

import re
from collections.abc import Callable, Iterable, MutableMapping, Sequence
from typing import Final, NamedTuple, final

from google.protobuf.message import DecodeError
from google.protobuf.struct_pb2 import Value
from mypy_extensions import mypyc_attr

from epp_client.errors import MalformedMessage, Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import (
    HeaderMutation,
    HeaderValueOption,
    ProcessingRequest,
    ProcessingResponse,
)
from epp_client.ext_proc.plain import plain_pick, plain_served
from epp_client.ext_proc.replies import MARKS_NAMESPACE, OVERWRITE
from epp_client.pool.endpoints import parse_endpoint
from epp_client.pool.snapshot import PoolSnapshot

DESTINATION: Final = "x-gateway-destination-endpoint"
SERVED: Final = "x-gateway-destination-endpoint-served"
SUBSET: Final = "x-gateway-destination-endpoint-subset"
LB_NAMESPACE: Final = "envoy.lb"
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
UPSTREAM_ADDRESS: Final = "upstream.address"

MAX_PICK_ENTRIES: Final = 256
"""A longer ordered list is no list of retries but a fault of the picker's."""

MAX_HEADERS: Final = 100
MAX_HEADER_BYTES: Final = 60 * 1024
"""What Envoy takes of one request or response, by default."""
_HEADER_NAME: Final = re.compile(r":?(?!(?i:transfer-encoding)$)[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_CONTROL: Final = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")

_DESTINATION_BYTES: Final = DESTINATION.encode()
_LB_BYTES: Final = LB_NAMESPACE.encode()
_SERVED_BYTES: Final = SERVED.encode()


class Subset(NamedTuple):
    """The endpoints that a request may go to, when Envoy sent a subset hint."""

    members: frozenset[str]
    """Keys of all members in the subset, draining ones included: valid picks."""
    ready: tuple[str, ...]
    """Keys of those that are ready: what the picker is told."""


@final
@mypyc_attr(acyclic=True)
class RequestHeaders:
    """Request headers as the picker may see them."""

    __slots__ = ("raw", "stripped", "subset")

    def __init__(self, raw: bytes, stripped: tuple[str, ...], subset: Subset | None) -> None:
        """`raw` is the ProcessingRequest for the picker, `stripped` the names of the client's headers
        that were taken out, and that the upstream must not see."""
        self.raw = raw
        self.stripped = stripped
        self.subset = subset


def prepare_request_headers(raw: bytes, snapshot: PoolSnapshot) -> RequestHeaders:
    """Strip client-supplied destination headers and narrow the subset hint to the pool.

    Raises:
        MalformedMessage: `raw` is not a ProcessingRequest.
    """
    if _DESTINATION_BYTES not in raw.lower():
        return RequestHeaders(raw, (), None)
    message = _parse_request(raw)
    headers = message.request_headers.headers.headers
    kept = [header for header in headers if not header.key.lower().startswith(DESTINATION)]
    stripped = tuple(
        sorted({header.key for header in headers if header.key.lower().startswith(DESTINATION)})
    )
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


def _parse_request(raw: bytes) -> ProcessingRequest:
    try:
        return ProcessingRequest.FromString(raw)
    except DecodeError as error:
        raise MalformedMessage(str(error)) from error


def _subset_hint(message: ProcessingRequest) -> list[str] | None:
    """The hint's entries, from a list or, as seen in the wild, a comma-separated string."""
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
    """Members named by `ip:port`, or by `ip` alone, which means all of its ports."""
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


@final
@mypyc_attr(acyclic=True)
class Pick:
    """What a picker's answer says about the destination, not yet judged."""

    __slots__ = ("problem", "text")

    def __init__(self, text: str = "", problem: Reason | None = None) -> None:
        self.text = text
        self.problem = problem


def parse_reply(raw: bytes) -> ProcessingResponse:
    """Parse a picker's message whole.

    Raises:
        MalformedMessage: `raw` is not a ProcessingResponse.
    """
    try:
        return ProcessingResponse.FromString(raw)
    except DecodeError as error:
        raise MalformedMessage(str(error)) from error


def read_pick(reply: ProcessingResponse) -> Pick | None:
    """Read the destination endpoint from the header mutation and the metadata; None when absent.

    The protocol wants both, with equal values; one alone is enough for us.
    """
    values: list[str] = []
    for option in _mutation(reply).set_headers:
        if option.header.key.lower() == DESTINATION:
            try:
                values += _texts(option)
            except UnicodeDecodeError:
                return Pick(problem=Reason.PICK_MALFORMED)
    fields = reply.dynamic_metadata.fields
    if LB_NAMESPACE in fields and DESTINATION in fields[LB_NAMESPACE].struct_value.fields:
        value = fields[LB_NAMESPACE].struct_value.fields[DESTINATION]
        if value.WhichOneof("kind") != "string_value":
            return Pick(problem=Reason.PICK_MALFORMED)
        values.append(value.string_value)
    if not values:
        return None
    if any(value != values[0] for value in values):
        return Pick(problem=Reason.PICK_DISAGREES)
    return Pick(values[0])


def _texts(option: HeaderValueOption) -> list[str]:
    """What an option says: its `raw_value`, its `value`, or one that says both, which may differ.

    Raises:
        UnicodeDecodeError: not text.
    """
    header = option.header
    if header.raw_value and header.value:
        return [header.raw_value.decode(), header.value]
    return [header.raw_value.decode() or header.value]


class HeaderReply:
    """A picker's header answer: parsed only when it is not plain, or has to be changed."""

    __slots__ = ("_raw", "_text", "pick")

    def __init__(self, raw: bytes, original: bytes) -> None:
        """`original` is Envoy's message with the headers that the answer is about.

        Raises:
            MalformedMessage: not a ProcessingResponse, or one that Envoy would refuse.
        """
        self._raw = raw
        self._text = plain_pick(raw, _LB_BYTES, _DESTINATION_BYTES)
        self.pick: Pick | None
        if self._text is not None:
            self.pick = Pick(self._text)
        else:
            reply = parse_reply(raw)
            check_mutation(reply.request_headers.response.header_mutation, original)
            self.pick = read_pick(reply)

    def steered(self, keys: Sequence[str], stripped: Sequence[str]) -> bytes:
        """The answer with the judged destination in its header and metadata."""
        if not stripped and self._text is not None and self._text == ",".join(keys):
            return self._raw
        return steer(parse_reply(self._raw), self._raw, keys, stripped)


def _mutation(reply: ProcessingResponse) -> HeaderMutation:
    if reply.HasField("request_body"):
        return reply.request_body.response.header_mutation
    return reply.request_headers.response.header_mutation


def check_mutation(mutation: HeaderMutation, original: bytes) -> None:
    """Refuse a header mutation that Envoy would refuse: it fails the request then, and says nothing.

    `original` is the message of Envoy's that has the headers to be changed.

    Raises:
        MalformedMessage: a name or value that is none, or more headers than Envoy takes.
    """
    changes = mutation.set_headers
    size = 0
    for option in changes:
        key, value = option.header.key, option.header.raw_value or option.header.value.encode()
        if key.lower() == DESTINATION:
            continue  # judged, and written anew
        if not _HEADER_NAME.fullmatch(key) or _CONTROL.search(value):
            raise MalformedMessage(f"header {key!r} cannot be set")
        size += len(key) + len(value)
    if size > MAX_HEADER_BYTES // 8 or len(changes) > MAX_HEADERS // 8:
        # What Envoy counts afterwards; a header that is overwritten counts twice here.
        message = _parse_request(original)
        response = message.HasField("response_headers")
        kept = (message.response_headers if response else message.request_headers).headers.headers
        size += sum(len(h.key) + len(h.raw_value or h.value.encode()) for h in kept)
        if size > MAX_HEADER_BYTES or len(kept) + len(changes) > MAX_HEADERS:
            raise MalformedMessage("more headers than Envoy takes")


@final
@mypyc_attr(acyclic=True)
class Verdict:
    """A judged pick. With a `problem` there is no usable endpoint, at least not yet."""

    __slots__ = ("keys", "may_change", "problem")

    def __init__(
        self,
        keys: tuple[str, ...] = (),
        problem: Reason | None = None,
        may_change: bool = False,
    ) -> None:
        """`keys` are members, in the picker's order. `may_change`: the table, or Envoy, may only be some
        milliseconds behind the picker."""
        self.keys = keys
        self.problem = problem
        self.may_change = may_change


def judge(pick: Pick, snapshot: PoolSnapshot, subset: Subset | None) -> Verdict:
    """Keep the members of the pool (and of the subset), in order. Nothing else is ever routed to."""
    if pick.problem is not None:
        return Verdict(problem=pick.problem)
    by_key = snapshot.table.by_key
    if subset is None and pick.text in by_key:  # one endpoint, spelt as we do
        return Verdict((pick.text,), may_change=not snapshot.routable(pick.text))
    entries = [entry for part in pick.text.split(",") if (entry := part.strip())]
    if not entries:
        return Verdict(problem=Reason.PICK_MISSING)
    if len(entries) > MAX_PICK_ENTRIES:
        return Verdict(problem=Reason.PICK_MALFORMED)
    named = [e if e in by_key else parse_endpoint(e) for e in entries]
    keys = dict.fromkeys(key for key in named if key is not None)
    if not keys:
        return Verdict(problem=Reason.PICK_MALFORMED)
    members = tuple(key for key in keys if key in by_key)
    allowed = members if subset is None else tuple(k for k in members if k in subset.members)
    if not allowed:
        if members:
            return Verdict(problem=Reason.PICK_OUTSIDE_SUBSET)
        # With a subset, an endpoint that joins the pool later is not in it either.
        return Verdict(problem=Reason.PICK_OUTSIDE_POOL, may_change=subset is None)
    return Verdict(allowed, may_change=not any(snapshot.routable(key) for key in allowed))


def steer(
    reply: ProcessingResponse, raw: bytes, keys: Sequence[str], stripped: Sequence[str]
) -> bytes:
    """The picker's header answer with the judged destination in its header and metadata.

    A picker chooses endpoints, never routes: with `clear_route_cache` its other changes could choose
    another route, whose cluster is none of this pool.
    """
    text = ",".join(keys)
    fields = reply.dynamic_metadata.fields
    response = reply.request_headers.response
    changed = _strip_metadata(fields)
    if response.clear_route_cache:
        response.clear_route_cache = False
        changed = True
    metadata = fields[LB_NAMESPACE].struct_value.fields[DESTINATION]
    mutation = response.header_mutation
    named = [o for o in mutation.set_headers if o.header.key.lower() == DESTINATION]
    if (
        not stripped
        and metadata.string_value == text
        and all(_texts(option) == [text] for option in named)
    ):
        return reply.SerializeToString() if changed else raw
    metadata.string_value = text
    for option in named:
        mutation.set_headers.remove(option)
    _set_destination(mutation, text, stripped)
    return reply.SerializeToString()


def _strip_metadata(fields: MutableMapping[str, Value]) -> bool:
    """Take out what only Envoy or we may say: the served endpoint, our marks. Whether there was any."""
    found = False
    if MARKS_NAMESPACE in fields:
        del fields[MARKS_NAMESPACE]
        found = True
    if LB_NAMESPACE in fields:
        lb = fields[LB_NAMESPACE].struct_value.fields
        if SERVED in lb:
            del lb[SERVED]
            found = True
    return found


def without_destination(raw: bytes) -> bytes:
    """A picker's answer, to anything but the request headers, that steers nothing.

    Envoy takes metadata from every answer, also after ours has named the judged endpoints, and walks
    it anew for a retry.

    Raises:
        MalformedMessage: `raw` is not a ProcessingResponse.
    """
    reply = parse_reply(raw)
    fields = reply.dynamic_metadata.fields
    _strip_metadata(fields)
    if LB_NAMESPACE in fields:
        fields[LB_NAMESPACE].struct_value.fields.pop(DESTINATION, None)
    if reply.HasField("request_body"):
        reply.request_body.response.clear_route_cache = False
        mutation = reply.request_body.response.header_mutation
    elif reply.HasField("request_trailers"):
        mutation = reply.request_trailers.header_mutation
    else:
        return reply.SerializeToString()
    for option in [o for o in mutation.set_headers if o.header.key.lower() == DESTINATION]:
        mutation.set_headers.remove(option)
    return reply.SerializeToString()


def destination_reply(keys: Sequence[str], stripped: Sequence[str]) -> bytes:
    """A header answer of our own that sends the request to `keys`."""
    text = ",".join(keys)
    reply = ProcessingResponse()
    _set_destination(reply.request_headers.response.header_mutation, text, stripped)
    lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
    lb.fields[DESTINATION].string_value = text
    return reply.SerializeToString()


def _set_destination(mutation: HeaderMutation, text: str, stripped: Sequence[str]) -> None:
    # Envoy removes before it sets, so the client's header may go and ours come in one mutation.
    mutation.remove_headers.extend(stripped)
    option = mutation.set_headers.add(append_action=OVERWRITE)
    option.header.key = DESTINATION
    option.header.raw_value = text.encode()


def read_served(raw: bytes) -> tuple[str | None, bytes]:
    """The served endpoint of a response-headers message, and the message as the picker gets it.

    Envoy's `selected_host_key` writes it into metadata; with ORIGINAL_DST it is only known as the
    attribute `upstream.address`, and is put where the protocol wants it.

    Raises:
        MalformedMessage: `raw` is not a ProcessingRequest.
    """
    served = plain_served(raw, _LB_BYTES, _SERVED_BYTES)
    if served is not None:
        return served, raw
    message = _parse_request(raw)
    metadata = message.metadata_context.filter_metadata
    if LB_NAMESPACE in metadata and SERVED in metadata[LB_NAMESPACE].fields:
        return metadata[LB_NAMESPACE].fields[SERVED].string_value, raw
    for attributes in message.attributes.values():
        if address := attributes.fields[UPSTREAM_ADDRESS].string_value:
            metadata[LB_NAMESPACE].fields[SERVED].string_value = address
            return address, message.SerializeToString()
    return None, raw


def is_grpc(raw: bytes) -> bool:
    """Whether a request-headers message is of a gRPC call."""
    headers = _parse_request(raw).request_headers.headers.headers
    return any(
        header.key.lower() == "content-type"
        and (header.raw_value or header.value.encode()).startswith(b"application/grpc")
        for header in headers
    )


LocalPick = Callable[[PoolSnapshot, Subset | None], tuple[str, ...]]
"""Chooses endpoints of our own: an ordered list of keys, empty when none is ready."""
