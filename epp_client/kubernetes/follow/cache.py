"""What one list, and the watch after it, have told: objects by name, and up to which version. Pure."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, NamedTuple, TypeVar

Object = Mapping[str, Any]
Kept = TypeVar("Kept")


class Key(NamedTuple):
    """The name of an object."""

    namespace: str
    name: str


def key_of(data: Object) -> Key:
    """The name that an object bears."""
    metadata = data.get("metadata") or {}
    return Key(str(metadata.get("namespace") or ""), str(metadata.get("name") or ""))


class Cache(Generic[Kept]):
    """The objects of one query. `keep` makes of an object what is worth its memory."""

    def __init__(self, keep: Callable[[Object], Kept]) -> None:
        self._keep = keep
        self.objects: dict[Key, Kept] = {}
        self.version = ""
        """Where a watch goes on; empty when only a list can tell."""
        self.synced = False
        """Whether a list has come to its end: before it, nothing in here means none."""

    def reset(self, found: dict[Key, Kept], version: str) -> bool:
        """A whole list, kept page by page: what is not in it is no more. Whether anything changed."""
        changed = not self.synced or found != self.objects
        if changed:
            self.objects = found
        self.version, self.synced = version, True
        return changed

    def keep(self, items: Iterable[Object]) -> dict[Key, Kept]:
        """One page of a list, for `reset`."""
        return {key_of(item): self._keep(item) for item in items}

    def apply(self, kind: str, data: Object) -> bool:
        """One event of the watch. Whether anything is not as it was."""
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
            # a heartbeat, or a field that nobody here reads
            return False
        self.objects[key] = kept
        return True

    def forget_version(self) -> None:
        """What happened since is gone: the next thing to do is to list."""
        self.version = ""
