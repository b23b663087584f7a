"""What is said of Gateways, classes, and the objects of several Gateways."""

from typing import Any

import pytest

from epp_client.controller.classes import bundle_version, class_problem, class_wanted, is_ours
from epp_client.controller.said import departed, join, run_wanted
from epp_client.controller.standing import Running, addresses_of, not_programmed
from epp_client.gateway.features import SUPPORTED
from epp_client.gateway.statuses import (
    Condition,
    GatewayStatus,
    ListenerStatus,
    ParentStatus,
    RouteStatus,
)
from epp_client.gateway.table import GatewayName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.resources import HTTP_ROUTE, INFERENCE_POOL
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.status.gateway_merge import Address, RouteWanted
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.subjects import Said, Subject
from epp_client.pool.inference_pool import PoolName

NOW = "2026-11-29T12:00:00Z"
OURS = "epp-client.dev/gateway"
TRUE = Condition("Accepted", "True", "Accepted")
DONE = Condition("Programmed", "True", "Programmed")
ROUTE = Subject(HTTP_ROUTE, "web", "r")


def _route(*gateways: str, generation: int = 1) -> Object:
    parents = [
        {"parentRef": {"name": name}, "controllerName": OURS, "conditions": []} for name in gateways
    ]
    return {
        "metadata": {"namespace": "web", "name": "r", "generation": generation},
        "status": {"parents": parents},
    }


def _said(gateway: str, data: Object, generation: int = 1) -> Said:
    status = RouteStatus(generation, (ParentStatus({"name": gateway}, (TRUE,)),))
    wanted = RouteWanted(Parent(GatewayName("web", gateway), OURS), status)
    return Said({ROUTE: data}, {ROUTE: wanted})


def _names(status: Any) -> list[str]:
    return [entry["parentRef"]["name"] for entry in status["parents"]]


# --- several Gateways ---


def test_a_route_of_two_gateways_gets_both_entries_in_one_write() -> None:
    data = _route()
    joined = join([_said("one", data), _said("two", data)])
    found = joined.wanted[ROUTE].merged(data, NOW)
    assert found.changed
    assert _names(found.status) == ["one", "two"]
    assert found.status["parents"][1]["conditions"][0]["observedGeneration"] == 1
    assert not joined.wanted[ROUTE].merged({**data, "status": found.status}, NOW).changed
    assert joined.wanted[ROUTE].summary() == "Accepted=True (Accepted); Accepted=True (Accepted)"


def test_a_gateway_that_has_not_seen_an_edit_says_nothing_of_the_route() -> None:
    data = _route(generation=2)
    joined = join([_said("one", data, 1), _said("two", data, 2)])
    assert joined.wanted[ROUTE].generation == 2
    assert _names(joined.wanted[ROUTE].merged(data, NOW).status) == ["two"]


def test_equal_wants_are_equal_so_that_nothing_is_compared_twice() -> None:
    data = _route()
    again = [join([_said("one", data), _said("two", data)]) for _ in range(2)]
    assert again[0].wanted == again[1].wanted


def test_entries_of_a_gateway_that_is_gone_are_removed_and_others_stay() -> None:
    known = [GatewayName("web", "there")]
    data = _route("gone", "there")
    foreign = {"parentRef": {"name": "gone"}, "controllerName": "other/c", "conditions": []}
    data["status"]["parents"].append(foreign)
    pool = {**data, "metadata": {**data["metadata"], "name": "p"}}
    routes, pools = {Key("web", "r"): data}, {PoolName("web", "p"): pool}
    said = departed(routes, pools, OURS, (), known)
    assert {*said.wanted} == {ROUTE, Subject(INFERENCE_POOL, "web", "p")}
    for subject, want in said.wanted.items():
        found = want.merged(said.objects[subject], NOW)
        assert [(e["parentRef"]["name"], e["controllerName"]) for e in found.status["parents"]] == [
            ("there", OURS),
            ("gone", "other/c"),
        ]


