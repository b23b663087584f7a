"""The requests of a run and their correct responses, as functions of the seed. Pure.

No sockets, no clock.
"""

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from chaos.subjects import SUBJECTS, Port
from testbed.model_server import DONE, events, pattern

KINDS = {
    "0 B": 0, "1 KB": 1_000, "60 KB": 60_000, "1 MB": 1_000_000, "stream": 400, "long": 400, "download": 0
}  # fmt: skip
"""Kinds of requests, and the approximate bytes of their bodies."""
_WEIGHTS = {
    "0 B": 4, "1 KB": 6, "60 KB": 4, "1 MB": 1, "stream": 5, "long": 0.3, "download": 2
}  # fmt: skip
LONG = (4.0, 40.0)
"""Shortest and longest seconds of a long response."""
DOWNLOAD = 300_000
POOLS = ("open", "close", "observe", "skip", "h2c")
FAIL_CLOSE = {"close"}
RANKED = "ranked"
"""Dialect of a picker that answers with an ordered list of every endpoint."""

CORRUPT = "corrupt: "
"""Prefix of the verdict on a response with wrong bytes, rather than too few."""

_CHANGING = 0.6
"""Share of the requests for changing routes, where there are any."""
DIALECTS = (
    "silent", "drip", "close-before-pick", "no-endpoints-status", "disagree", "pick-hostname",
    "pick-outside", "pick-none", "garbage-bytes", "wrong-order", "duplicate-replies", "die-mid-body",
    "die-mid-response", "error-mid-response", "oversized-mutation", "invalid-mutation",
    "invalid-response-mutation", "too-many-headers", "silent-response", "close-after-pick",
    "body-before-headers", "streaming", "chunked", "slow", "refuse-429",
)  # fmt: skip
"""Dialects that a share of the requests asks pickers for."""


@dataclass(frozen=True)
class Ask:
    """One request to send."""

    number: int
    pool: str
    kind: str
    dialect: str
    """Dialect of the picker for this request; empty for normal behaviour."""
    seed: int
    pause_ms: int = 20
    """Milliseconds between two tokens of a stream."""
    tokens: int = 0
    """Tokens of a stream; 0: depends on the seed."""
    first_ms: int = 0
    """Milliseconds before a stream begins."""
    subject: str = ""
    """The changing route that it is for, instead of the pool's own."""

    @property
    def fail_close(self) -> bool:
        """Whether its pool is FailClose."""
        return self.pool in FAIL_CLOSE

    @property
    def size(self) -> int:
        """Approximate bytes of its body."""
        return KINDS[self.kind]

    @property
    def streamed(self) -> bool:
        """Whether it is answered token by token."""
        return self.kind in ("stream", "long")

    @property
    def seconds(self) -> float:
        """Minimum seconds of its response."""
        return (self.first_ms + self.length * self.pause_ms) / 1000 if self.streamed else 0.0

    @property
    def length(self) -> int:
        """Tokens of its response."""
        return self.tokens or 10 + self.seed % 40

    @property
    def path(self) -> str:
        """Path and query of the URL."""
        route = f"default/{self.pool}"
        if self.subject:
            route = SUBJECTS[self.subject].path or self.subject
        if self.streamed:
            return f"/{route}/v1/chat/completions"
        query = f"?size={DOWNLOAD}&chunks=20" if self.kind == "download" else ""
        return f"/{route}/echo{query}"

    @property
    def port(self) -> Port:
        """The listener that it is for."""
        return SUBJECTS[self.subject].port if self.subject else Port.PLAIN

    @property
    def headers(self) -> dict[str, str]:
        """Additional headers."""
        dialect = {"x-picker-dialect": self.dialect} if self.dialect else {}
        return {**dialect, **(SUBJECTS[self.subject].headers if self.subject else {})}

    def body(self) -> bytes:
        """Its body, which depends only on the seed."""
        if self.streamed:
            return json.dumps(self._chat()).encode()
        return random.Random(self.seed).randbytes(self.size)

    def _chat(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "stream": True,
            "max_tokens": self.length,
            "first_token_ms": self.first_ms,
            "token_interval_ms": self.pause_ms,
        }

    def wrong(self, answer: bytes) -> str:
        """What is wrong with the body of a 200; empty if it is correct."""
        if self.streamed:
            request = self._chat()
            events_ = events(request, "chat.completion", request["max_tokens"])
            return _differs(b"".join((*events_, DONE)), answer)
        if self.kind == "download":
            return _differs(pattern(0, DOWNLOAD), answer)
        try:
            told = json.loads(answer)["sha256"]
        except (ValueError, KeyError, TypeError) as error:
            return f"the answer is not the model server's: {error!r}"
        if told != hashlib.sha256(self.body()).hexdigest():
            return CORRUPT + "the model server got another body"
        return ""


def _differs(wanted: bytes, got: bytes) -> str:
    if wanted == got:
        return ""
    same = next((n for n, (a, b) in enumerate(zip(wanted, got, strict=False)) if a != b), None)
    if same is None and len(got) < len(wanted):
        return f"ended after {len(got)} bytes of {len(wanted)}"
    at = min(len(wanted), len(got)) if same is None else same
    return f"{CORRUPT}{len(got)} bytes of {len(wanted)}, the first {at} of them right"


def requests(
    seed: int,
    faulty_share: float,
    *,
    ranked: bool,
    subjects: Sequence[str] = (),
    longest: float = LONG[1],
) -> Iterator[Ask]:
    """Yields requests without end. `faulty_share` of them use a dialect; with `ranked`, a third of the
    others gets an ordered list; with `subjects`, most are for these changing routes. Long responses
    take `longest` seconds at most."""
    dice = random.Random(seed)
    kinds, weights = list(_WEIGHTS), list(_WEIGHTS.values())
    number = 0
    while True:
        number += 1
        dialect = RANKED if ranked and dice.random() < 0.33 else ""
        if dice.random() < faulty_share:
            dialect = dice.choice(DIALECTS)
        kind = dice.choices(kinds, weights)[0]
        request = Ask(number, dice.choice(POOLS), kind, dialect, dice.getrandbits(48))
        if kind == "long":
            pause = dice.uniform(LONG[0], longest) * 1000 / request.length
            request = replace(request, pause_ms=round(pause))
        if subjects and dice.random() < _CHANGING:
            request = for_subject(request, dice.choice(subjects))
        yield request


def for_subject(request: Ask, subject: str) -> Ask:
    """The same request for a changing route, whose pools are FailOpen."""
    dialect = request.dialect if SUBJECTS[subject].pooled else ""
    return replace(request, pool="open", subject=subject, dialect=dialect)
