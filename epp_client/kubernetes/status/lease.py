"""Leader election among replicas: decisions about a `coordination.k8s.io/v1` Lease. Pure.

Clocks of two machines are never compared. A Lease is stale when it has not changed for its duration *by our
own clock*; its times are for people. A holder counts from the start of its last successful renewal, which
is before any other replica can see it, so the holder gives up first.
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
    """Times of a Lease in seconds."""

    duration: int = 6
    """Time without a renewal after which any replica may take the Lease. The API has whole seconds only."""
    renewal: float = 2.0
    """Interval of reading the Lease, for holder and others, and the timeout of one reading."""

    @property
    def deadline(self) -> float:
        """Time from the start of the last successful renewal to when the holder gives up."""
        return self.duration - self.renewal / 2


class Seen(NamedTuple):
    """The spec of a Lease, and since when, by our monotonic clock, it has not changed."""

    spec: Mapping[str, Any]
    since: float


class Wait(NamedTuple):
    """Another replica holds the Lease: read it again after `seconds`."""

    seconds: float
    holder: str


class Create(NamedTuple):
    """No Lease exists: create this one."""

    lease: Lease


class Replace(NamedTuple):
    """Renew the Lease or take it: replace it with this one, which has its resourceVersion."""

    lease: Lease


Decision = Wait | Create | Replace


def lease_name(parent: Parent, default_controller: str) -> str:
    """`epp-client.<namespace>.<gateway>`; a controller name other than the default adds a digest."""
    name = f"epp-client.{parent.gateway.namespace}.{parent.gateway.name}"
    if parent.controller == default_controller and len(name) <= MAX_NAME:
        return name
    digest = sha256(f"{name} {parent.controller}".encode()).hexdigest()[:10]
    return f"{name[: MAX_NAME - 11].rstrip('.-')}.{digest}"


def observe(lease: Lease | None, before: Seen | None, now: float) -> Seen | None:
    """Note what was read at `now`, which is monotonic. `lease` is None if none exists."""
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
    """Decide what to do about a Lease.

    `seen` is the result of `observe` at `now`. `place` is the namespace and name of the Lease. `clock` is
    the time of day in RFC 3339 with microseconds; it is written, and never compared.
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
    """The Lease without a holder, to write; None if `me` does not hold it."""
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
