"""What a fault is, and what all of them need."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.account import Window
from chaos.installation import Installation
from chaos.source import SourceName

Hurt = Callable[[Installation, random.Random, Window], Awaitable[None]]
"""Hurts, holds, puts right again, and returns when the part is back: until then everything that happens is
on its account."""


@dataclass(frozen=True)
class Fault:
    """One kind of harm. Two of the same `group` never happen at once."""

    name: str
    group: str
    hurt: Hurt
    source: SourceName | None = None
    """With which source of pools it can happen; None: with each."""
    held: bool = False
    """Whether somebody must hold the relay's sockets."""

    def possible(self, inst: Installation) -> bool:
        """Whether it can happen there."""
        return self.source in (None, inst.source_name) and inst.holds >= self.held


class Faults(list[Fault]):
    """The faults of a module."""

    def add(
        self, name: str, group: str, source: SourceName | None = None, *, held: bool = False
    ) -> Callable[[Hurt], Hurt]:
        """Decorate what hurts."""

        def register(hurt: Hurt) -> Hurt:
            self.append(Fault(name, group, hurt, source, held))
            return hurt

        return register


async def hold(dice: random.Random, shortest: float, longest: float) -> None:
    """Leave it so for some time."""
    await asyncio.sleep(dice.uniform(shortest, longest))


def cut(window: Window, note: str) -> None:
    """Something has been killed now."""
    now = time.monotonic()
    window.cuts.append((now, now))
    window.notes.append(note)


def gone(window: Window) -> None:
    """What was killed is not there any more."""
    window.cuts[-1] = window.cuts[-1][0], time.monotonic()
