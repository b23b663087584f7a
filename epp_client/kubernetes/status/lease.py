"""Who of many replicas writes: decisions over a `coordination.k8s.io/v1` Lease. Pure.

No clock of another machine is ever compared with ours. A Lease is stale when nothing has changed in it
for its duration *as we saw it*; its times are for people. A holder counts from the start of its last
successful renewal, which is before anybody can have seen it, so that it gives up first.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, NamedTuple

from epp_client.kubernetes.status.merge import Parent

MAX_NAME = 253

Lease = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a Lease holds. Seconds."""

    duration: int = 6
    """Without a renewal for so long, the Lease is anybody's. The API has whole seconds only."""
    renewal: float = 2.0
    """Between two looks at the Lease, by the holder and by the others; also how long one may take."""

    @property
    def deadline(self) -> float:
        """From the start of the last successful renewal to when the holder gives up."""
        return self.duration - self.renewal / 2


class Seen(NamedTuple):
    """What a Lease says, and since when, by our own monotonic clock, it says nothing else."""

    spec: Mapping[str, Any]
    since: float


class Wait(NamedTuple):
    """Another holds the Lease: look again after so many seconds."""

    seconds: float
    holder: str


class Create(NamedTuple):
    """There is no Lease: create this one."""

    lease: Lease


class Replace(NamedTuple):
    """Renew, or take over: write this over the Lease, whose resourceVersion it names."""

    lease: Lease


Decision = Wait | Create | Replace


def lease_name(parent: Parent, default_controller: str) -> str:
    """`epp-client.<namespace>.<gateway>`; a controller name of the user's own adds a digest of it."""
    name = f"epp-client.{parent.gateway.namespace}.{parent.gateway.name}"
    if parent.controller == default_controller and len(name) <= MAX_NAME:
        return name
    digest = sha256(f"{name} {parent.controller}".encode()).hexdigest()[:10]
    return f"{name[: MAX_NAME - 11].rstrip('.-')}.{digest}"


def observe(lease: Lease | None, before: Seen | None, now: float) -> Seen | None:
    """What we know after a look at the Lease. `now` is monotonic."""
    if lease is None:
        return None
    spec = lease.get("spec") or {}
    return before if before is not None and before.spec == spec else Seen(spec, now)


def decide(
    lease: Lease | None,
    seen: Seen | None,
    me: str,
    terms: Terms,
    place: tuple[str, str],
    now: float,
    clock: str,
) -> Decision:
    """What to do about a Lease.

    `seen` is what `observe` said of it at `now`; `place` is the namespace and name of the Lease, and
    `clock` the time of day in RFC 3339 with microseconds, which is only written.
    """
    if lease is None or seen is None:
        namespace, name = place
        return Create(
            {
                "apiVersion": "coordination.k8s.io/v1",
                "kind": "Lease",
                "metadata": {"namespace": namespace, "name": name},
                "spec": _held(me, terms, clock, clock, 0),
            }
        )
    spec = lease.get("spec") or {}
    holder = str(spec.get("holderIdentity") or "")
    transitions = int(spec.get("leaseTransitions") or 0)
    if holder == me:
        acquired = str(spec.get("acquireTime") or clock)
        return Replace(_with(lease, _held(me, terms, acquired, clock, transitions)))
    duration = float(spec.get("leaseDurationSeconds") or terms.duration)
    left = seen.since + duration - now
    if holder and left > 0:
        return Wait(min(left, terms.renewal), holder)
    return Replace(_with(lease, _held(me, terms, clock, clock, transitions + 1)))


def released(lease: Lease, me: str, clock: str) -> Lease | None:
    """The Lease with nobody as its holder; None when we do not hold it."""
    spec = lease.get("spec") or {}
    if spec.get("holderIdentity") != me:
        return None
    return _with(lease, {"holderIdentity": "", "leaseDurationSeconds": 1, "renewTime": clock})


def _held(me: str, terms: Terms, acquired: str, renewed: str, transitions: int) -> dict[str, Any]:
    return {
        "holderIdentity": me,
        "leaseDurationSeconds": terms.duration,
        "acquireTime": acquired,
        "renewTime": renewed,
        "leaseTransitions": transitions,
    }


def _with(lease: Lease, spec: Mapping[str, Any]) -> Lease:
    return {**lease, "spec": {**(lease.get("spec") or {}), **spec}}
