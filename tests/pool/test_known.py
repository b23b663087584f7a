"""What one process says of the endpoints that it knows, and what another one makes of it."""

from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.pool.endpoints import Endpoint, EndpointTable, endpoint_key
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.known import read_known, write_known
from epp_client.pool.snapshot import PoolSnapshot

names = st.from_regex(r"[a-z0-9]([-.a-z0-9]{0,9}[a-z0-9])?", fullmatch=True)
endpoints = st.builds(
    lambda ip, port, ready: Endpoint(endpoint_key(str(ip), port), str(ip), port, "", ready),
    st.ip_addresses().filter(lambda ip: ip.version == 4 or ip.ipv4_mapped is None),
    st.integers(1, 65535),
    st.booleans(),
)
tables = st.lists(endpoints, max_size=5, unique_by=lambda endpoint: endpoint.key)


def snapshots(
    pools: dict[PoolName, list[Endpoint]], *, synced: bool = True
) -> dict[str, PoolSnapshot]:
    return {
        str(name): PoolSnapshot(
            InferencePool(name, (("app", "model"),), (8000,)),
            EndpointTable(MappingProxyType({e.key: e for e in members})),
            synced=synced,
        )
        for name, members in pools.items()
    }


@given(st.dictionaries(st.builds(PoolName, names, names), tables, max_size=3))
def test_addresses_arrive_as_they_were(pools: dict[PoolName, list[Endpoint]]) -> None:
    known = read_known([write_known(snapshots(pools))])
    assert {
        name: [(e.key, e.ip, e.port) for e in table.by_key.values()]
        for name, table in known.items()
    } == {name: [(e.key, e.ip, e.port) for e in members] for name, members in pools.items()}


def test_several_say_more_than_one() -> None:
    answers = [b'{"a/b": ["10.0.0.1:1"]}', b'{"a/b": ["10.0.0.2:1"], "a/c": ["10.0.0.1:1"]}']
    known = {str(name): set(table.by_key) for name, table in read_known(answers).items()}
    assert known == {"a/b": {"10.0.0.1:1", "10.0.0.2:1"}, "a/c": {"10.0.0.1:1"}}


def test_a_pool_whose_pods_have_not_been_listed_is_not_known() -> None:
    assert write_known(snapshots({PoolName("a", "b"): []}, synced=False)) == b"{}"


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b'{"a/b": 1}', b'{"a/b": [1]}', b"\xff", b"{" * 9999]
)
def test_what_is_no_answer_says_nothing(answer: bytes) -> None:
    assert read_known([answer]) == {}


@pytest.mark.parametrize(
    "text", ["model:80", "10.0.0.1", "10.0.0.1:0", "::ffff:10.0.0.1", "[::1%lo]:1"]
)
def test_what_is_no_endpoint_is_left_out(text: str) -> None:
    (table,) = read_known([f'{{"a/b": ["{text}", "10.0.0.2:1"]}}'.encode()]).values()
    assert set(table.by_key) == {"10.0.0.2:1"}
