"""Reads JSON, ten times as fast as the YAML reader would: lines are looked up in the text when asked for.

What is not plain JSON is left to the YAML reader: several documents, duplicate keys, comments, tabs.
"""

import itertools
import json
import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from epp_client.documents.located import MAX_DEPTH, TOO_DEEP, Document
from epp_client.pool.problems import Path

_BLANK = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


class NotPlainJson(ValueError):
    """The text is for the YAML reader."""


def read_json(text: str) -> Document:
    """The value of a JSON text.

    Raises:
        NotPlainJson: it is not one JSON value, or a mapping has a key twice.
        ValueError: it is nested too deeply.
    """
    try:
        data = _DECODER.decode(text)
    except RecursionError:
        raise ValueError(TOO_DEEP) from None
    except ValueError as error:
        raise NotPlainJson(str(error)) from None
    if isinstance(data, dict | list):
        _check_depth(data)
    if _SURROGATE.search(text):
        _check_text(data)
    return Document(data, _JsonPlace(_JsonText(text), ()))


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotPlainJson("a key is there twice")
    return found


def _no_constant(name: str) -> Any:
    raise NotPlainJson(f"{name} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_constant=_no_constant)
_SKIP = json.JSONDecoder()
"""Finds the end of a value."""


def _check_depth(data: Any) -> None:
    level: list[Any] = [data]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for value in level
            for child in (value.values() if isinstance(value, dict) else value)
            if isinstance(child, dict | list)
        ]
        if not level:
            return
    raise ValueError(TOO_DEEP)


def _check_text(data: Any) -> None:
    # Half of a surrogate pair is no character: it could not be logged, or sent to anybody.
    try:
        json.dumps(data, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise NotPlainJson(str(error)) from None


class _Member(NamedTuple):
    """An item of a list, or a member of a mapping."""

    line: int
    """Line of the item, or of the key."""
    value: int
    """Offset of the value."""
    value_line: int


class _JsonText:
    """Finds values in a JSON text that is known to be valid, without duplicate keys."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._known: dict[int, dict[str | int, _Member]] = {}
        """Members of the values that were looked into, by offset: a dump may have thousands of problems."""

    def line(self, path: Path) -> int:
        """See `Place.line`."""
        value = self._blank(0)
        first = 1 + self._text.count("\n", 0, value)
        found = _Member(first, value, first)
        for part in path:
            member = self._members(found.value, found.value_line).get(part)
            if member is None:
                break
            found = member
        return found.line

    def _members(self, start: int, line: int) -> dict[str | int, _Member]:
        """The members of the value at `start`, which is at `line`."""
        if start not in self._known:
            self._known[start] = dict(self._read(start, line))
        return self._known[start]

    def _read(self, start: int, line: int) -> Iterator[tuple[str | int, _Member]]:
        text, mapping = self._text, self._text[start] == "{"
        if text[start] not in "{[":
            return
        at, counted = self._blank(start + 1), start
        for number in itertools.count():
            if text[at] in "]}":
                return
            line += text.count("\n", counted, at)
            key, value = number, at
            if mapping:
                key, end = _SKIP.raw_decode(text, at)
                # A colon is between them.
                value = self._blank(self._blank(end) + 1)
            value_line = line + text.count("\n", at, value)
            yield key, _Member(line, value, value_line)
            line, counted = value_line, value
            _, at = _SKIP.raw_decode(text, value)
            at = self._blank(at)
            if text[at] == ",":
                at = self._blank(at + 1)

    def _blank(self, at: int) -> int:
        """Offset of what follows the blanks at `at`."""
        found = _BLANK.match(self._text, at)
        assert found is not None
        return found.end()


class _JsonPlace:
    """A `Place` in a JSON text."""

    __slots__ = ("_path", "_text")

    def __init__(self, text: _JsonText, path: Path) -> None:
        self._text = text
        self._path = path

    def line(self, path: Path = ()) -> int:
        return self._text.line((*self._path, *path))

    def item(self, index: int) -> "_JsonPlace":
        return _JsonPlace(self._text, (*self._path, "items", index))
