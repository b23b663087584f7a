"""Snapshots put together again from what changed are the snapshots that were taken apart."""

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from epp_client.pool.delta import apply, difference
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore

NAME = PoolName("default", "llama")


@st.composite
def snapshots(draw: st.DrawFn) -> PoolSnapshot:
    members = {}
    for number in draw(st.sets(st.integers(1, 6))):
        ip = f"10.0.0.{number}"
        pod, ready = draw(st.sampled_from(["a", "b"])), draw(st.booleans())
        members[f"{ip}:80"] = Endpoint(f"{ip}:80", ip, 80, pod, ready, draw(st.integers(0, 3)))
    table = EndpointTable(MappingProxyType(members), draw(st.integers(0, 5)))
    pool = InferencePool(NAME, (("app", draw(st.sampled_from("xy"))),), (80,))
    picker = draw(st.none() | st.just(PickerTarget(("10.1.0.1:9002",))))
    return PoolSnapshot(pool, table, picker, draw(st.none() | st.integers(0, 5)))


@given(st.lists(snapshots(), min_size=1, max_size=6))
def test_a_chain_of_deltas_ends_where_the_snapshots_do(chain: list[PoolSnapshot]) -> None:
    built = told = None
    for snapshot in chain:
        built, told = apply(built, difference(told, snapshot)), snapshot
        assert (built.pool, built.picker) == (snapshot.pool, snapshot.picker)
        assert built.acknowledged == snapshot.acknowledged
        assert built.table.generation == snapshot.table.generation
        assert built.table.by_key == snapshot.table.by_key
        assert set(built.table.ready) == set(snapshot.table.ready)


def test_members_that_stay_are_not_told_again() -> None:
    def table(*numbers: int) -> EndpointTable:
        members = [Endpoint(f"10.0.0.{n}:80", f"10.0.0.{n}", 80, str(n)) for n in numbers]
        return EndpointTable(MappingProxyType({e.key: e for e in members}), 1)

    pool = InferencePool(NAME, (("app", "x"),), (80,))
    delta = difference(PoolSnapshot(pool, table(1, 2, 3)), PoolSnapshot(pool, table(2, 3, 4)))
    assert [endpoint.pod for endpoint in delta.put] == ["4"]
    assert delta.gone == ("10.0.0.1:80",)


def test_a_store_adopts_acknowledgements_and_forgets_pools() -> None:
    store = PoolStore()
    heard: list[set[PoolName]] = []
    store.subscribe(heard.append)
    store.adopt([], [])
    assert store.synced
    pool = InferencePool(NAME, (("app", "x"),), (80,))
    store.adopt([PoolSnapshot(pool, acknowledged=4)], [])
    assert store.snapshots[str(NAME)].acknowledged == 4
    store.adopt([], [str(NAME), "default/never-known"])
    assert store.snapshots == {}
    assert heard == [set(), {NAME}, {NAME}]
