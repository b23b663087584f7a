"""Gateways that do not follow the pick as they should."""

from typing import Any

from epp_client.picker import preparation
from epp_client.picker.pick import Verdict
from epp_client.picker.preparation import RequestHeaders
from epp_client.picker.protocol import DESTINATION, SUBSET_NAMESPACE, parse_request
from epp_client.pool import parse
from epp_client.relay import request_phase
from testbed.strict.mutants.registry import mutant, replace


@mutant("pick-ignored", {"pick-followed": "served by alpha-"})
def pick_ignored() -> None:
    """The first endpoint serves everything."""

    def make(_: Any) -> Any:
        return lambda pick, snapshot, subset: Verdict((next(iter(snapshot.table.by_key)),))

    replace(request_phase, "judge", make)


@mutant("client-believed", {"client-cannot-choose": "served by alpha-"})
def client_believed() -> None:
    """The client's own header wins over the picker."""
    claims: list[str] = []

    def heard(original: Any) -> Any:
        def prepare(raw: bytes, snapshot: Any) -> RequestHeaders:
            headers = parse_request(raw).request_headers.headers.headers
            claims[:] = [h.raw_value.decode() for h in headers if h.key == DESTINATION]
            found: RequestHeaders = original(raw, snapshot)
            return found

        return prepare

    def believed(original: Any) -> Any:
        def judge(pick: Any, snapshot: Any, subset: Any) -> Verdict:
            known = [claim for claim in claims if claim in snapshot.table.by_key]
            found: Verdict = original(pick, snapshot, subset)
            return Verdict(tuple(known)) if known else found

        return judge

    replace(request_phase, "prepare_request_headers", heard)
    replace(request_phase, "judge", believed)


def _reordered(order: Any) -> Any:
    def make(original: Any) -> Any:
        def judge(pick: Any, snapshot: Any, subset: Any) -> Verdict:
            found = original(pick, snapshot, subset)
            return Verdict(order(found.keys), found.problem, found.may_change)

        return judge

    return make


@mutant("list-reversed", {"ordered-list": "served by gamma-"})
def list_reversed() -> None:
    """The last entry of a list is tried first."""
    replace(request_phase, "judge", _reordered(lambda keys: keys[::-1]))


@mutant("list-cut", {"ordered-list": "served by 503"})
def list_cut() -> None:
    """Nothing is tried after the first entry."""
    replace(request_phase, "judge", _reordered(lambda keys: keys[:1]))


@mutant("outside-routed", {"out-of-pool-close": ": 200 beta", "out-of-pool-open": ": 200 beta"})
def outside_routed() -> None:
    """Every Pod of the namespace counts as a member of every pool."""
    replace(parse, "InferencePool", lambda f: lambda **fields: f(**{**fields, "match_labels": ()}))


@mutant("subset-ignored", {"subset-hint": "served by alpha-"})
def subset_ignored() -> None:
    """A pick may be anywhere, and a local pick is."""
    replace(preparation, "_subset_hint", lambda _: lambda message: None)


@mutant("subset-hidden", {"subset-hint": "served by nobody: 503"})
def subset_hidden() -> None:
    """The picker does not get the hint."""

    def make(original: Any) -> Any:
        def prepare(raw: bytes, snapshot: Any) -> RequestHeaders:
            found = original(raw, snapshot)
            message = parse_request(found.raw)
            message.metadata_context.filter_metadata.pop(SUBSET_NAMESPACE, None)
            return RequestHeaders(message.SerializeToString(), found.stripped, found.subset)

        return prepare

    replace(request_phase, "prepare_request_headers", make)
