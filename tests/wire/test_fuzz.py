"""The fuzz targets, shortly. `make fuzz` tries new rounds each time, and for longer."""

import random

from .fuzz_wire import check, fuzz, seeds


def test_the_corpus_as_it_was_recorded() -> None:
    for end in ("server", "client"):
        assert seeds(end)
        for conversation in seeds(end):
            check(end, conversation, random.Random(1))


def test_the_same_rounds_each_time() -> None:
    assert fuzz(1.5, 1) > 20
