"""Live: what the stream `/live` of an admin page has told so far. Pure."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from epp_client.errors import AdminUnreachable

MAX_TEXT = 64 * 1024 * 1024
"""Characters of one event. 500 pools with all their numbers are below a megabyte."""

Event = tuple[str, Any]
"""Name and data of a server-sent event."""


def events(lines: Iterable[str]) -> Iterator[Event]:
    """The server-sent events of these lines. Comments, and fields other than `event` and `data`, are left
    out.

    Raises:
        AdminUnreachable: the data is not JSON, or has no end.
    """
    name, data, size = "message", list[str](), 0
    for line in lines:
        if not line:
            if data:
                yield name, _parsed("\n".join(data))
            name, data, size = "message", [], 0
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        size += len(value)
        if size > MAX_TEXT:
            raise AdminUnreachable("the admin page sends an event without an end")
        if field == "event":
            name = value
        elif field == "data":
            data.append(value)


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise AdminUnreachable("the admin page does not send the JSON of epp-client") from error


class Live:
    """The current state, made of everything that one connection was sent."""

    def __init__(self) -> None:
        self.head: dict[str, Any] = {}
        """What belongs to no pool; empty before the first event."""
        self.detail: dict[str, Any] = {}
        """The open pool: its pickers and endpoints. `gone` if there is no such pool."""
        self._rows: dict[str, dict[str, Any]] = {}
        self._order: list[str] = []

    def take(self, name: str, data: Any) -> None:
        """Take one event. Those that nothing shows are ignored."""
        if name == "head":
            self.head = data
        elif name == "pools":
            self._rows |= {pool_name(row): row for row in data["rows"]}
            self._order = data.get("order", self._order)
            self._rows = {key: self._rows[key] for key in self._order if key in self._rows}
        elif name == "detail":
            self.detail = data

    @property
    def rows(self) -> list[dict[str, Any]]:
        """The pools, the worst first."""
        return list(self._rows.values())


def pool_name(row: dict[str, Any]) -> str:
    """`namespace/name` of a row."""
    return f"{row['namespace']}/{row['name']}"


_RANKS = {"failing": 0, "degraded": 1}


def by_traffic(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pools in trouble first, then those with the most requests."""
    return sorted(
        rows,
        key=lambda row: (
            _RANKS.get(row.get("level", ""), 2),
            -row["minute"]["requests"],
            -row["inFlight"],
            pool_name(row),
        ),
    )
