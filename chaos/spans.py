"""What a request for a changing route may get, and when: the states of each subject as spans of time. Pure.

Between the write of a change and the first request that shows it, both the old and the new state are right.
Before and after, only one is.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from chaos.account import Line

CUT = "cut"
"""Answer of a request whose connection ended without a whole response."""
REFUSED = "connection refused"
"""Answer of a request that found nobody listening."""
GONE = (REFUSED, CUT)
"""Answers of a listener that is not there, or that goes."""


@dataclass
class Span:
    """One state of a subject, from the write that made it until it is in force nowhere."""

    subject: str
    right: frozenset[str]
    """The answers that are right."""
    began: float
    ended: float = float("inf")

    def allows(self, line: Line) -> bool:
        """Whether it makes the answer of this request right."""
        # The route is chosen before the response begins. A lost request may have been cut at any moment.
        over = line.ended if line.first is None or line.outcome == "lost" else line.first
        return line.answer in self.right and self.began <= over and line.began <= self.ended


@dataclass
class Timeline:
    """The states of all subjects."""

    spans: list[Span] = field(default_factory=list)

    def open(self, subject: str, right: Iterable[str], at: float) -> None:
        """A subject gets a new state. Earlier ones are right until `close`."""
        self.spans.append(Span(subject, frozenset(right), at))

    def close(self, subject: str, at: float) -> None:
        """The newest state of a subject is in force: the earlier ones are right no longer."""
        for span in self.of(subject)[:-1]:
            span.ended = min(span.ended, at)

    def of(self, subject: str) -> list[Span]:
        """The states of a subject, the newest last."""
        return [span for span in self.spans if span.subject == subject]

    def newest(self, subject: str) -> frozenset[str]:
        """The answers that the newest state of a subject makes right."""
        return self.of(subject)[-1].right

    def why_wrong(self, line: Line) -> str:
        """What is wrong with the answer of a request for a subject; empty if it is right."""
        spans = self.of(line.subject)
        if any(span.allows(line) for span in spans):
            return ""
        known = [s for s in spans if s.began <= line.ended and line.began <= s.ended]
        wanted = " or ".join(sorted({answer for span in known for answer in span.right}))
        return f"the answer of {line.subject} was {line.answer!r}, not {wanted!r}"
