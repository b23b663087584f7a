"""Reads the pick from a picker's answer, and checks that its endpoints are in the pool. Pure."""

from collections.abc import Mapping
from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.errors import Reason
from epp_client.ext_proc.pb.ext_proc_pb2 import (
    HeaderMutation,
    HeaderValueOption,
    ProcessingResponse,
)
from epp_client.picker.preparation import Subset
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE
from epp_client.pool.endpoints import Endpoint, parse_endpoint, unbracketed
from epp_client.pool.snapshot import PoolSnapshot

MAX_PICK_ENTRIES: Final = 256
"""A longer list is a fault of the picker: no request is retried that often."""


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Pick:
    """The destination that a picker's answer names, not yet judged."""

    __slots__ = ("problem", "text")

    def __init__(self, text: str = "", problem: Reason | None = None) -> None:
        self.text = text
        self.problem = problem


def read_pick(reply: ProcessingResponse) -> Pick | None:
    """Read the destination endpoint from the header mutation and the metadata. None if neither has it.

    The protocol requires both, with equal values. One of them is enough for the sidecar.
    """
    values: list[str] = []
    for option in _mutation(reply).set_headers:
        if option.header.key.lower() == DESTINATION:
            try:
                values += texts(option)
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


def texts(option: HeaderValueOption) -> list[str]:
    """The values of an option: `raw_value`, `value`, or both if it has both. They may differ.

    Raises:
        UnicodeDecodeError: `raw_value` is not UTF-8.
    """
    header = option.header
    if header.raw_value and header.value:
        return [header.raw_value.decode(), header.value]
    return [header.raw_value.decode() or header.value]


def _mutation(reply: ProcessingResponse) -> HeaderMutation:
    if reply.HasField("request_body"):
        return reply.request_body.response.header_mutation
    return reply.request_headers.response.header_mutation


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Verdict:
    """A judged pick. If it has a `problem`, it has no usable endpoint, or not yet."""

    __slots__ = ("keys", "may_change", "problem")

    def __init__(
        self,
        keys: tuple[str, ...] = (),
        problem: Reason | None = None,
        may_change: bool = False,
    ) -> None:
        """`keys` are endpoints of the pool, in the picker's order. `may_change`: the result may be better
        in a few milliseconds, because the table or Envoy may be behind the picker."""
        self.keys = keys
        self.problem = problem
        self.may_change = may_change


def judge(pick: Pick, snapshot: PoolSnapshot, subset: Subset | None) -> Verdict:
    """Keep the endpoints that are in the pool and in the subset, in the picker's order. No request is sent
    to any other endpoint."""
    if pick.problem is not None:
        return Verdict(problem=pick.problem)
    by_key = snapshot.table.by_key
    # The usual case: one endpoint, written as the table writes it.
    if subset is None and (named := by_key.get(pick.text)) is not None:
        known = snapshot.acknowledged
        return Verdict((pick.text,), may_change=known is not None and named.since > known)
    entries = [entry for part in pick.text.split(",") if (entry := part.strip())]
    if not entries:
        return Verdict(problem=Reason.PICK_MISSING)
    if len(entries) > MAX_PICK_ENTRIES:
        return Verdict(problem=Reason.PICK_MALFORMED)
    read = [e if e in by_key else _read(e, by_key) for e in entries]
    keys = dict.fromkeys(key for key in read if key is not None)
    if not keys:
        return Verdict(problem=Reason.PICK_MALFORMED)
    members = tuple(key for key in keys if key in by_key)
    allowed = members if subset is None else tuple(k for k in members if k in subset.members)
    if not allowed:
        if members:
            return Verdict(problem=Reason.PICK_OUTSIDE_SUBSET)
        # A new endpoint of the pool would not be in the subset, so waiting does not help with a subset.
        return Verdict(problem=Reason.PICK_OUTSIDE_POOL, may_change=subset is None)
    return Verdict(allowed, may_change=not any(snapshot.routable(key) for key in allowed))


def _read(entry: str, by_key: Mapping[str, Endpoint]) -> str | None:
    """The endpoint of an entry, written as the table writes it. None if the entry is not an endpoint."""
    key = parse_endpoint(entry)
    if key is None and (meant := unbracketed(entry)) in by_key:
        return meant
    return key
