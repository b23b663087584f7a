"""Merges our entry into an InferencePool's `status.parents`, beside those of other controllers. Pure.

Other controllers' entries are never changed or reordered.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from epp_client.gateway.statuses import Condition
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.routes import GATEWAY_GROUP

MAX_PARENTS = 32
MAX_CONDITIONS = 8

Entry = Mapping[str, Any]


class Parent(NamedTuple):
    """Identity of our entry: this controller for this Gateway, the same in every replica."""

    gateway: GatewayName
    controller: str

    def owns(self, entry: Entry, pool_namespace: str) -> bool:
        """Whether an entry is ours. Missing fields of its parentRef have the API's defaults."""
        ref = entry.get("parentRef") or {}
        return (
            entry.get("controllerName") == self.controller
            and ref.get("name") == self.gateway.name
            and ref.get("namespace", pool_namespace) == self.gateway.namespace
            and ref.get("kind", "Gateway") == "Gateway"
            and ref.get("group", GATEWAY_GROUP) == GATEWAY_GROUP
        )

    def reference(self) -> dict[str, str]:
        """Our `parentRef`, with every field set."""
        return {
            "group": GATEWAY_GROUP,
            "kind": "Gateway",
            "namespace": self.gateway.namespace,
            "name": self.gateway.name,
        }


class Merged(NamedTuple):
    """The new `status.parents`."""

    parents: Sequence[Entry]
    changed: bool
    problem: str | None = None
    """What does not fit, and what to do about it; None if everything fits."""


def merge(
    pool: Mapping[str, Any], parent: Parent, wanted: Sequence[Condition] | None, now: str
) -> Merged:
    """Put `wanted` into our entry, or remove the entry if it is None.

    `pool` is the InferencePool object, `wanted` the conditions of its generation, most important first,
    `now` the time in RFC 3339. A condition with an unchanged status keeps its `lastTransitionTime`.
    """
    namespace = str(pool["metadata"].get("namespace") or "default")
    before: Sequence[Entry] = (pool.get("status") or {}).get("parents") or ()
    ours = [index for index, entry in enumerate(before) if parent.owns(entry, namespace)]
    if wanted is None:
        rest = [entry for index, entry in enumerate(before) if index not in ours]
        return Merged(rest, bool(ours))
    generation = pool["metadata"].get("generation", 0)
    if not ours:
        if len(before) >= MAX_PARENTS:
            text = (
                f"status.parents is full ({len(before)} entries); remove those of deleted Gateways"
            )
            return Merged(before, False, text)
        found, problem = merge_conditions((), wanted, generation, now)
        entry = {
            "parentRef": parent.reference(),
            "controllerName": parent.controller,
            "conditions": found,
        }
        return Merged([*before, entry], True, problem)
    old = before[ours[0]]
    found, problem = merge_conditions(old.get("conditions") or (), wanted, generation, now)
    after = [entry for index, entry in enumerate(before) if index not in ours[1:]]
    after[ours[0]] = {**old, "conditions": found}
    return Merged(after, after != list(before), problem)


def merge_conditions(
    before: Sequence[Entry], wanted: Sequence[Condition], generation: int, now: str
) -> tuple[list[Entry], str | None]:
    """Update our conditions in place, and append the new ones while there is room. Others stay as they
    are. Also returns what is left out, as text.

    A condition with an unchanged status keeps its `lastTransitionTime`. `now` is the time in RFC 3339."""
    after = list(before)
    left_out: list[str] = []
    for condition in wanted:
        index = next((i for i, c in enumerate(before) if c.get("type") == condition.type), None)
        old = before[index] if index is not None else {}
        since = old.get("lastTransitionTime") if old.get("status") == condition.status else None
        new = {
            "type": condition.type,
            "status": condition.status,
            "reason": str(condition.reason),
            "message": condition.message,
            "observedGeneration": generation,
            "lastTransitionTime": since or now,
        }
        if index is not None:
            after[index] = new
        elif len(after) < MAX_CONDITIONS:
            after.append(new)
        else:
            left_out.append(condition.type)
    if not left_out:
        return after, None
    text = f"no room for {', '.join(left_out)}: our entry is full ({MAX_CONDITIONS} conditions)"
    return after, text
