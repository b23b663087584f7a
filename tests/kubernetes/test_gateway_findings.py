"""Of which objects of a Gateway something is said, and when nothing may be said yet."""

from typing import Any

from epp_client.gateway.statuses import (
    Condition,
    GatewayStatus,
    ParentStatus,
    RouteName,
    RouteStatus,
    Statuses,
)
from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.client.resources import GATEWAY, GATEWAY_CLASS, HTTP_ROUTE
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.status.gateway_findings import GatewayFacts, said_of_gateway
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.subjects import Said, Subject

EDGE = GatewayName("infra", "edge")
ME = Parent(EDGE, "epp-client.dev/gateway")
CHAT = Key("apps", "chat")
SUBJECT = Subject(HTTP_ROUTE, "apps", "chat")
PROGRAMMED = (Condition("Programmed", "True", "Programmed"),)
STATUS = GatewayStatus(EDGE, 2, PROGRAMMED)
SERVED = Statuses(STATUS)


def data(name: str, *parents: dict[str, Any], generation: int = 2) -> dict[str, Any]:
    metadata = {"name": name, "generation": generation}
    return {"metadata": metadata, "status": {"parents": list(parents)}}


OURS = {
    "parentRef": {"name": "edge", "namespace": "infra"},
    "controllerName": ME.controller,
}


def said(
    routes: dict[Key, Any] | None = None,
    *,
    statuses: Statuses | None = SERVED,
    resolved: dict[Key, int] | None = None,
    acknowledged: bool | None = True,
) -> Said:
    known = resolved or {}
    facts = GatewayFacts(statuses, data("edge"), data("epp"), routes or {}, known.get, acknowledged)
    return said_of_gateway(facts, ME)


def test_the_class_and_the_gateway_come_first() -> None:
    status = RouteStatus(2, (ParentStatus({"name": "edge"}, ()),))
    found = said({CHAT: data("chat")}, statuses=Statuses(STATUS, {RouteName(*CHAT): status}))
    assert [subject.resource for subject in found.wanted] == [GATEWAY_CLASS, GATEWAY, HTTP_ROUTE]
    assert [*map(str, found.wanted)] == [
        "GatewayClass epp",
        "Gateway infra/edge",
        "HTTPRoute apps/chat",
    ]
    assert {want.generation for want in found.wanted.values()} == {2}


def test_programmed_waits_for_envoy() -> None:
    def programmed(acknowledged: bool | None) -> Any:
        want = said(acknowledged=acknowledged).wanted.get(Subject(GATEWAY, *EDGE))
        return want and want.merged(data("edge"), "now").status["conditions"][0]["status"]

    assert [programmed(True), programmed(False), programmed(None)] == ["True", "False", None]


def test_an_entry_of_a_route_that_refers_to_the_gateway_no_more_goes() -> None:
    found = said({CHAT: data("chat", OURS)}, resolved={CHAT: 2})
    assert found.wanted[SUBJECT].merged(data("chat", OURS), "now").status == {"parents": []}
    assert found.wanted[SUBJECT].generation == 2


def test_a_route_without_our_entry_is_no_matter_of_ours() -> None:
    assert SUBJECT not in said({CHAT: data("chat")}, resolved={CHAT: 2}).wanted


def test_of_a_route_that_is_not_resolved_nothing_is_said() -> None:
    assert SUBJECT not in said({CHAT: data("chat", OURS)}).wanted


def test_of_a_gateway_that_is_gone_only_the_entries_are_removed() -> None:
    found = said({CHAT: data("chat", OURS)}, statuses=None)
    assert [*found.wanted] == [SUBJECT]
