"""What to do about a Lease, by what we have seen of it and for how long."""

from typing import Any

import pytest

from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.lease import (
    Create,
    Replace,
    Seen,
    Terms,
    Wait,
    decide,
    lease_name,
    observe,
    released,
)
from epp_client.kubernetes.status.merge import Parent

TERMS = Terms(duration=6, renewal=2.0)
PLACE = "infra", "epp-client.infra.edge"
THEN, NOW = "2026-01-01T00:00:00.000000Z", "2026-01-01T00:00:09.000000Z"


def lease(holder: str | None, **spec: Any) -> dict[str, Any]:
    held = {
        "holderIdentity": holder,
        "leaseDurationSeconds": 6,
        "acquireTime": THEN,
        "renewTime": THEN,
        "leaseTransitions": 4,
        **spec,
    }
    metadata = {
        "namespace": PLACE[0],
        "name": PLACE[1],
        "resourceVersion": "7",
        "labels": {"a": "b"},
    }
    return {"metadata": metadata, "spec": held}


def decided(found: dict[str, Any] | None, since: float = 0.0, now: float = 0.0) -> Any:
    seen = Seen(found["spec"], since) if found is not None else None
    return decide(found, seen, "me", TERMS, PLACE, now, NOW)


def test_no_lease_is_created() -> None:
    assert decided(None) == Create(
        {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"namespace": "infra", "name": "epp-client.infra.edge"},
            "spec": {
                "holderIdentity": "me",
                "leaseDurationSeconds": 6,
                "acquireTime": NOW,
                "renewTime": NOW,
                "leaseTransitions": 0,
            },
        }
    )


def test_our_lease_is_renewed_and_stays_acquired() -> None:
    mine = lease("me", leaseDurationSeconds=15)
    renewed = {**mine["spec"], "renewTime": NOW, "leaseDurationSeconds": 6}
    assert decided(mine) == Replace({**mine, "spec": renewed})


@pytest.mark.parametrize(
    ("now", "wait"), [(100.0, 2.0), (103.0, 2.0), (104.5, 1.5), (105.9, pytest.approx(0.1))]
)
def test_another_holder_is_waited_for(now: float, wait: float) -> None:
    assert decided(lease("other"), since=100.0, now=now) == Wait(wait, "other")


@pytest.mark.parametrize(
    ("holder", "since", "now"),
    [("other", 100.0, 106.0), ("other", 100.0, 1e6), ("", 100.0, 100.0), (None, 100.0, 100.0)],
)
def test_a_stale_or_free_lease_is_taken(holder: str | None, since: float, now: float) -> None:
    found = lease(holder, preferredHolder="x")
    taken = {
        **found["spec"],
        "holderIdentity": "me",
        "acquireTime": NOW,
        "renewTime": NOW,
        "leaseTransitions": 5,
    }
    assert decided(found, since, now) == Replace({**found, "spec": taken})


def test_a_lease_holds_for_as_long_as_its_holder_wrote() -> None:
    longer = lease("other", leaseDurationSeconds=60)
    assert isinstance(decided(longer, since=0.0, now=59.0), Wait)
    assert isinstance(decided(longer, since=0.0, now=60.0), Replace)


def test_a_renewal_in_the_future_or_the_past_of_our_clock_means_nothing() -> None:
    for time in ("1999-01-01T00:00:00.000000Z", "2999-01-01T00:00:00.000000Z"):
        assert isinstance(decided(lease("other", renewTime=time), 0.0, 5.9), Wait)
        assert isinstance(decided(lease("other", renewTime=time), 0.0, 6.0), Replace)


def test_a_lease_of_nothing_but_a_name_is_free() -> None:
    bare = {"metadata": {"name": "x", "namespace": "y"}}
    assert isinstance(decide(bare, Seen({}, 0.0), "me", TERMS, PLACE, 0.0, NOW), Replace)


def test_seen_counts_from_the_last_change_of_the_spec() -> None:
    first = observe(lease("other"), None, 10.0)
    assert first == Seen(lease("other")["spec"], 10.0)
    annotated = lease("other")
    annotated["metadata"]["resourceVersion"] = "8"
    assert observe(annotated, first, 12.0) is first
    renewed = lease("other", renewTime=NOW)
    assert observe(renewed, first, 13.0) == Seen(renewed["spec"], 13.0)
    assert observe(None, first, 14.0) is None


def test_a_released_lease_is_free_at_once_and_keeps_its_count() -> None:
    free = released(lease("me"), "me", NOW)
    assert free is not None
    assert free["metadata"] == lease("me")["metadata"]
    assert free["spec"]["leaseTransitions"] == 4
    assert isinstance(decide(free, Seen(free["spec"], 0.0), "b", TERMS, PLACE, 0.0, NOW), Replace)
    assert released(lease("other"), "me", NOW) is None


def test_the_holder_gives_up_before_anybody_may_take_over() -> None:
    assert TERMS.deadline < TERMS.duration


@pytest.mark.parametrize(
    ("gateway", "controller", "name"),
    [
        (("infra", "edge"), "epp-client.dev/gateway", "epp-client.infra.edge"),
        (("infra", "edge"), "example.com/x", "epp-client.infra.edge.508604a3e7"),
    ],
)
def test_the_name_of_the_lease(gateway: tuple[str, str], controller: str, name: str) -> None:
    assert lease_name(Parent(GatewayName(*gateway), controller), "epp-client.dev/gateway") == name


def test_a_long_name_is_cut_and_still_its_own() -> None:
    default = "epp-client.dev/gateway"
    names = {
        lease_name(Parent(GatewayName("n" * 63, "g" * 252 + last), default), default)
        for last in "ab"
    }
    assert len(names) == 2
    assert all(len(name) <= 253 for name in names)
