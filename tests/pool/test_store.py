"""PoolStore: who hears of what, and what a publication leaves as it was."""

from dataclasses import replace

import pytest

from epp_client.pool.endpoints import EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore

A, B = PoolName("default", "a"), PoolName("default", "b")


def snapshot(name: PoolName, generation: int = 1) -> PoolSnapshot:
    table = EndpointTable(generation=generation)
    return PoolSnapshot(InferencePool(name, (("app", "x"),), (8000,)), table)


@pytest.fixture
def told() -> list[set[PoolName]]:
    return []


@pytest.fixture
def store(told: list[set[PoolName]]) -> PoolStore:
    store = PoolStore()
    store.subscribe(told.append)
    return store


def test_unknown_is_not_none(store: PoolStore, told: list[set[PoolName]]) -> None:
    assert not store.synced
    store.publish({})
    assert store.synced
    assert told == [set()]


def test_only_changed_pools_are_told(store: PoolStore, told: list[set[PoolName]]) -> None:
    store.publish({A: snapshot(A), B: snapshot(B)})
    store.publish({A: snapshot(A), B: snapshot(B)})
    store.publish({A: snapshot(A), B: snapshot(B, 2)})
    store.publish({A: snapshot(A)})
    assert told == [{A, B}, {B}, {B}]
    assert list(store.snapshots) == ["default/a"]


def test_publishing_keeps_what_envoy_has_acknowledged(store: PoolStore) -> None:
    store.publish({A: snapshot(A)})
    store.acknowledge(A, 1)
    store.publish({A: snapshot(A, 2)})
    assert store.snapshots["default/a"] == replace(snapshot(A, 2), acknowledged=1)


def test_an_acknowledgement_is_told_once(store: PoolStore, told: list[set[PoolName]]) -> None:
    store.publish({A: snapshot(A)})
    for generation in (1, 1, None):
        store.acknowledge(A, generation)
    store.acknowledge(B, 1)
    assert told == [{A}, {A}, {A}]


def test_whoever_unsubscribed_hears_nothing(store: PoolStore) -> None:
    heard: list[set[PoolName]] = []
    store.subscribe(heard.append)()
    store.publish({A: snapshot(A)})
    assert not heard


def test_what_another_process_tells_is_taken_over_with_its_acknowledgements(
    store: PoolStore, told: list[set[PoolName]]
) -> None:
    store.adopt([replace(snapshot(A), acknowledged=1), snapshot(B)], ())
    assert store.synced
    assert store.snapshots["default/a"].acknowledged == 1
    store.adopt([snapshot(B, 2)], ["default/a", "default/never-known"])
    assert list(store.snapshots) == ["default/b"]
    assert store.snapshots["default/b"].table.generation == 2
    assert told == [{A, B}, {A, B}]
