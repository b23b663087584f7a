"""The definition of a fault, and what all faults use."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from chaos.account import Window
from chaos.installation import Installation
from chaos.source import SourceName

Hurt = Callable[[Installation, random.Random, Window], Awaitable[None]]
"""Injects the fault, waits, ends it, and returns once the part has recovered. Everything until then is
attributed to the fault."""


@dataclass(frozen=True)
class Fault:
    """One kind of fault. Two of the same `group` never overlap."""

    name: str
    group: str
    hurt: Hurt
    source: SourceName | None = None
    """The source of pools that it needs; None: any."""
    held: bool = False
    """Whether it needs a holder of the relay's sockets."""

    def possible(self, inst: Installation) -> bool:
        """Whether it can be injected there."""
        fits = self.source is None or inst.source_name.has(self.source)
        return fits and inst.holds >= self.held


class Faults(list[Fault]):
    """The faults of a module."""

    def add(
        self, name: str, group: str, source: SourceName | None = None, *, held: bool = False
    ) -> Callable[[Hurt], Hurt]:
        """Decorator that adds a fault."""

        def register(hurt: Hurt) -> Hurt:
            self.append(Fault(name, group, hurt, source, held))
            return hurt

        return register


async def pause(dice: random.Random, shortest: float, longest: float) -> None:
    """Wait for a random time."""
    await asyncio.sleep(dice.uniform(shortest, longest))


def cut(window: Window, note: str) -> None:
    """Note that a process was killed now."""
    now = time.monotonic()
    window.cuts.append((now, now))
    window.notes.append(note)


def gone(window: Window) -> None:
    """Note that the killed process has ended."""
    window.cuts[-1] = window.cuts[-1][0], time.monotonic()
