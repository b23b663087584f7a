"""From objects to snapshots: members, draining, the picker's addresses."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.pool.inference_pool import PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.pods import pod_facts
from epp_client.pool.resolve import Resolution, World, resolve
from epp_client.pool.settings import PoolSettings
from testbed.stack import inference_pool, pod, service

NAME = PoolName("default", "p")


def world(*pods: dict[str, Any], objects: list[dict[str, Any]] | None = None, **spec: Any) -> World:
    pool, _ = parse_inference_pool(
        inference_pool("p", 8000, "epp", "FailOpen", **spec), PoolSettings()
    )
    assert pool is not None
    found = service("epp", "10.1.0.1:9002") if objects is None else objects
    return World(
        {NAME: pool},
        [pod_facts(item) for item in pods],
        [o for o in found if o["kind"] == "Service"],
        [o for o in found if o["kind"] == "EndpointSlice"],
    )


def keys(resolution: Resolution) -> list[str]:
    return list(resolution.snapshots[NAME].table.by_key)


def test_members_are_ready_pods_times_ports() -> None:
    ports = [{"number": 8000}, {"number": 8001}]
    now = resolve(world(pod("a", "10.0.0.1"), pod("b", "fd00::0:1"), targetPorts=ports), None, 0)
    assert keys(now) == ["10.0.0.1:8000", "10.0.0.1:8001", "[fd00::1]:8000", "[fd00::1]:8001"]


@pytest.mark.parametrize(
    ("value", "ports"),
    [("8001", [8001]), ("", []), ("8001,9", [8001]), ("x", []), (None, [8000, 8001])],
)
def test_active_ports(value: str | None, ports: list[int]) -> None:
    member = pod("a", "10.0.0.1")
    if value is not None:
        member["metadata"]["annotations"] = {"inference.networking.k8s.io/active-ports": value}
    spec = [{"number": 8000}, {"number": 8001}]
    now = resolve(world(member, targetPorts=spec), None, 0)
    assert keys(now) == [f"10.0.0.1:{port}" for port in ports]


@pytest.mark.parametrize(
    ("selector", "able"),
    [(None, ["10.0.0.2:8000", "10.0.0.3:8000"]), ("llm-d.ai/role", ["10.0.0.1:8000", "10.0.0.2:8000"]),
     ("", ["10.0.0.1:8000", "10.0.0.2:8000", "10.0.0.3:8000"]), ("role=x", [])],
)  # fmt: skip
def test_who_cannot_answer_alone_is_a_member_and_no_local_pick(
    selector: str | None, able: list[str]
) -> None:
    pods = [pod(name, f"10.0.0.{n}") for n, name in enumerate("abc", 1)]
    pods[0]["metadata"]["labels"]["llm-d.ai/role"] = "prefill"
    pods[1]["metadata"]["labels"]["llm-d.ai/role"] = "decode"
    key = "epp-client.dev/local-pick-selector"
    found = world(*pods, annotations={} if selector is None else {key: selector})
    now = resolve(found, None, 0)
    table = now.snapshots[NAME].table
    assert [endpoint.key for endpoint in table.local] == able
    assert len(table.ready) == len(table.by_key) == 3
    assert resolve(found, now, 1).snapshots[NAME].table is table


def test_a_member_that_stops_being_ready_drains_and_then_goes() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    sick = world(pod("a", "10.0.0.1", ready=False))
    second = resolve(sick, first, 10)
    assert keys(second) == ["10.0.0.1:8000"]
    assert second.snapshots[NAME].table.ready == ()
    assert second.next_change == 15
    assert second.snapshots[NAME].table.generation == first.snapshots[NAME].table.generation
    third = resolve(sick, second, 15)
    assert keys(third) == []
    assert third.snapshots[NAME].table.generation == 2


def test_a_pod_that_is_deleted_while_it_drains_goes_at_once() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    second = resolve(world(pod("a", "10.0.0.1", ready=False)), first, 1)
    assert keys(resolve(world(), second, 2)) == []


LEAVING = {
    "the selector": lambda: world(
        pod("a", "10.0.0.1"), selector={"matchLabels": {"app": "model", "tier": "new"}}
    ),
    "the ports": lambda: world(pod("a", "10.0.0.1"), targetPorts=[{"number": 8001}]),
    "a label": lambda: world(
        pod("a", "10.0.0.1") | {"metadata": {"name": "a", "labels": {"app": "quarantine"}}}
    ),
    # What the change of a label looks like to a watch by labels.
    "the Pod": lambda: world(),
}


@pytest.mark.parametrize("what", LEAVING)
def test_a_ready_member_that_is_none_any_more_drains_as_the_picker_may_not_know_yet(
    what: str,
) -> None:
    now = LEAVING[what]()
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    second = resolve(now, first, 1)
    assert "10.0.0.1:8000" in keys(second)
    assert "10.0.0.1:8000" not in {e.key for e in second.snapshots[NAME].table.ready}
    assert second.next_change == 6
    again = resolve(now, second, 3)
    assert again.snapshots == second.snapshots
    assert again.next_change == 6
    assert "10.0.0.1:8000" not in keys(resolve(now, again, 6))


def test_an_endpoint_that_left_and_comes_back_is_ready_again() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    back = resolve(world(pod("a", "10.0.0.1")), resolve(world(), first, 1), 2)
    assert [e.key for e in back.snapshots[NAME].table.ready] == ["10.0.0.1:8000"]
    assert back.next_change is None
    assert back.snapshots[NAME].table.generation == 1


def test_an_address_that_another_pod_has_by_now_does_not_drain() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    foreign = pod("b", "10.0.0.1") | {"metadata": {"name": "b", "labels": {"app": "other"}}}
    assert keys(resolve(world(foreign), first, 1)) == []


def test_a_pod_that_never_was_ready_is_no_member() -> None:
    assert keys(resolve(world(pod("a", "10.0.0.1", ready=False)), None, 0)) == []


def test_a_terminating_pod_drains() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    leaving = pod("a", "10.0.0.1")
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
    assert resolve(world(leaving), first, 1).snapshots[NAME].table.ready == ()


def test_an_endpoint_keeps_the_generation_it_came_with() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    second = resolve(world(pod("a", "10.0.0.1"), pod("b", "10.0.0.2")), first, 1)
    table = second.snapshots[NAME].table
    assert [endpoint.since for endpoint in table.by_key.values()] == [1, 2]


def test_the_picker_is_found_through_its_slices() -> None:
    picker = resolve(world(), None, 0).snapshots[NAME].picker
    assert picker is not None
    assert picker.addresses == ("10.1.0.1:9002",)
    assert picker.server_name == "epp.default.svc"


def test_the_picker_is_found_through_the_selector_without_slices() -> None:
    [svc, _] = service("epp", "10.1.0.1:9002")
    svc["spec"] = {"selector": {"app": "epp"}, "ports": [{"port": 9002, "targetPort": "grpc"}]}
    runs = pod("epp-0", "10.1.0.7")
    runs["metadata"]["labels"] = {"app": "epp"}
    runs["spec"] = {"containers": [{"ports": [{"name": "grpc", "containerPort": 9999}]}]}
    picker = resolve(world(runs, objects=[svc]), None, 0).snapshots[NAME].picker
    assert picker is not None
    assert picker.addresses == ("10.1.0.7:9999",)


def external() -> list[dict[str, Any]]:
    [svc, piece] = service("epp", "10.1.0.1:9002")
    svc["spec"]["type"] = "ExternalName"
    return [svc, piece]


def other_port() -> list[dict[str, Any]]:
    [svc, piece] = service("epp", "10.1.0.1:9002")
    svc["spec"]["ports"][0]["port"] = 1
    return [svc, piece]


def not_ready() -> list[dict[str, Any]]:
    [svc, piece] = service("epp", "10.1.0.1:9002")
    piece["endpoints"][0]["conditions"]["ready"] = False
    return [svc, piece]


@pytest.mark.parametrize(
    ("objects", "problem"),
    [
        ([], "does not exist"),
        (external(), "ExternalName"),
        (other_port(), "has no port 9002"),
        (not_ready(), "no ready address"),
    ],
)
def test_why_a_picker_is_not_resolved(objects: list[dict[str, Any]], problem: str) -> None:
    picker = resolve(world(objects=objects), None, 0).snapshots[NAME].picker
    assert picker is not None
    assert picker.problem is not None
    assert problem in picker.problem


def leaving(*, serving: bool, both: bool) -> list[dict[str, Any]]:
    [svc, piece] = service("epp", "10.1.0.1:9002")
    old = {"ready": False, "serving": serving, "terminating": True}
    gone = {"addresses": ["10.1.0.9"], "conditions": old}
    piece["endpoints"] = [gone, *piece["endpoints"]] if both else [gone]
    return [svc, piece]


@pytest.mark.parametrize(
    ("serving", "both", "addresses"),
    [(True, False, ("10.1.0.9:9002",)), (True, True, ("10.1.0.1:9002",)), (False, False, ())],
)
def test_a_terminating_picker_is_the_last_resort(
    serving: bool, both: bool, addresses: tuple[str, ...]
) -> None:
    objects = leaving(serving=serving, both=both)
    picker = resolve(world(objects=objects), None, 0).snapshots[NAME].picker
    assert picker is not None
    assert picker.addresses == addresses


@pytest.mark.parametrize(
    "ref", [{"kind": "Other"}, {"group": "example.com"}], ids=["kind", "group"]
)
def test_a_picker_of_another_kind_is_not_resolved(ref: dict[str, Any]) -> None:
    known = world()
    pool = known.pools[NAME]
    assert pool.picker is not None
    foreign = replace(pool, picker=replace(pool.picker, **ref))
    picker = resolve(replace(known, pools={NAME: foreign}), None, 0).snapshots[NAME].picker
    assert picker is not None
    assert "is not supported" in (picker.problem or "")


def test_an_address_that_passes_to_a_pod_that_never_was_ready_does_not_drain() -> None:
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    assert keys(resolve(world(pod("b", "10.0.0.1", ready=False)), first, 1)) == []


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_pods_with_one_address_the_ready_one_wins(turned: bool) -> None:
    pods = [pod("a", "10.0.0.1", ready=False), pod("b", "10.0.0.1")]
    first = resolve(world(pod("a", "10.0.0.1")), None, 0)
    now = resolve(world(*(reversed(pods) if turned else pods)), first, 1)
    [endpoint] = now.snapshots[NAME].table.ready
    assert endpoint.pod == "b"
    assert now.problems == ()
    assert now.next_change is None


def test_two_ready_pods_with_one_address_are_reported_and_the_first_to_come_stays() -> None:
    first = resolve(world(pod("b", "10.0.0.1")), None, 0)
    now = resolve(world(pod("a", "10.0.0.1"), pod("b", "10.0.0.1")), first, 1)
    assert now.snapshots[NAME].table.by_key["10.0.0.1:8000"].pod == "b"
    assert "10.0.0.1:8000" in now.problems[0].text


# What one Pod is at one moment: absent, not ready, ready, terminating.
moments = st.lists(
    st.tuples(
        st.dictionaries(st.integers(1, 4), st.sampled_from(["sick", "ready", "leaving"])),
        st.floats(0.1, 4),
    ),
    min_size=1,
    max_size=8,
)


def pods_of(states: dict[int, str]) -> list[dict[str, Any]]:
    found = []
    for number, state in states.items():
        item = pod(f"pod-{number}", f"fd00::{number}", ready=state != "sick")
        if state == "leaving":
            item["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        found.append(item)
    return found


@given(moments)
def test_tables_follow_the_pods_through_any_history(
    history: list[tuple[dict[int, str], float]],
) -> None:
    last: Resolution | None = None
    left: dict[int, float] = {}
    served: set[int] = set()
    before_ready: set[int] = set()
    vanished: set[int] = set()
    now = 0.0
    for states, pause in history:
        now += pause
        # A Pod that was ready and is absent drains; one that drained and is absent is gone.
        vanished = {n for n in vanished | before_ready if n not in states}
        left = {
            n: at for n, at in left.items() if n in vanished or states.get(n, "ready") != "ready"
        }
        for number in served:
            if number in vanished or states.get(number, "ready") != "ready":
                left.setdefault(number, now)
        draining = {n for n, at in left.items() if n in served and now < at + 5}
        ready = {number for number, state in states.items() if state == "ready"}
        then = resolve(world(*pods_of(states)), last, now)
        table = then.snapshots[NAME].table
        assert set(table.by_key) == {f"[fd00::{n}]:8000" for n in ready | draining}
        assert {e.key for e in table.ready} == {f"[fd00::{n}]:8000" for n in ready}
        assert all(1 <= e.since <= table.generation for e in table.by_key.values())
        assert then.next_change == min((left[n] + 5 for n in draining), default=None)
        if last is not None:
            before = last.snapshots[NAME].table
            moved = set(before.by_key) != set(table.by_key)
            assert table.generation == before.generation + moved
            for key in before.by_key.keys() & table.by_key.keys():
                assert table.by_key[key].since == before.by_key[key].since
        again = resolve(world(*pods_of(states)), then, now)
        assert again.snapshots == then.snapshots
        last, served, before_ready = then, ready | draining, ready
        left = {n: at for n, at in left.items() if n in served}


def dual_stack(name: str, *ips: str) -> dict[str, Any]:
    made = pod(name, ips[0])
    made["status"]["podIPs"] = [{"ip": ip} for ip in ips]
    return made


def test_every_address_of_a_pod_is_a_member_and_the_first_one_alone_is_picked_locally() -> None:
    both = world(dual_stack("a", "10.0.0.1", "fd00::0:1"), pod("b", "10.0.0.2"))
    table = resolve(both, None, 0).snapshots[NAME].table
    assert [*table.by_key] == ["10.0.0.1:8000", "10.0.0.2:8000", "[fd00::1]:8000"]
    assert [endpoint.key for endpoint in table.ready] == ["10.0.0.1:8000", "10.0.0.2:8000"]
    assert table.draining == 0
    assert table.by_key["[fd00::1]:8000"].pod == "a"


def test_a_pod_whose_addresses_change_places_is_picked_by_the_one_that_is_first_now() -> None:
    first = resolve(world(dual_stack("a", "10.0.0.1", "fd00::1")), None, 0)
    turned = resolve(world(dual_stack("a", "fd00::1", "10.0.0.1")), first, 1)
    table = turned.snapshots[NAME].table
    assert table.generation == 1
    assert [endpoint.key for endpoint in table.ready] == ["[fd00::1]:8000"]


def test_all_addresses_of_a_pod_drain_together() -> None:
    first = resolve(world(dual_stack("a", "10.0.0.1", "fd00::1")), None, 0)
    sick = dual_stack("a", "10.0.0.1", "fd00::1")
    sick["status"]["conditions"][0]["status"] = "False"
    second = resolve(world(sick), first, 1)
    assert second.snapshots[NAME].table.draining == 2
    assert keys(resolve(world(sick), second, 6)) == []


@pytest.mark.parametrize("containers", ["containers", "initContainers"])
def test_a_named_port_is_found_in_native_sidecars_as_well(containers: str) -> None:
    def container(protocol: str, port: int, **more: str) -> dict[str, Any]:
        ports = [{"name": "grpc", "containerPort": port, "protocol": protocol}]
        return {"name": protocol, "ports": ports, **more}

    always = {"restartPolicy": "Always"} if containers == "initContainers" else {}
    member = pod("epp", "10.0.0.9")
    member["metadata"]["labels"] = {"app": "epp"}
    # one that has ended by now
    member["spec"] = {"initContainers": [container("TCP", 1)]}
    member["spec"].setdefault(containers, [])
    member["spec"][containers] += [container("UDP", 2), container("TCP", 9002, **always)]
    picker, _ = service("epp", "10.1.0.1:9002")
    picker["spec"] |= {
        "selector": {"app": "epp"},
        "ports": [
            {"name": "u", "port": 9002, "protocol": "UDP", "targetPort": 7},
            {"name": "t", "port": 9002, "targetPort": "grpc"},
        ],
    }
    found = resolve(world(member, objects=[picker]), None, 0).snapshots[NAME].picker
    assert found is not None
    assert found.addresses == ("10.0.0.9:9002",)


def test_a_picker_s_port_is_one_of_tcp() -> None:
    picker, slices = service("epp", "10.1.0.1:9002")
    picker["spec"]["ports"] = [
        {"port": 9002, "protocol": "UDP"},
        {"name": "a", "port": 9003},
        {"name": "b", "port": 9004},
    ]
    found = resolve(world(objects=[picker, slices]), None, 0).snapshots[NAME].picker
    assert found is not None
    assert found.problem == (
        "Service default/epp has no port 9002 for TCP; the ports are 9003, 9004"
    )
