"""The local pick: which endpoints it may choose, whatever the dice say."""

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from epp_client.picker.fallback import (
    MAX_ENDPOINTS,
    MAX_WITH_UNREACHABLE,
    InFlight,
    local_pick,
)
from epp_client.picker.preparation import Subset
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PoolSnapshot

POOL = InferencePool(PoolName("default", "llama"), (("app", "model"),), (8000,))
GENERATION = 5

endpoints = st.builds(
    lambda number, ready, local, since: Endpoint(
        f"10.0.0.{number}:8000", f"10.0.0.{number}", 8000, "pod", ready, since, local=local
    ),
    st.integers(1, 20),
    st.booleans(),
    st.booleans(),
    st.integers(1, GENERATION),
)


@given(
    st.lists(endpoints, unique_by=lambda endpoint: endpoint.key, max_size=20),
    st.none() | st.integers(-1, GENERATION),
    st.none() | st.sets(st.integers(1, 20)),
    st.sets(st.integers(1, 20)),
    st.data(),
)
def test_only_ready_members_and_those_that_envoy_has_while_there_are_any(
    members: list[Endpoint],
    acknowledged: int | None,
    hinted: set[int] | None,
    refusing: set[int],
    data: st.DataObject,
) -> None:
    table = EndpointTable(MappingProxyType({e.key: e for e in members}), GENERATION)
    snapshot = PoolSnapshot(POOL, table, acknowledged=acknowledged)
    allowed = [e for e in members if hinted is None or int(e.ip.rpartition(".")[2]) in hinted]
    ready = [e.key for e in allowed if e.ready]
    subset = None if hinted is None else Subset(frozenset(e.key for e in allowed), tuple(ready))

    def below(size: int) -> int:
        return data.draw(st.integers(0, size - 1))

    unreachable = {f"10.0.0.{number}:8000" for number in refusing}
    picked = local_pick(snapshot, subset, InFlight(), unreachable, below)
    able = [key for key in ready if table.by_key[key].local]
    best = [key for key in able if snapshot.routable(key)] or able
    assert set(picked) <= set(best)
    assert len(picked) == len(set(picked))
    assert min(MAX_ENDPOINTS, len(best)) <= len(picked) <= len(best)
    refused = [key in unreachable for key in picked]
    assert refused == sorted(refused), "who took no connection comes last"


def test_the_more_take_no_connection_the_longer_the_list() -> None:
    keys = [f"10.0.{number // 250}.{number % 250 + 1}:8000" for number in range(400)]
    members = {key: Endpoint(key, key[:-5], 8000, "pod", True, 1) for key in keys}
    snapshot = PoolSnapshot(POOL, EndpointTable(MappingProxyType(members), GENERATION))

    def length(refusing: int) -> int:
        # Dice of 0 draw from the beginning.
        return len(local_pick(snapshot, None, InFlight(), keys[:refusing], lambda size: 0))

    assert [length(refusing) for refusing in (0, 1, 20, 300, 400)] == [
        MAX_ENDPOINTS,
        MAX_ENDPOINTS + 1,
        MAX_ENDPOINTS + 20,
        MAX_WITH_UNREACHABLE,
        MAX_WITH_UNREACHABLE,
    ]


def pool_of(count: int) -> PoolSnapshot:
    members = [Endpoint(f"10.0.0.{n}:80", f"10.0.0.{n}", 80, f"pod-{n}") for n in range(count)]
    return PoolSnapshot(POOL, EndpointTable(MappingProxyType({e.key: e for e in members}), 1))


def test_of_two_the_less_loaded_comes_first() -> None:
    """The dice draw 10.0.0.0 and 10.0.0.1, in this order."""
    in_flight = InFlight()

    def first() -> str:
        return local_pick(pool_of(2), None, in_flight, (), lambda _: 0)[0]

    assert first() == "10.0.0.0:80"
    for _ in range(2):
        in_flight.begin("10.0.0.0:80")
    assert first() == "10.0.0.1:80"
    in_flight.begin("10.0.0.1:80")
    in_flight.end("10.0.0.0:80")
    assert first() == "10.0.0.0:80", "one request each"
    in_flight.end("10.0.0.1:80")
    assert first() == "10.0.0.1:80"
    in_flight.end("10.0.0.0:80")
    assert first() == "10.0.0.0:80", "none any more"
