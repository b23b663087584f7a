"""Which cases there are: every pair of two values meets in one of them. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import NamedTuple

from epp_client.pool.inference_pool import AppProtocol
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from epp_client.settings import TransportName, UpstreamMode
from tests.transparency.kinds import ANSWERS, REQUESTS, Answer, Request

DIALECTS = (
    "llm-d-0.10",
    "gaie-1.2",
    "pick-after-body",
    "pick-with-headers",
    "streaming",
    "rewrite-body",
    "replace-body",
    "chunked",
    "mutate",
    "rewrite-response",
    "refuse-429",
    "refuse-503",
    "refuse-at-response",
)
"""Those of healthy pickers that work with Envoy alone, as named in `demo.dialects`.

Not `close-after-pick`: Envoy alone then loses a part of the response, another one each time.
"""


class Failure(NamedTuple):
    """What real pickers do and Envoy alone cannot serve, over h2c."""

    dialect: str
    request: str
    answer: str
    outcome: str
    """The status, or `silent`: no answer ever."""
    why: str


ALONE_FAILS = (
    # Before those that ignore trailers: what a picker does with them is remembered.
    Failure(
        "llm-d-0.10", "h2", "only-trailers", "500",
        "The picker answers trailers with an empty body before them, where there was none.",
    ),
    Failure(
        "llm-d-0.10", "h2-trailers", "length", "silent",
        "The picker waits for the end of the body, which a request with trailers does not have.",
    ),
    Failure(
        "gaie-1.2", "h2", "trailers", "silent", "The picker never answers the trailers of a response."
    ),
    Failure(
        "common-response", "1-kb", "length", "500",
        "lwepp 1.6.0 answers bodies with an empty CommonResponse, which means that they are unchanged.",
    ),
    Failure(
        "body-before-headers", "1-kb", "length", "500",
        "Some versions of lwepp answer the body before the headers.",
    ),
    Failure("silent-response", "1-kb", "length", "silent", "The picker never answers the response."),
)  # fmt: skip

FACTORS: Mapping[str, Sequence[str]] = {
    "dialect": DIALECTS,
    "request": tuple(REQUESTS),
    "answer": tuple(ANSWERS),
    "setting": tuple(map("/".join, product(AppProtocol, UpstreamMode, TransportName))),
}


_HTTP, _H2C = AppProtocol
_OVERRIDE, _ORIGINAL = UpstreamMode.OVERRIDE_HOST, UpstreamMode.ORIGINAL_DST
_NATIVE, _GRPCIO = TransportName.NATIVE, TransportName.GRPCIO
HEADERS = (
    (_H2C, _OVERRIDE, _NATIVE, ResponseMode.RELAY),
    (_HTTP, _ORIGINAL, _GRPCIO, ResponseMode.RELAY),
    (_HTTP, _OVERRIDE, _GRPCIO, ResponseMode.OBSERVE),
    (_H2C, _ORIGINAL, _NATIVE, ResponseMode.SKIP),
    (_HTTP, _OVERRIDE, _NATIVE, ResponseMode.NONE),
)
"""How pools are served whose picker gets only the headers of requests."""


EVERYTHING = Modes()


@dataclass(frozen=True)
class Case:
    """One request, answered by one picker, sent both ways."""

    dialect: str
    request: str
    answer: str
    protocol: AppProtocol
    mode: UpstreamMode
    transport: TransportName
    modes: Modes = EVERYTHING
    """What the picker gets."""

    def __str__(self) -> str:
        protocol = "h2c" if self.protocol is AppProtocol.H2C else "http"
        return (
            "-with-".join((self.dialect, self.request, self.answer))
            + "-over-"
            + "-".join((protocol, self.mode, self.transport))
            + (
                ""
                if self.modes == EVERYTHING
                else f"-in-{self.modes.request}-{self.modes.response}"
            )
        )

    @property
    def request_kind(self) -> Request:
        """What the client sends."""
        return REQUESTS[self.request]

    @property
    def answer_kind(self) -> Answer:
        """What the model server answers."""
        return ANSWERS[self.answer]


def possible(row: Mapping[str, str]) -> bool:
    """Whether Envoy alone can serve such a case; `row` may be a part of one."""
    match row.get("dialect"), row.get("request"), row.get("answer"):
        # A picker that answers at the end of the body meets no end: see ALONE_FAILS.
        case dialect, "h2-trailers", _ if dialect not in (None, "streaming"):
            return False
        # It does not answer trailers: see ALONE_FAILS.
        case "gaie-1.2", _, "trailers" | "only-trailers":
            return False
        # Envoy refuses the empty body that it answers them with.
        case "llm-d-0.10", _, "only-trailers":
            return False
        # Seven bytes an answer.
        case "replace-body", _, "5-mb":
            return False
    return True


def cases() -> list[Case]:
    """As few as a greedy search finds, the same each time."""
    return [*(_case(row) for row in pairwise(FACTORS)), *_headers_cases()]


def _headers_cases() -> list[Case]:
    """Every request with a picker that decides by headers and gets no more. The answers take turns."""
    dialect = "pick-with-headers"
    made: list[Case] = []
    for request, (protocol, mode, transport, response) in product(REQUESTS, HEADERS):
        answer = list(ANSWERS)[len(made) % len(ANSWERS)]
        modes = Modes(RequestMode.HEADERS, response)
        made.append(Case(dialect, request, answer, protocol, mode, transport, modes))
    return made


def _case(row: Mapping[str, str]) -> Case:
    *protocol, mode, transport = row["setting"].rsplit("/", 2)
    return Case(
        row["dialect"],
        row["request"],
        row["answer"],
        AppProtocol(protocol[0]),
        UpstreamMode(mode),
        TransportName(transport),
    )


Pair = tuple[tuple[str, str], tuple[str, str]]


def pairwise(factors: Mapping[str, Sequence[str]]) -> Iterator[dict[str, str]]:
    """Rows in which each value of a factor meets each value of every other factor."""
    missing: set[Pair] = {
        ((one, a), (other, b))
        for one, other in combinations(factors, 2)
        for a, b in product(factors[one], factors[other])
        if possible({one: a, other: b})
    }
    turn = 0
    while missing:
        row = dict(min(missing, key=lambda pair: _order(factors, pair)))
        for name in factors:
            if name not in row:
                # Of equal values another one each time, so that all are used alike.
                values = [*factors[name][turn % len(factors[name]) :], *factors[name]]
                values = [value for value in values if possible({**row, name: value})]
                row[name] = max(values, key=lambda value: _gain(missing, factors, row, name, value))
        turn += 1
        missing -= set(combinations(((name, row[name]) for name in factors), 2))
        yield {name: row[name] for name in factors}


def _order(
    factors: Mapping[str, Sequence[str]], pair: Iterable[tuple[str, str]]
) -> tuple[int, ...]:
    names = list(factors)
    return tuple(
        number for name, value in pair for number in (names.index(name), factors[name].index(value))
    )


def _gain(
    missing: set[Pair],
    factors: Mapping[str, Sequence[str]],
    row: dict[str, str],
    name: str,
    value: str,
) -> int:
    """How many missing pairs the value adds to the row."""
    names = list(factors)
    gained = 0
    for other, chosen in row.items():
        mine, its = (name, value), (other, chosen)
        gained += (
            (mine, its) if names.index(name) < names.index(other) else (its, mine)
        ) in missing
    return gained
