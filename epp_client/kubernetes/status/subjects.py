"""Whose status is written, and what it is to be: the input of the reporter. Pure."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from epp_client.kubernetes.client.resources import Resource

Object = Mapping[str, Any]


class Subject(NamedTuple):
    """An object that has a status."""

    resource: Resource
    namespace: str | None
    """None for a kind of the whole cluster."""
    name: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.resource.kind} {where}{self.name}"


class NewStatus(NamedTuple):
    """What has to be written into one object."""

    status: Mapping[str, Any]
    """The fields of its status that we write."""
    changed: bool
    problem: str | None = None
    """What does not fit, and what to do about it; None if everything fits."""


class Wanted(Protocol):
    """What is to be said of one generation of an object. A value: equal ones say the same."""

    @property
    def generation(self) -> int:
        """The generation of the object."""

    def merged(self, data: Object, now: str) -> NewStatus:
        """Merge it into the status of `data`, the object of that generation. `now` is the time in RFC
        3339."""

    def summary(self) -> str:
        """It in a few words, for the log."""


class Said(NamedTuple):
    """What is known and wanted at one moment."""

    objects: dict[Subject, Object]
    """The newest objects. Of others nothing is remembered."""
    wanted: dict[Subject, Wanted]
    """For some of `objects`, the most important first."""


def generation(data: Object) -> int:
    """The generation of an object's spec."""
    return int(data["metadata"].get("generation") or 0)
