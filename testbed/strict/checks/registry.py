"""The list of checks, which each check joins where it is defined."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from testbed.strict.site import Site

Run = Callable[[Site], Awaitable[None]]


@dataclass(frozen=True)
class Check:
    """One thing that is asked of a gateway."""

    name: str
    sentence: str
    """What a right gateway does."""
    needs: tuple[str, ...]
    """Pods and pickers, as `site.prepare` has them."""
    run: Run
    """Raises Failed."""
    subset: bool = False
    """Whether the gateway has to make subset hints."""

    @property
    def simulated(self) -> bool:
        """Whether it needs this project's simulated model servers or picker."""
        return not {"gamma", "simulated"}.isdisjoint(self.needs)


CHECKS: dict[str, Check] = {}
"""All checks by name, in the order in which they run."""


def check(name: str, sentence: str, *needs: str, subset: bool = False) -> Callable[[Run], Run]:
    """Add a function to the checks."""

    def add(run: Run) -> Run:
        CHECKS[name] = Check(name, sentence, needs, run, subset)
        return run

    return add
