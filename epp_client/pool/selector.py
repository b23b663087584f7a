"""Selector: a Kubernetes label selector as text, `app=llama,role notin (prefill, encode),!canary`. Pure.

The grammar is that of `kubectl get --selector`: requirements separated by commas, all of which must hold.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_KEY = r"[A-Za-z0-9](?:[-A-Za-z0-9_./]{0,315}[A-Za-z0-9])?"
_VALUE = r"[A-Za-z0-9](?:[-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
_REQUIREMENT = re.compile(
    rf"\s*(?:(?P<key>{_KEY})\s*(?:(?P<sign>==|!=|=)\s*(?P<value>{_VALUE})?"
    rf"|\s(?P<set>in|notin)\s*\((?P<values>[^()]*)\))?|!\s*(?P<absent>{_KEY}))\s*(?:,|\Z)"
)


@dataclass(frozen=True)
class Requirement:
    """One condition on one label."""

    key: str
    values: frozenset[str] | None
    """The values that the label must have, or must not have; None: any value."""
    wanted: bool = True

    def holds(self, labels: Mapping[str, str]) -> bool:
        """Whether `labels` meet the requirement. A missing label has none of the values."""
        value = labels.get(self.key)
        met = value is not None if self.values is None else value in self.values
        return met is self.wanted


@dataclass(frozen=True)
class Selector:
    """Requirements that must all hold. Without requirements it selects everything."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether an object with these labels is selected."""
        return all(requirement.holds(labels) for requirement in self.requirements)


def parse_selector(text: str) -> Selector:
    """Parse a selector. The empty text selects everything.

    Raises:
        ValueError: `text` is not a selector; the message quotes it from the first bad requirement.
    """
    found: list[Requirement] = []
    at = 0
    while text[at:].strip():
        match = _REQUIREMENT.match(text, at)
        if match is None:
            raise ValueError(
                f"{text[at : at + 60]!r} is not a label selector; write key=value, key!=value, "
                "key in (a, b), key notin (a, b), key or !key, separated by commas"
            )
        found.append(_requirement(match))
        at = match.end()
    return Selector(tuple(found))


def _requirement(match: re.Match[str]) -> Requirement:
    if match["absent"]:
        return Requirement(match["absent"], None, wanted=False)
    if match["sign"]:
        return Requirement(match["key"], frozenset((match["value"] or "",)), match["sign"] != "!=")
    if match["set"]:
        values = frozenset(value.strip() for value in match["values"].split(","))
        if not all(not value or re.fullmatch(_VALUE, value) for value in values):
            raise ValueError(f"({match['values']}) are not label values")
        return Requirement(match["key"], values, match["set"] == "in")
    return Requirement(match["key"], None)
