"""Located: an object of a file that can tell the line of each of its fields."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

from epp_client.pool.problems import Fault, Path, Problem, dotted

MAX_DEPTH: Final = 100
TOO_DEEP: Final = f"nested more than {MAX_DEPTH} deep"

_PART = re.compile(r"\['([^']*)'\]|\[(\d+)\]|([^.\[]+)")


class Place(Protocol):
    """Where a value stands in its text."""

    def line(self, path: Path = ()) -> int:
        """The line of the deepest value on `path` that exists, counted from 1. A member of a mapping is
        where its key is."""

    def item(self, index: int) -> "Place":
        """The place of one of `items`."""


@dataclass(frozen=True, slots=True)
class Located:
    """One object of a file, with the place of each field."""

    data: Mapping[str, Any]
    file: str
    place: Place
    repeated: tuple[Path, ...] = ()
    """Duplicate keys."""

    @property
    def subject(self) -> str:
        """`Kind namespace/name`."""
        metadata = self.data.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = f"{metadata.get('namespace') or 'default'}/{metadata.get('name') or '(no name)'}"
        return f"{self.data.get('kind')} {name}"

    def line(self, path: Path = ()) -> int:
        """See `Place.line`."""
        return self.place.line(path)

    def problem(self, fault: Fault) -> Problem:
        """Add the place of a fault."""
        return Problem(
            fault.severity,
            fault.text,
            self.subject,
            dotted(fault.path),
            self.file,
            self.line(fault.path),
        )

    def locate(self, problem: Problem) -> Problem:
        """Add file and line to a problem of this object."""
        path: Path = tuple(
            int(index) if index else quoted or plain
            for quoted, index, plain in _PART.findall(problem.field)
        )
        return problem._replace(file=self.file, line=self.line(path))


@dataclass(frozen=True, slots=True)
class Document:
    """One document of a text: any value."""

    data: Any
    place: Place
    repeated: tuple[Path, ...] = ()
    """Duplicate keys."""


class Unusable(NamedTuple):
    """A document that cannot be read, at its line."""

    text: str
    line: int