def test_entries_of_a_gateway_that_left_us_are_removed() -> None:
    there = GatewayName("web", "there")
    routes = {Key("web", "r"): _route("there")}
    assert not departed(routes, {}, OURS, (), [there]).wanted
    assert departed(routes, {}, OURS, [there], [there]).wanted


def test_entries_of_other_kinds_of_parents_are_left_alone() -> None:
    data = _route("gone")
    data["status"]["parents"][0]["parentRef"]["kind"] = "Service"
    assert not departed({Key("web", "r"): data}, {}, OURS, (), ()).wanted


# --- a Gateway ---


def _status() -> GatewayStatus:
    listener = ListenerStatus("http", ("HTTPRoute",), 0, (TRUE, DONE))
    return GatewayStatus(GatewayName("web", "edge"), 3, (TRUE, DONE), (listener,))


def _conditions(found: Any) -> dict[str, tuple[str, str]]:
    return {one["type"]: (one["status"], one["reason"]) for one in found["conditions"]}


def _gateway(**status: Any) -> Object:
    return {"metadata": {"namespace": "web", "name": "edge", "generation": 3}, "status": status}


def test_a_gateway_that_runs_is_programmed_and_has_its_addresses() -> None:
    address = Address("IPAddress", "192.0.2.1")
    found = run_wanted(_status(), (address,), None, "").merged(_gateway(), NOW).status
    assert _conditions(found)["Programmed"] == ("True", "Programmed")
    assert found["addresses"] == [{"type": "IPAddress", "value": "192.0.2.1"}]


def test_a_gateway_without_an_address_is_not_programmed_and_neither_are_its_listeners() -> None:
    why = Condition("Programmed", "False", "AddressNotAssigned", "no address")
    before = _gateway(addresses=[{"type": "IPAddress", "value": "192.0.2.1"}])
    wanted = run_wanted(_status(), (), why, "")
    found = wanted.merged(before, NOW).status
    assert _conditions(found)["Programmed"] == ("False", "AddressNotAssigned")
    assert _conditions(found["listeners"][0])["Programmed"] == ("False", "Pending")
    # An address that is not there any more goes.
    assert found["addresses"] == []
    assert not wanted.merged(_gateway(**found), NOW).changed


def test_wrong_parameters_are_not_accepted() -> None:
    wanted = run_wanted(_status(), (), None, "data.replicas: no")
    found = _conditions(wanted.merged(_gateway(), NOW).status)
    assert found["Accepted"] == ("False", "InvalidParameters")
    assert found["Programmed"] == ("False", "Invalid")
    assert (wanted.generation, "InvalidParameters" in wanted.summary()) == (3, True)


# --- what runs ---


def _service(kind: str, **more: Any) -> Object:
    status = {"loadBalancer": {"ingress": more.pop("ingress", [])}}
    return {
        "metadata": {"namespace": "web", "name": "edge"},
        "spec": {"type": kind, **more},
        "status": status,
    }


NODES = (
    {"status": {"addresses": [{"type": "InternalIP", "address": "10.0.0.1"}]}},
    {
        "status": {
            "addresses": [
                {"type": "InternalIP", "address": "10.0.0.2"},
                {"type": "ExternalIP", "address": "192.0.2.2"},
                {"type": "Hostname", "address": "node"},
            ]
        }
    },
)


@pytest.mark.parametrize(
    ("service", "nodes", "wanted"),
    [
        (None, (), ()),
        (_service("LoadBalancer"), (), ()),
        (
            _service(
                "LoadBalancer", ingress=[{"ip": "192.0.2.1"}, {"hostname": "lb.example.com"}, {}]
            ),
            (),
            (Address("IPAddress", "192.0.2.1"), Address("Hostname", "lb.example.com")),
        ),
        (
            _service("ClusterIP", clusterIPs=["10.1.0.1", "2001:db8::1"]),
            (),
            (Address("IPAddress", "10.1.0.1"), Address("IPAddress", "2001:db8::1")),
        ),
        (_service("ClusterIP", clusterIPs=["None"]), (), ()),
        (_service("NodePort"), NODES, (Address("IPAddress", "192.0.2.2"),)),
        (_service("NodePort"), NODES[:1], (Address("IPAddress", "10.0.0.1"),)),
        (_service("NodePort"), (), ()),
    ],
)
def test_addresses_are_those_of_the_service(
    service: Object | None, nodes: tuple[Object, ...], wanted: tuple[Address, ...]
) -> None:
    assert addresses_of(Running(service=service, nodes=nodes)) == wanted


