"""The list of mutants, which each mutant joins where it is defined."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

NONE = "none"
"""The name of what is not mutated."""


@dataclass(frozen=True)
class Mutant:
    """A fault."""

    name: str
    fails: Mapping[str, str]
    """The checks that have to fail, and a part of what they have to say: they must fail for this fault. If
    it is part of what is missing (`Site.until`), the wait is short."""
    breaks: Callable[[], None]
    """Replaces a function in this process."""


MUTANTS: dict[str, Mutant] = {}
"""All of them by name."""


def mutant(
    name: str, fails: Mapping[str, str]
) -> Callable[[Callable[[], None]], Callable[[], None]]:
    """Add a function to the mutants."""

    def add(breaks: Callable[[], None]) -> Callable[[], None]:
        MUTANTS[name] = Mutant(name, fails, breaks)
        return breaks

    return add


def replace(owner: Any, name: str, make: Callable[[Any], Any]) -> None:
    """Replace an attribute by what `make` makes of it.

    Raises:
        AttributeError: there is none of that name, as the code has changed: change the mutant.
    """
    setattr(owner, name, make(getattr(owner, name)))
