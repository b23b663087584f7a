"""Fuzzing of the server's connection: `python -m tests.wire.fuzz_wire SECONDS`; pytest runs it shortly.

Starts from the recorded conversations in `corpus/` (hex, one read per line) and from valid frames in any
order; whatever comes, nothing may be raised and the bytes that leave must be whole frames.
"""

import random
import sys
import time
from pathlib import Path

from epp_client.wire import frames
from epp_client.wire.server import ServerConnection

from .owners import Accepting, raise_it

CORPUS = Path(__file__).parent / "corpus"


def seeds() -> list[bytes]:
    """The conversations in the corpus."""
    return [
        bytes.fromhex("".join(path.read_text().split())) for path in sorted(CORPUS.glob("*.hex"))
    ]


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat or swap pieces."""
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        start = dice.randrange(24, len(changed))
        stop = min(len(changed), start + dice.randint(1, 40))
        match dice.randrange(4):
            case 0:
                changed[start] = dice.randrange(256)
            case 1 if len(changed) > 100:
                del changed[start:stop]
            case 2:
                changed[start:start] = changed[start:stop]
            case _:
                changed[start] ^= 1 << dice.randrange(8)
    return bytes(changed)


def check(data: bytes, dice: random.Random) -> None:
    """Feed `data` in random pieces."""
    server = ServerConnection(Accepting(echo=True), lambda: 0.0, lambda: None, raise_it)
    output = server.take()
    while data:
        cut = dice.randint(1, len(data))
        server.receive(data[:cut])
        output += server.take()
        data = data[cut:]
    position = 0
    while position < len(output):
        word, _, _ = frames.HEAD.unpack_from(output, position)
        position += 9 + (word >> 8)
    assert position == len(output)


def fuzz(seconds: float, seed: int) -> int:
    """Fuzz for so long; the number of conversations tried."""
    dice = random.Random(seed)
    conversations = seeds()
    tried = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        check(mutate(dice.choice(conversations), dice), dice)
        tried += 1
    return tried


def test_the_corpus_and_its_mutations() -> None:
    assert seeds()
    assert fuzz(2.0, 1)


if __name__ == "__main__":
    print(fuzz(float(sys.argv[1]), time.time_ns()), "conversations")
