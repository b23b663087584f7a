"""docs/reference/exchange.md and docs/images/exchange.svg: the phases of an exchange, drawn from its table."""

import inspect
from collections.abc import Callable, Iterable, Iterator
from enum import IntEnum
from html import escape
from typing import Any, Final

from epp_client.relay.phases import ExchangePhase, Signal
from epp_client.relay.transitions import FROM_ENVOY, FROM_PICKER, SIGNALS
from reference.text import code, label, table, values_table

Edge = tuple[ExchangePhase, ExchangePhase]

_HEAD: Final = """\
# The exchange

An exchange is what the sidecar knows and does about one request. It is in one of nine phases. An event is a message
of Envoy's, a message of the picker's, or a signal. `epp_client/relay/transitions.py` is the table of events and phases;
this page and its picture are drawn from it, and a test compares it with what an exchange really does.
[How it works](../how-it-works.md#the-life-of-a-request) shows where an exchange stands.

![The phases of an exchange and the ways between them](../images/exchange.svg)

An arrow's number is its row in [the ways](#ways). From every phase the exchange can close.

"""

_P = ExchangePhase
_PLACES: Final = {
    _P.ANSWERING: (560, 60),
    _P.NEW: (110, 180),
    _P.PICKING: (380, 180),
    _P.RELAYING: (800, 180),
    _P.WAITING_FOR_ENDPOINT: (380, 330),
    _P.WAITING_WITHOUT_PICKER: (380, 480),
    _P.WAITING_FOR_END: (380, 630),
    _P.PASSING: (800, 480),
}
_HALF_WIDTH: Final = 105
_HALF_HEIGHT: Final = 26
# Ways that are not a straight line between the boxes: points, and where the number is.
_BENT: Final = {
    (_P.NEW, _P.PASSING): ([(130, 206), (130, 560), (780, 560), (780, 506)], (600, 560)),
    (_P.NEW, _P.WAITING_FOR_END): ([(90, 206), (90, 640), (275, 640)], (90, 420)),
    (_P.PICKING, _P.WAITING_FOR_END): (
        [(295, 206), (295, 255), (215, 255), (215, 630), (275, 630)],
        (215, 420),
    ),
    (_P.WAITING_FOR_ENDPOINT, _P.WAITING_FOR_END): (
        [(275, 330), (245, 330), (245, 620), (275, 620)],
        (245, 470),
    ),
    (_P.WAITING_WITHOUT_PICKER, _P.WAITING_FOR_END): ([(380, 506), (380, 604)], (380, 532)),
    (_P.WAITING_FOR_END, _P.PASSING): ([(485, 630), (820, 630), (820, 506)], (650, 630)),
    (_P.PICKING, _P.WAITING_FOR_ENDPOINT): ([(350, 206), (350, 304)], (350, 255)),
    (_P.WAITING_FOR_ENDPOINT, _P.PICKING): ([(410, 304), (410, 206)], (410, 255)),
    (_P.WAITING_FOR_ENDPOINT, _P.ANSWERING): ([(470, 304), (560, 86)], (515, 195)),
    (_P.PICKING, _P.ANSWERING): ([(380, 154), (380, 60), (455, 60)], (380, 100)),
    (_P.PICKING, _P.RELAYING): ([(485, 172), (695, 172)], (640, 172)),
    (_P.WAITING_FOR_ENDPOINT, _P.RELAYING): ([(485, 318), (695, 196)], (632, 233)),
    (_P.PICKING, _P.PASSING): ([(485, 196), (740, 454)], (588, 300)),
    (_P.WAITING_FOR_ENDPOINT, _P.PASSING): ([(485, 342), (695, 464)], (570, 392)),
}


def exchange() -> str:
    """The phases, the ways between them, and the whole table."""
    ways = _ways()
    numbers = list(ways)
    edges = [
        [
            str(numbers.index(edge) + 1),
            code(label(edge[0])),
            code(label(edge[1])),
            ", ".join(events),
        ]
        for edge, events in ways.items()
    ]
    rows = [
        [", ".join(events), ", ".join(map(code, phases)), does] for events, phases, does in _rows()
    ]
    return "\n".join(
        (
            f"{_HEAD}## Phases\n\n{values_table(ExchangePhase, 'phase')}",
            f"## Signals\n\n{values_table(Signal, 'signal')}",
            f"## Ways\n\n{table(['way', 'from', 'to', 'events'], edges)}",
            "## The table\n\nWhat no row names is ignored.\n",
            table(["events", "phases", "what is done"], rows),
        )
    )


