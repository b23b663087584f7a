"""The account of a run: the outcome of each request, the faults that it overlapped, and breaches of the
promise. Pure."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from chaos.workload import CORRUPT, FAIL_CLOSE, KINDS, RANKED

NO_FAULT = "none"


@dataclass(frozen=True)
class Line:
    """One request after its end. Times are in seconds of one clock."""

    number: int
    pool: str
    kind: str
    dialect: str
    seed: int
    began: float
    first: float | None
    ended: float
    outcome: str
    """`answered` (correct to the last byte), `refused` (with a reason) or `lost` (anything else)."""
    status: int | None
    reason: str
    server: str
    detail: str
    subject: str = ""
    """The changing route that it was for."""
    answer: str = ""
    """What tells the state of that route: see `chaos.spans`."""

    @property
    def fail_close(self) -> bool:
        """Whether its pool is FailClose."""
        return self.pool in FAIL_CLOSE

    @property
    def size(self) -> int:
        """Approximate bytes of its body."""
        return KINDS[self.kind]

    @property
    def ranked(self) -> bool:
        """Whether its picker named several endpoints."""
        return self.dialect == RANKED

    @property
    def waited(self) -> float:
        """Seconds until its response began; until its end if there was none."""
        return (self.ended if self.first is None else self.first) - self.began

    def open_within(self, began: float, ended: float) -> bool:
        """Whether it was open at some moment from `began` to `ended`."""
        return self.began <= ended and began <= self.ended


@dataclass
class Window:
    """One fault, from its beginning until everything has recovered."""

    fault: str
    part: str
    began: float
    ended: float = float("inf")
    notes: list[str] = field(default_factory=list)
    cuts: list[tuple[float, float]] = field(default_factory=list)
    """For each killed process, when it was killed and when it had ended, which differ on a busy machine."""
    refuses: float | None = None
    """When the leaving process stops to accept; None: at the end, when its successor serves."""

    def overlaps(self, line: Line) -> bool:
        """Whether the request was open during it."""
        return line.began <= self.ended and self.began <= line.ended

    def cut(self, line: Line) -> bool:
        """Whether the request was open when a process was killed."""
        return any(line.open_within(*cut) for cut in self.cuts)


@dataclass(frozen=True)
class Promise:
    """The requests that a fault may cost, as text and as a rule."""

    costs: str
    loses: Callable[[Line, Window], bool] = lambda line, window: False


@dataclass
class Row:
    """The sums of one fault."""

    fault: str
    windows: int = 0
    sent: int = 0
    answered: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    lost: int = 0
    """Lost, as the promise allows."""
    breaches: int = 0
    """Lost or refused in breach of the promise."""

    def count(self, line: Line, *, breach: bool) -> None:
        """Add one request."""
        self.sent += 1
        if breach:
            self.breaches += 1
        elif line.outcome == "answered":
            self.answered += 1
        elif line.outcome == "refused":
            self.refused[line.reason] += 1
        else:
            self.lost += 1

    def add(self, other: "Row") -> None:
        """Add the sums of another part."""
        self.windows += other.windows
        self.sent += other.sent
        self.answered += other.answered
        self.refused += other.refused
        self.lost += other.lost
        self.breaches += other.breaches


@dataclass(frozen=True)
class Breach:
    """One request whose outcome breaks the promise."""

    line: Line
    why: str
    windows: tuple[Window, ...]


@dataclass
class Account:
    """The result of a run."""

    total: Row
    faults: dict[str, Row]
    dialects: dict[str, Row]
    breaches: list[Breach]


def refusal_stands(line: Line) -> bool:
    """Whether the promise allows a refusal: by the picker itself, or FailClose without a pick."""
    if line.dialect.startswith("refuse-") and line.reason.startswith("by the picker"):
        return True
    return line.fail_close and line.reason.startswith(("picker_", "pick_"))


def account(
    lines: Iterable[Line],
    windows: Iterable[Window],
    promises: Mapping[str, Promise],
    why_wrong: Callable[[Line], str] = lambda line: "",
) -> Account:
    """Attribute every request to the faults that it overlapped. `lines` and `windows` are of one part.
    `why_wrong` returns what is wrong with the answer of a request for a changing route."""
    known = list(windows)
    found = Account(Row("all"), {}, {}, [])
    for window in known:
        found.faults.setdefault(window.fault, Row(window.fault)).windows += 1
    for line in lines:
        overlapped = tuple(window for window in known if window.overlaps(line))
        wrong = why_wrong(line) if line.subject else ""
        if line.subject and line.outcome == "lost" and not wrong:
            # Such as a 404 while there is no route.
            line = replace(line, outcome="refused", reason=f"{line.answer}, as the route says")
            why = ""
        else:
            why = _breach(line, overlapped, promises) or _misrouted(line, wrong)
        if why:
            found.breaches.append(Breach(line, why, overlapped))
        found.total.count(line, breach=bool(why))
        for fault in {window.fault for window in overlapped} or {NO_FAULT}:
            row = found.faults.setdefault(fault, Row(fault))
            row.count(line, breach=bool(why))
        if line.dialect:
            row = found.dialects.setdefault(line.dialect, Row(line.dialect))
            row.count(line, breach=bool(why))
    return found


def _breach(line: Line, windows: tuple[Window, ...], promises: Mapping[str, Promise]) -> str:
    if line.outcome == "answered":
        return ""
    if line.outcome == "refused":
        return "" if refusal_stands(line) else f"refused: {line.reason}"
    if line.detail.startswith(CORRUPT):
        # No fault allows corruption.
        return f"lost: {line.detail}"
    if any(promises[window.fault].loses(line, window) for window in windows):
        return ""
    return f"lost: {line.detail}"


def _misrouted(line: Line, wrong: str) -> str:
    return f"misrouted: {wrong}" if wrong and line.outcome == "answered" else ""


def add(accounts: Iterable[Account]) -> Account:
    """The sum of several parts."""
    total = Account(Row("all"), {}, {}, [])
    for one in accounts:
        total.total.add(one.total)
        for mine, theirs in ((total.faults, one.faults), (total.dialects, one.dialects)):
            for name, row in theirs.items():
                mine.setdefault(name, Row(name)).add(row)
        total.breaches += one.breaches
    return total


def line_of(values: Mapping[str, Any]) -> Line:
    """A line as the client wrote it."""
    return Line(**values)
