"""Merges our statuses of a GatewayClass, a Gateway and its HTTPRoutes into the objects. Pure.

What others have written stays: conditions of other types, and entries of `status.parents` that are not
ours for this Gateway. Rules: gateway.networking.k8s.io/v1.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from epp_client.gateway.statuses import Condition, GatewayStatus, ListenerStatus, RouteStatus
from epp_client.kubernetes.status.merge import MAX_PARENTS, Entry, Parent, merge_conditions
from epp_client.kubernetes.status.routes import GATEWAY_GROUP
from epp_client.kubernetes.status.subjects import NewStatus, Object


class Address(NamedTuple):
    """An address at which clients reach a Gateway."""

    type: str
    """`IPAddress` or `Hostname`."""
    value: str


class GatewayWanted(NamedTuple):
    """The status of our Gateway."""

    status: GatewayStatus
    addresses: tuple[Address, ...] = ()
    """Empty: somebody else writes them."""

    @property
    def generation(self) -> int:
        """See Wanted."""
        return self.status.generation

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        before = data.get("status") or {}
        conditions, problem = merge_conditions(
            before.get("conditions") or (), self.status.conditions, self.generation, now
        )
        old = {entry.get("name"): entry for entry in before.get("listeners") or ()}
        listeners = [
            _listener(old.get(listener.name) or {}, listener, self.generation, now)
            for listener in self.status.listeners
        ]
        after: dict[str, Any] = {"conditions": conditions, "listeners": listeners}
        if self.addresses:
            after["addresses"] = [address._asdict() for address in self.addresses]
        changed = any((before.get(key) or []) != value for key, value in after.items())
        return NewStatus(after, changed, problem)

    def summary(self) -> str:
        """See Wanted."""
        return summary_of(self.status.conditions)


class RouteWanted(NamedTuple):
    """Our entries in the status of an HTTPRoute."""

    parent: Parent
    status: RouteStatus

    @property
    def generation(self) -> int:
        """See Wanted."""
        return self.status.generation

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        namespace = str(data["metadata"].get("namespace") or "default")
        before: Sequence[Entry] = (data.get("status") or {}).get("parents") or ()
        wanted = {_place(parent.reference): parent for parent in self.status.parents}
        after: list[Entry] = []
        problems: list[str] = []
        for entry in before:
            if not self.parent.owns(entry, namespace):
                after.append(entry)
            elif (parent := wanted.pop(_place(entry.get("parentRef") or {}), None)) is not None:
                after.append(self._entry(entry, parent.reference, parent.conditions, now, problems))
        for parent in wanted.values():
            if len(after) < MAX_PARENTS:
                after.append(self._entry({}, parent.reference, parent.conditions, now, problems))
            else:
                problems.append(
                    f"status.parents is full ({MAX_PARENTS} entries); remove those of deleted Gateways"
                )
        return NewStatus({"parents": after}, after != list(before), next(iter(problems), None))

    def _entry(
        self,
        old: Entry,
        reference: Mapping[str, Any],
        conditions: Sequence[Condition],
        now: str,
        problems: list[str],
    ) -> Entry:
        found, problem = merge_conditions(
            old.get("conditions") or (), conditions, self.generation, now
        )
        if problem is not None:
            problems.append(problem)
        new = {
            "parentRef": dict(reference),
            "controllerName": self.parent.controller,
            "conditions": found,
        }
        return {**old, **new}

    def summary(self) -> str:
        """See Wanted."""
        if not self.status.parents:
            return "entry removed: the route does not refer to the Gateway any more"
        return "; ".join(summary_of(parent.conditions) for parent in self.status.parents)


class ClassWanted(NamedTuple):
    """The conditions of our GatewayClass."""

    generation: int
    conditions: tuple[Condition, ...]

    def merged(self, data: Object, now: str) -> NewStatus:
        """See Wanted."""
        before = (data.get("status") or {}).get("conditions") or []
        after, problem = merge_conditions(before, self.conditions, self.generation, now)
        return NewStatus({"conditions": after}, after != before, problem)

    def summary(self) -> str:
        """See Wanted."""
        return summary_of(self.conditions)


def before_acknowledgement(status: GatewayStatus) -> GatewayStatus:
    """The status while no Envoy has acknowledged the table: nothing is programmed yet."""
    text = "No Envoy has acknowledged the configuration yet"
    return unprogrammed(status, Condition("Programmed", "False", "Pending", text))


def unprogrammed(status: GatewayStatus, why: Condition) -> GatewayStatus:
    """The status of a Gateway that could be programmed, and is not. `why` is its condition Programmed; its
    listeners are pending."""
    pending = why._replace(reason="Pending")
    listeners = tuple(
        listener._replace(conditions=_instead(listener.conditions, pending))
        for listener in status.listeners
    )
    conditions = _instead(status.conditions, why)
    return GatewayStatus(status.gateway, status.generation, conditions, listeners)


def summary_of(conditions: Sequence[Condition]) -> str:
    """`Accepted=True (Accepted), …`."""
    return ", ".join(f"{c.type}={c.status} ({c.reason})" for c in conditions)


def _instead(conditions: tuple[Condition, ...], why: Condition) -> tuple[Condition, ...]:
    return tuple(
        why if (condition.type, condition.status) == (why.type, "True") else condition
        for condition in conditions
    )


def _listener(old: Entry, wanted: ListenerStatus, generation: int, now: str) -> Entry:
    # A listener has at most five conditions of ours, and nobody else writes into it.
    conditions, _ = merge_conditions(
        old.get("conditions") or (), wanted.conditions, generation, now
    )
    kinds = [{"group": GATEWAY_GROUP, "kind": kind} for kind in wanted.supported_kinds]
    return {
        **old,
        "name": wanted.name,
        "supportedKinds": kinds,
        "attachedRoutes": wanted.attached_routes,
        "conditions": conditions,
    }


def _place(reference: Mapping[str, Any]) -> tuple[Any, Any]:
    """What tells apart the parentRefs of one route to one Gateway."""
    return reference.get("sectionName"), reference.get("port")