def picture() -> str:
    """The phases and the ways between them, as SVG."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 920 680" font-family="sans-serif" '
        'font-size="13">',
        "<title>The phases of an exchange</title>",
        '<defs><marker id="tip" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
        'markerHeight="8" orient="auto-start-reverse"><path d="M0 0L10 5L0 10z" fill="#5c6b7a"/>'
        "</marker></defs>",
        '<rect width="920" height="680" fill="#ffffff"/>',
    ]
    ways = [edge for edge in _ways() if ExchangePhase.CLOSED not in edge]
    for number, edge in enumerate(ways, 1):
        points, (x, y) = _BENT.get(edge) or _straight(*edge)
        path = " ".join(f"{x},{y}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="#5c6b7a" stroke-width="1.5" '
            f'marker-end="url(#tip)"/>'
        )
        parts.append(f'<circle cx="{x}" cy="{y}" r="11" fill="#ffffff" stroke="#5c6b7a"/>')
        parts.append(
            f'<text x="{x}" y="{y + 4}" text-anchor="middle" font-size="12">{number}</text>'
        )
    for phase, (x, y) in _PLACES.items():
        parts.append(
            f'<rect x="{x - _HALF_WIDTH}" y="{y - _HALF_HEIGHT}" width="{2 * _HALF_WIDTH}" '
            f'height="{2 * _HALF_HEIGHT}" rx="8" fill="#e8eefc" stroke="#3f51b5"/>'
        )
        text = escape(label(phase).replace("_", " "))
        parts.append(f'<text x="{x}" y="{y + 5}" text-anchor="middle">{text}</text>')
    return "\n".join([*parts, "</svg>", ""])


def _straight(
    start: ExchangePhase, end: ExchangePhase
) -> tuple[list[tuple[int, int]], tuple[int, int]]:
    (x1, y1), (x2, y2) = _PLACES[start], _PLACES[end]
    if y1 == y2:
        side = _HALF_WIDTH if x2 > x1 else -_HALF_WIDTH
        points = [(x1 + side, y1), (x2 - side, y2)]
    else:
        side = _HALF_HEIGHT if y2 > y1 else -_HALF_HEIGHT
        points = [(x1, y1 + side), (x2, y2 - side)]
    return points, ((points[0][0] + points[1][0]) // 2, (points[0][1] + points[1][1]) // 2)


def _all() -> Iterator[
    tuple[list[str], Iterable[ExchangePhase], Callable[..., Any], Iterable[ExchangePhase]]
]:
    for messages, phases, handler, targets in FROM_ENVOY:
        yield _events("Envoy", messages), phases, handler, targets
    for answers, phases, answered, targets in FROM_PICKER:
        yield _events("picker", answers), phases, answered, targets
    for signals, phases, rang, targets in SIGNALS:
        yield [code(label(signal)) for signal in signals], phases, rang, targets


def _events(who: str, kinds: Iterable[IntEnum]) -> list[str]:
    return [f"{who}: {code(label(kind))}" for kind in kinds]


def _ways() -> dict[Edge, list[str]]:
    """The events of each way between two phases; the ways into CLOSED are the last."""
    ways: dict[Edge, list[str]] = {}
    for events, phases, _, targets in _all():
        for edge in ((phase, target) for phase in phases for target in targets if phase != target):
            ways.setdefault(edge, []).extend(e for e in events if e not in ways.get(edge, ()))
    return dict(sorted(ways.items(), key=lambda way: (way[0][1] is ExchangePhase.CLOSED, way[0])))


def _rows() -> Iterator[tuple[list[str], list[str], str]]:
    for events, phases, handler, _ in _all():
        said = inspect.getdoc(handler) or ""
        yield events, [label(phase) for phase in phases], " ".join(said.split("\n\n")[0].split())