def test_at_most_sixteen_addresses_each_once() -> None:
    ingress = [{"ip": f"192.0.2.{1 + number // 2}"} for number in range(60)]
    found = addresses_of(Running(service=_service("LoadBalancer", ingress=ingress)))
    assert (len(found), len(set(found))) == (16, 16)


def _deployment(available: int = 0) -> Object:
    status = {"availableReplicas": available} if available else {}
    return {"metadata": {"namespace": "web", "name": "edge"}, "status": status}


@pytest.mark.parametrize(
    ("running", "reason"),
    [
        (Running(problem="no right"), "Pending"),
        (Running(), "Pending"),
        (Running(_deployment(), _service("ClusterIP")), "NoResources"),
        (Running(_deployment(1), _service("LoadBalancer")), "AddressNotAssigned"),
    ],
)
def test_what_keeps_a_gateway_from_being_programmed_is_said(running: Running, reason: str) -> None:
    said = not_programmed(running)
    assert said is not None
    assert (said.status, said.reason, bool(said.message)) == ("False", reason, True)


def test_a_gateway_with_a_replica_and_an_address_is_programmed() -> None:
    assert (
        not_programmed(Running(_deployment(1), _service("ClusterIP", clusterIPs=["10.1.0.1"])))
        is None
    )


# --- GatewayClasses ---


def _class(**spec: Any) -> Object:
    return {
        "metadata": {"name": "epp-client", "generation": 2},
        "spec": {"controllerName": OURS, **spec},
    }


@pytest.mark.parametrize(
    ("version", "supported", "features"),
    [
        ("v1.6.1", "True", True),
        ("v1.3.0", "True", False),
        ("v0.8.0", "False", False),
        ("", "False", False),
        (None, "True", False),
    ],
)
def test_a_class_says_whether_the_crds_are_supported(
    version: str | None, supported: str, features: bool
) -> None:
    wanted = class_wanted(_class(), version)
    found = wanted.merged(_class(), NOW)
    said = {c["type"]: c for c in found.status["conditions"]}
    assert (said["Accepted"]["status"], said["Accepted"]["observedGeneration"]) == ("True", 2)
    assert said["SupportedVersion"]["status"] == supported
    names = [one["name"] for one in found.status.get("supportedFeatures", ())]
    # An older CRD would drop the field, and it would be written for ever.
    assert names == (list(SUPPORTED) if features else [])
    assert not wanted.merged({**_class(), "status": found.status}, NOW).changed
    assert (wanted.generation, "Accepted=True" in wanted.summary()) == (2, True)


def test_features_are_sorted_as_the_api_wants_them() -> None:
    assert list(SUPPORTED) == sorted(set(SUPPORTED))


def test_parameters_of_a_class_are_not_supported() -> None:
    data = _class(parametersRef={"group": "", "kind": "ConfigMap", "name": "x"})
    assert "infrastructure.parametersRef" in class_problem(data)
    [accepted, _] = class_wanted(data, "v1.6.1").wanted.conditions
    assert (accepted.status, accepted.reason) == ("False", "InvalidParameters")


def test_a_class_is_ours_by_its_controller_name() -> None:
    assert is_ours(_class(), OURS)
    assert not is_ours(_class(), "example.com/other")
    annotation = {"gateway.networking.k8s.io/bundle-version": "v1.6.1"}
    assert bundle_version({"metadata": {"annotations": annotation}}) == "v1.6.1"
    assert bundle_version({"metadata": {}}) == ""
