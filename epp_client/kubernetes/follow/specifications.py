"""Objects as users wrote them: a change of the status, or of bookkeeping, makes no new object. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from epp_client.kubernetes.follow.cache import Key, Object

_BOOKKEEPING = ("resourceVersion", "managedFields")


class _Known(NamedTuple):
    newest: Object
    """As the watch has it."""
    first: Object
    """The first one with this specification."""


class Specifications:
    """The objects of one kind. What was computed of an object can be kept for as long as it is the same
    object here."""

    def __init__(self) -> None:
        self._known: dict[Key, _Known] = {}
        self.objects: Sequence[Object] = ()

    @property
    def generations(self) -> Mapping[Key, int]:
        """The generation of each object."""
        return {
            key: int(known.first["metadata"].get("generation") or 0)
            for key, known in self._known.items()
        }

    def update(self, objects: Mapping[Key, Object]) -> bool:
        """Take over the newest objects. True if a specification has changed, appeared or gone."""
        changed = False
        now: dict[Key, _Known] = {}
        for key, data in objects.items():
            known = self._known.get(key)
            if known is None or not _same(known, data):
                changed = True
                known = _Known(data, data)
            elif known.newest is not data:
                known = _Known(data, known.first)
            now[key] = known
        changed = changed or len(now) != len(self._known)
        self._known = now
        if changed:
            self.objects = [known.first for known in now.values()]
        return changed


def _same(known: _Known, data: Object) -> bool:
    return data is known.newest or _specified(data) == _specified(known.first)


def _specified(data: Object) -> tuple[Any, ...]:
    metadata = {k: v for k, v in data["metadata"].items() if k not in _BOOKKEEPING}
    return metadata, data.get("spec")
