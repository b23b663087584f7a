"""What is asked, and what the right answer is: every request is a function of the seed and its number.

Pure but for the hashing of what came back: no sockets, no clock.
"""

import hashlib
import json
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from testbed.model_server import DONE, events, pattern

KINDS = {
    "0 B": 0, "1 KB": 1_000, "60 KB": 60_000, "1 MB": 1_000_000, "stream": 400, "long": 400, "download": 0
}  # fmt: skip
"""Kinds of requests and about how many bytes of body each of them sends."""
_WEIGHTS = {
    "0 B": 4, "1 KB": 6, "60 KB": 4, "1 MB": 1, "stream": 5, "long": 0.3, "download": 2
}  # fmt: skip
LONG = (4.0, 40.0)
"""Seconds of a long answer."""
DOWNLOAD = 300_000
POOLS = ("open", "close", "observe", "skip", "h2c")
FAIL_CLOSE = {"close"}
RANKED = "ranked"
"""The picker answers with an ordered list of every endpoint."""

CORRUPT = "corrupt: "
"""How the verdict on an answer begins that has other bytes, and not only too few."""

DIALECTS = (
    "silent", "drip", "close-before-pick", "no-endpoints-status", "disagree", "pick-hostname",
    "pick-outside", "pick-none", "garbage-bytes", "wrong-order", "duplicate-replies", "die-mid-body",
    "die-mid-response", "error-mid-response", "oversized-mutation", "invalid-mutation",
    "invalid-response-mutation", "too-many-headers", "silent-response", "close-after-pick",
    "body-before-headers", "streaming", "chunked", "slow", "refuse-429",
)  # fmt: skip
"""What pickers answer, right and wrong, to the share of requests that ask for it."""


@dataclass(frozen=True)
class Ask:
    """One request, before it is sent."""

    number: int
    pool: str
    kind: str
    dialect: str
    """How the picker answers this one; empty for the way of a good picker."""
    seed: int
    pause_ms: int = 20
    """Between two tokens of a stream."""
    tokens: int = 0
    """Of a stream; 0: as many as the seed says."""
    first_ms: int = 0
    """Before a stream begins."""

    @property
    def fail_close(self) -> bool:
        """Whether its pool is FailClose."""
        return self.pool in FAIL_CLOSE

    @property
    def size(self) -> int:
        """Bytes of its body, about."""
        return KINDS[self.kind]

    @property
    def streamed(self) -> bool:
        """Whether it is answered token by token."""
        return self.kind in ("stream", "long")

    @property
    def seconds(self) -> float:
        """How long its answer takes at least."""
        return (self.first_ms + self.length * self.pause_ms) / 1000 if self.streamed else 0.0

    @property
    def length(self) -> int:
        """Tokens of its answer."""
        return self.tokens or 10 + self.seed % 40

    @property
    def path(self) -> str:
        """Where it is sent, after Envoy's address."""
        if self.streamed:
            return f"/default/{self.pool}/v1/chat/completions"
        query = f"?size={DOWNLOAD}&chunks=20" if self.kind == "download" else ""
        return f"/default/{self.pool}/echo{query}"

    @property
    def headers(self) -> dict[str, str]:
        """What it says beside its body."""
        return {"x-picker-dialect": self.dialect} if self.dialect else {}

    def body(self) -> bytes:
        """Its content, the same every time."""
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
        """What is wrong with a 200's body; empty when nothing is."""
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


def requests(seed: int, faulty_share: float, *, ranked: bool) -> Iterator[Ask]:
    """The requests of a run, for ever. `faulty_share` of them meet a picker with a dialect; of the
    others, when `ranked`, a third gets an ordered list."""
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
            pause = dice.uniform(*LONG) * 1000 / request.length
            request = replace(request, pause_ms=round(pause))
        yield request
