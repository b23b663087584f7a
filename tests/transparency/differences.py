"""What differs between Envoy with the picker alone and with epp-client in between, and why. Pure.

A field that differs and that no entry explains fails its case; an entry that explains nothing in the whole
matrix fails as well.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase

from epp_client.pool.settings import RequestMode, ResponseMode
from epp_client.settings import UpstreamMode
from tests.transparency.matrix import Case
from tests.transparency.outcome import Outcome, differing


@dataclass(frozen=True)
class Difference:
    """One justified difference."""

    name: str
    fields: tuple[str, ...]
    """Patterns of the fields of an outcome."""
    why: str
    when: Callable[[Case], bool] = lambda case: True
    """Which cases may have it."""

    def explains(self, case: Case, field: str) -> bool:
        """Whether this is why the field differs."""
        return self.when(case) and any(fnmatchcase(field, pattern) for pattern in self.fields)


def _original_dst(case: Case) -> bool:
    return case.mode == UpstreamMode.ORIGINAL_DST


DIFFERENCES = (
    Difference(
        "server-header",
        ("client.header.server",),
        "The chart has `server_header_transformation: PASS_THROUGH`; "
        "`envoy-config` leaves Envoy's default.",
    ),
    Difference(
        "envoy-headers",
        ("*.header.x-envoy-upstream-service-time", "model.header.x-envoy-external-address"),
        "The chart has `suppress_envoy_headers: true`; `envoy-config` leaves Envoy's default.",
    ),
    Difference(
        "upstream-address",
        ("picker.response_headers.attributes.*",),
        "`envoy-config` has Envoy send the attribute `upstream.address`, from which the served endpoint is "
        "known with ORIGINAL_DST.",
    ),
    Difference(
        "served-endpoint",
        ("picker.response_*.metadata.envoy.lb", "client.header.x-conformance-test-served-endpoint"),
        "With ORIGINAL_DST Envoy alone does not tell the picker which endpoint served, as the protocol "
        "demands; epp-client does. The simulated pickers echo it to the client.",
        _original_dst,
    ),
    Difference(
        "pick-held-back",
        ("picker.request_body.metadata.envoy.lb",),
        "A pick made before the end of the body reaches Envoy once it is judged, so Envoy repeats it in "
        "fewer of the body messages that follow.",
        lambda case: case.dialect in ("pick-with-headers", "streaming"),
    ),
    Difference(
        "end-before-trailers",
        ("picker.request_body.ends",),
        "Pickers pick at the end of the body and never look at trailers, so a request with trailers hangs "
        "with Envoy alone; epp-client sends an empty last body message before them.",
        lambda case: case.request == "h2-trailers",
    ),
    Difference(
        "after-a-refusal",
        ("picker.phases", "picker.response_body*", "picker.response_trailers*"),
        "A picker that refuses a response sees as much of it as was under way by then.",
        lambda case: case.dialect == "refuse-at-response",
    ),
    Difference(
        "answers-of-envoy",
        ("picker.streams", "picker.phases", "client.*"),
        "Envoy's own answers (here 426) concern no picker, and epp-client shows them to none. With Envoy "
        "alone this one waits for the picker, and the client gets nothing.",
        lambda case: case.request == "http-1.0",
    ),
    Difference(
        "headers-are-all",
        ("picker.request_headers.end_of_stream",),
        "With `request-mode: headers` epp-client tells the picker that there is no body, so that it picks "
        "now. With Envoy alone a picker that waits for the body would wait for ever.",
        lambda case: case.modes.request is RequestMode.HEADERS,
    ),
    Difference(
        "copies",
        (
            "client.header.x-conformance-test-served-endpoint",
            "picker.response_body*",
            "picker.phases",
        ),
        "With `response-mode: observe`, which Envoy alone does not have, the picker gets copies: it "
        "changes nothing, and one that falls 1 MB behind gets no more.",
        lambda case: case.modes.response is ResponseMode.OBSERVE,
    ),
)


def explained(
    case: Case, alone: Outcome, with_us: Outcome
) -> tuple[dict[str, tuple[object, object]], set[str]]:
    """The fields that differ without an entry that explains it, with both values; the entries used."""
    rest = {}
    names = set()
    for field, values in differing(alone, with_us).items():
        why = {entry.name for entry in DIFFERENCES if entry.explains(case, field)}
        names |= why
        if not why:
            rest[field] = values
    return rest, names
