"""The times and lengths of responses in a quiet run. Pure."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from chaos.workload import Ask

SHORTEST, LONGEST = 60.0, 600.0
"""Shortest and longest response in seconds."""
CROSSES = 54.0
"""Minimum seconds of a response in a short run: silent streams used to fail after 42 to 50 s."""
_LATEST_HEAD = 540.0
"""Latest seconds of a response's head: Envoy ends a stream after 600 s of silence."""
_REST = (1.0, 30.0)
"""Seconds between two responses of a lane."""
_SPARE = 0.001
"""Seconds before the end of the run at which all responses end, as sums of floats are inexact."""
_TOKEN_MS = (300, 2000)
KINDS = {"chatty": 2, "silent": 2, "late": 1}
"""Kinds of responses with their weights. `chatty`: a token now and then; `silent`: one at the beginning,
one halfway, then the end; `late`: no head until the end."""


@dataclass(frozen=True)
class Long:
    """One planned long response."""

    at: float
    """Seconds from the beginning of the run."""
    length: float
    kind: str


def lane(dice: random.Random, seconds: float) -> Iterator[Long]:
    """The successive responses of one pool of one Envoy; all end within `seconds`."""
    at = dice.uniform(0.0, min(_REST[1], (seconds - CROSSES) / 4))
    seconds -= _SPARE
    while (left := seconds - at) >= CROSSES:
        drawn = math.exp(dice.uniform(math.log(SHORTEST), math.log(LONGEST)))
        long = Long(at, min(drawn, left), dice.choices(list(KINDS), list(KINDS.values()))[0])
        yield long
        at += long.length + dice.uniform(*_REST)


def ask_for(long: Long, number: int, pool: str, dice: random.Random) -> Ask:
    """The request for such a response."""
    ms, seed = round(long.length * 1000), dice.getrandbits(48)
    if long.kind == "chatty":
        pause = dice.randrange(*_TOKEN_MS)
        return Ask(number, pool, "stream", "", seed, pause_ms=pause, tokens=max(1, ms // pause))
    if long.kind == "silent":
        return Ask(number, pool, "stream", "", seed, pause_ms=ms // 2, tokens=2)
    first = min(ms, round(_LATEST_HEAD * 1000))
    return Ask(number, pool, "stream", "", seed, first_ms=first, tokens=3)
