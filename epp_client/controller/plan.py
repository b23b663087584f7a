"""Decides which objects to apply and which to delete, from what is wanted and what there is. Pure.

Level-based: an object is applied if it is missing, if it is to be another one, or if it is not any more as
the API server returned it after our last apply. To apply what is there already changes nothing, so a
restart of the controller costs a few calls and no rollout.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from json import dumps
from typing import NamedTuple

from epp_client.controller.objects import GATEWAY_ANNOTATION
from epp_client.gateway.world import Object
from epp_client.kubernetes.status.subjects import Subject

_NOT_CONTENT = ("resourceVersion", "managedFields", "generation", "creationTimestamp", "uid")


class Applied(NamedTuple):
    """What is remembered of the last apply of an object."""

    wanted: str
    """Digest of what was wanted."""
    content: str
    """Digest of the content that the server returned."""
    over: str
    """The resourceVersion that was known before; until the watch has a newer one, nothing is concluded from
    it. Empty: there was no such object."""


class Apply(NamedTuple):
    """Apply this object."""

    subject: Subject
    data: Object
    known: bool
    """Whether the object is known to be ours. If not, look first whether somebody else has made it."""


class Delete(NamedTuple):
    """Delete this object."""

    subject: Subject
    uid: str


Step = Apply | Delete


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known at one moment."""

    wanted: Mapping[Subject, Object]
    observed: Mapping[Subject, Object]
    """Objects with our label."""
    kept: Collection[str] = ()
    """`namespace/name` of the Gateways whose other objects stay: nobody knows yet what is wanted."""
    applied: Mapping[Subject, Applied] = field(default_factory=dict)


def steps(situation: Situation) -> Iterator[Step]:
    """What is to be done, in this order. Empty if all is as it should be."""
    for subject, data in situation.wanted.items():
        seen = situation.observed.get(subject)
        if seen is None:
            if not _arriving(situation.applied.get(subject)):
                yield Apply(subject, data, known=False)
        elif seen["metadata"].get("deletionTimestamp"):
            # It goes; the next one is made when it is gone.
            continue
        elif _owner(seen) != _owner(data):
            # Of an earlier Gateway of the same name: the garbage collector deletes it too.
            yield Delete(subject, str(seen["metadata"].get("uid") or ""))
        elif _differs(seen, data, situation.applied.get(subject)):
            yield Apply(subject, data, known=True)
    for subject, seen in situation.observed.items():
        if subject in situation.wanted or seen["metadata"].get("deletionTimestamp"):
            continue
        annotations = seen["metadata"].get("annotations") or {}
        if annotations.get(GATEWAY_ANNOTATION) not in situation.kept:
            yield Delete(subject, str(seen["metadata"].get("uid") or ""))


def noted(wanted: Object, returned: Object, before: Object | None) -> Applied:
    """What to remember of an apply that succeeded. `before` is the object as it was known."""
    over = "" if before is None else str(before["metadata"].get("resourceVersion"))
    return Applied(digest(wanted), content(returned), over)


def content(data: Object) -> str:
    """Digest of an object without its status and its versions."""
    metadata = {k: v for k, v in data["metadata"].items() if k not in _NOT_CONTENT}
    return digest({**{k: v for k, v in data.items() if k != "status"}, "metadata": metadata})


def digest(data: Object) -> str:
    """Digest of a JSON object."""
    return sha256(dumps(data, sort_keys=True).encode()).hexdigest()


def _arriving(applied: Applied | None) -> bool:
    """Whether an object that is not there has been made, and the watch has yet to say so."""
    return applied is not None and not applied.over


def _differs(seen: Object, data: Object, applied: Applied | None) -> bool:
    if applied is None or applied.wanted != digest(data):
        return True
    version = str(seen["metadata"].get("resourceVersion"))
    return version != applied.over and content(seen) != applied.content


def _owner(data: Object) -> str | None:
    """The uid of the controlling owner."""
    owners = data["metadata"].get("ownerReferences") or ()
    return next((str(one["uid"]) for one in owners if one.get("controller")), None)
