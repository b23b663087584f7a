"""The objects of one query by name, as of a resourceVersion, kept by a list and its watch. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

Object = Mapping[str, Any]
Kept = TypeVar("Kept")


class Key(NamedTuple):
    """The name of an object."""

    namespace: str
    name: str


def key_of(data: Object) -> Key:
    """The name of `data`."""
    metadata = data.get("metadata") or {}
    return Key(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


class Cache(Generic[Kept]):
    """The objects of one query. `keep` reduces an object to what is stored of it."""

    def __init__(self, keep: Callable[[Object], Kept]) -> None:
        self._keep = keep
        self.objects: dict[Key, Kept] = {}
        self.version = ""
        """The version to watch from; empty when a list is needed."""
        self.synced = False
        """Whether a list has been completed. Before that, an empty cache does not mean that there are no
        objects."""

    def reset(self, found: dict[Key, Kept], version: str) -> bool:
        """Replace all objects by a complete list. True if anything changed."""
        changed = not self.synced or found != self.objects
        if changed:
            self.objects = found
        self.version, self.synced = version, True
        return changed

    def keep(self, items: Iterable[Object]) -> dict[Key, Kept]:
        """Reduce one page of a list, for `reset`."""
        return {key_of(item): self._keep(item) for item in items}

    def apply(self, kind: str, data: Object) -> bool:
        """Apply one event of the watch. True if anything changed."""
        version = (data.get("metadata") or {}).get("resourceVersion")
        if version:
            self.version = str(version)
        if kind == "BOOKMARK":
            return False
        key = key_of(data)
        if kind == "DELETED":
            return self.objects.pop(key, None) is not None
        kept = self._keep(data)
        if self.objects.get(key) == kept:
            # A heartbeat, or a change of a field that is not kept.
            return False
        self.objects[key] = kept
        return True

    def forget_version(self) -> None:
        """Require a list: the server has no more history since the version."""
        self.version = ""
