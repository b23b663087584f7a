"""EDS resources as Envoy reads them, whatever was kept from the ones before."""

from types import MappingProxyType

from hypothesis import given
from hypothesis import strategies as st

from epp_client.envoy.endpoints import Assignment
from epp_client.pool.endpoints import Endpoint, EndpointTable, endpoint_key
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.xds.assignments import Assignments
from epp_client.xds.lingering import HANDOVER, LINGER

from .talking_envoy import read_assignment

POOL = InferencePool(PoolName("default", "llama"), (("app", "model"),), (8000,))


def _endpoint(ip: str, port: int = 8000) -> Endpoint:
    return Endpoint(endpoint_key(ip, port), ip, port, "pod")


members = st.lists(
    st.builds(
        _endpoint,
        st.integers(1, 9).map("10.0.0.{}".format) | st.integers(1, 9).map("fd00::{}".format),
        st.integers(1, 3) | st.integers(1, 65535),
    ),
    unique_by=lambda endpoint: endpoint.key,
    max_size=12,
)


@given(st.lists(members, min_size=1, max_size=5))
def test_each_resource_has_its_endpoints_in_order_and_none_of_the_one_before(
    tables: list[list[Endpoint]],
) -> None:
    assignment = Assignment("inferencepool/default/llama")
    for table in tables:
        cluster, found = read_assignment(assignment.write(table))
        assert cluster == "inferencepool/default/llama"
        assert found == [(endpoint.ip, endpoint.port) for endpoint in table]


class _Pool:
    """The resource of one pool, and the clock."""

    def __init__(self) -> None:
        self.now = 10.0
        self.assignments = Assignments(lambda: self.now)
        self._generation = 0

    def has(self, *numbers: int) -> bool:
        """The pool's newest table; whether Envoy has to be told."""
        self._generation += 1
        table = {e.key: e for e in map(_endpoint, map("10.0.0.{}".format, numbers))}
        snapshot = PoolSnapshot(POOL, EndpointTable(MappingProxyType(table), self._generation))
        return self.assignments.put("a", snapshot)

    def shown(self) -> set[int]:
        """What Envoy would be told now."""
        _, found = read_assignment(self.assignments["a"].value)
        return {int(ip.rpartition(".")[2]) for ip, _ in found}


def test_who_left_since_the_last_push_lingers_from_the_next_one_on() -> None:
    pool = _Pool()
    assert pool.has(1, 2)
    assert pool.shown() == {1, 2}
    assert pool.has(2, 3)
    assert pool.has(3)
    pool.now += 5
    assert pool.shown() == {1, 2, 3}
    assert pool.assignments.next_change() == pool.now + LINGER
    assert pool.assignments.expire(pool.now) == set()
    pool.now += LINGER
    assert pool.assignments.expire(pool.now) == {"a"}
    assert pool.shown() == {3}
    assert pool.assignments.next_change() is None


def test_who_came_and_went_between_two_pushes_is_never_shown() -> None:
    pool = _Pool()
    pool.has(1)
    pool.shown()
    pool.has(1, 2)
    pool.has(1)
    assert pool.shown() == {1}


def test_who_is_back_before_the_push_has_never_been_away() -> None:
    pool = _Pool()
    pool.has(1, 2)
    pool.shown()
    pool.has(1)
    pool.has(1, 2)
    assert pool.shown() == {1, 2}
    assert pool.assignments.next_change() is None


def test_a_pool_of_the_name_of_one_that_is_no_more_shows_nothing_of_it() -> None:
    pool = _Pool()
    pool.has(1)
    pool.shown()
    pool.has(2)
    pool.shown()
    pool.assignments.drop("a")
    pool.has(3)
    assert pool.shown() == {3}


def _table(*numbers: int) -> EndpointTable:
    members = (_endpoint(f"10.0.0.{number}") for number in numbers)
    return EndpointTable(MappingProxyType({member.key: member for member in members}))


def test_who_only_relays_from_before_know_lingers_until_they_have_long_ended() -> None:
    pool = _Pool()
    pool.assignments.inherit({"a": _table(1, 2)})
    pool.has(2, 3)
    assert pool.shown() == {1, 2, 3}
    pool.now += LINGER
    assert pool.has(3, 4)
    assert pool.shown() == {1, 2, 3, 4}
    pool.now += LINGER
    assert pool.assignments.expire(pool.now) == {"a"}
    assert pool.shown() == {1, 3, 4}
    pool.now += HANDOVER - 2 * LINGER
    assert pool.assignments.expire(pool.now) == {"a"}
    assert pool.shown() == {3, 4}


def test_what_relays_from_before_know_of_a_pool_goes_with_the_pool() -> None:
    pool = _Pool()
    pool.assignments.inherit({"a": _table(1)})
    pool.has(2)
    pool.assignments.drop("a")
    pool.has(3)
    assert pool.shown() == {3}
