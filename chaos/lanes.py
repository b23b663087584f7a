"""When a quiet gateway is asked, and how long its answers take. Pure."""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from chaos.workload import Ask

SHORTEST, LONGEST = 60.0, 600.0
"""Seconds of an answer."""
CROSSES = 54.0
"""Seconds of an answer at least, however short the run: quiet breaks things after 42 to 50 s."""
_LATEST_HEAD = 540.0
"""Envoy gives up a stream on which nothing has moved for 600 s."""
_REST = (1.0, 30.0)
"""Seconds between two answers of a lane."""
_SPARE = 0.001
"""Seconds before the end of the run by which all is answered: sums of floats are inexact."""
_TOKEN_MS = (300, 2000)
KINDS = {"chatty": 2, "silent": 2, "late": 1}
"""`chatty`: a token every so often; `silent`: one at the beginning, one halfway, then the end; `late`: not
even a head until the end. With how often each is drawn."""


@dataclass(frozen=True)
class Long:
    """One long answer, before it is asked for."""

    at: float
    """Seconds after the beginning of the run."""
    length: float
    kind: str


def lane(dice: random.Random, seconds: float) -> Iterator[Long]:
    """The answers of one pool of one Envoy, one after the other; all end within `seconds`."""
    at = dice.uniform(0.0, min(_REST[1], (seconds - CROSSES) / 4))
    seconds -= _SPARE
    while (left := seconds - at) >= CROSSES:
        drawn = math.exp(dice.uniform(math.log(SHORTEST), math.log(LONGEST)))
        long = Long(at, min(drawn, left), dice.choices(list(KINDS), list(KINDS.values()))[0])
        yield long
        at += long.length + dice.uniform(*_REST)


def ask_for(long: Long, number: int, pool: str, dice: random.Random) -> Ask:
    """The request that is answered so."""
    ms, seed = round(long.length * 1000), dice.getrandbits(48)
    if long.kind == "chatty":
        pause = dice.randrange(*_TOKEN_MS)
        return Ask(number, pool, "stream", "", seed, pause_ms=pause, tokens=max(1, ms // pause))
    if long.kind == "silent":
        return Ask(number, pool, "stream", "", seed, pause_ms=ms // 2, tokens=2)
    first = min(ms, round(_LATEST_HEAD * 1000))
    return Ask(number, pool, "stream", "", seed, first_ms=first, tokens=3)
