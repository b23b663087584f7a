"""Gateways that write a wrong status."""

from collections.abc import Sequence
from typing import Any

from epp_client.gateway import resolve
from epp_client.kubernetes.status import findings, gateway_merge, merge
from testbed.strict.mutants.registry import mutant, replace


def _conditions(make: Any) -> None:
    """Replace `merge_conditions` where it is used."""
    for module in (merge, gateway_merge):
        replace(module, "merge_conditions", make)


@mutant("generation-stale", {"conditions": "has observedGeneration 1"})
def generation_stale() -> None:
    """Conditions are always of the first generation."""
    _conditions(lambda f: lambda before, wanted, generation, now: f(before, wanted, 1, now))


@mutant(
    "generation-of-gateway-stale", {"conditions": "Gateway one: Accepted has observedGeneration 1"}
)
def generation_of_gateway_stale() -> None:
    """The same for the conditions of Gateways and routes alone."""
    make = lambda f: lambda before, wanted, generation, now: f(before, wanted, 1, now)  # noqa: E731
    replace(gateway_merge, "merge_conditions", make)


@mutant("times-move", {"conditions": "lastTransitionTime moved"})
def times_move() -> None:
    """lastTransitionTime moves with every generation."""

    def make(original: Any) -> Any:
        def merged(before: Sequence[Any], wanted: Any, generation: int, now: str) -> Any:
            known = [
                {**c, "status": ""} for c in before if c.get("observedGeneration") != generation
            ]
            kept = [c for c in before if c.get("observedGeneration") == generation]
            return original([*kept, *known], wanted, generation, now)

        return merged

    _conditions(make)


@mutant("reasons-vague", {"conditions-of-faults": "False/Invalid"})
def reasons_vague() -> None:
    """What is wrong is `Invalid`, whatever it is."""

    def make(original: Any) -> Any:
        def merged(before: Any, wanted: Any, generation: int, now: str) -> Any:
            vague = [c._replace(reason="Invalid") if c.status == "False" else c for c in wanted]
            return original(before, vague, generation, now)

        return merged

    _conditions(make)


@mutant("nothing-attached", {"conditions": "attachedRoutes is 0"})
def nothing_attached() -> None:
    """Listeners count no routes."""
    replace(resolve, "_listener_status", lambda f: lambda listener, attached: f(listener, 0))


@mutant("entries-stay", {"statuses-go": "it is there"})
def entries_stay() -> None:
    """An entry is never taken away."""

    def make(original: Any) -> Any:
        def merged(pool: Any, parent: Any, wanted: Any, now: str) -> Any:
            if wanted is None:
                before = (pool.get("status") or {}).get("parents") or ()
                return merge.Merged(before, False)
            return original(pool, parent, wanted, now)

        return merged

    replace(findings, "merge", make)
