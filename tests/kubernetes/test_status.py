"""The three conditions: each reason by the cause that leads to it."""

from typing import Any

import pytest

from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.conditions import (
    EXPORT_ANNOTATION,
    MAX_MESSAGE,
    PoolFacts,
    Relation,
    conditions,
    export_of,
)
from epp_client.kubernetes.status.routes import RouteVerdict, Verdict
from epp_client.pool.inference_pool import PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.problems import Fault
from epp_client.pool.resolve import World, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget
from testbed.stack import inference_pool, service

GATEWAY = GatewayName("infra", "edge")
PICKER = PickerTarget(("10.1.0.1:9002",), "epp.default.svc")
NAMED = Relation(named=True)


def by(*verdicts: Verdict, named: bool = False) -> Relation:
    routes = [
        RouteVerdict(
            f"apps/{verdict.value}", verdict, "No: m" if verdict is Verdict.REJECTED else ""
        )
        for verdict in verdicts
    ]
    return Relation(tuple(routes), named)


def facts(*objects: dict[str, Any], **spec: Any) -> PoolFacts:
    """The facts about a pool, found as the sidecar finds them."""
    picker = spec.pop("picker", "epp")
    data = inference_pool("p", 8000, picker, "FailOpen", **spec)
    pool, faults = parse_inference_pool(data, PoolSettings())
    target = None
    if pool is not None:
        found = list(objects or service("epp", "10.1.0.1:9002"))
        services = [item for item in found if item["kind"] == "Service"]
        slices = [item for item in found if item["kind"] == "EndpointSlice"]
        world = World({pool.name: pool}, services=services, slices=slices)
        target = resolve(world, None, 0).snapshots[PoolName("default", "p")].picker
    return PoolFacts(tuple(faults), target, export_of(data))


def told(facts: PoolFacts, relation: Relation = NAMED) -> dict[str, tuple[str, str, str]]:
    found = conditions(facts, relation, GATEWAY)
    return {c.type: (c.status, str(c.reason), c.message) for c in found}


@pytest.mark.parametrize(
    ("relation", "status", "reason", "words"),
    [
        (NAMED, "True", "Accepted", "Served for Gateway infra/edge"),
        (by(Verdict.ACCEPTED), "True", "Accepted", "Served for Gateway infra/edge"),
        (
            by(Verdict.REJECTED),
            "False",
            "HTTPRouteNotAccepted",
            "Not accepted by Gateway infra/edge: HTTPRoute apps/rejected (No: m)",
        ),
        (
            by(Verdict.PENDING),
            "Unknown",
            "Pending",
            "Not yet judged by Gateway infra/edge: HTTPRoute apps/pending",
        ),
        # Requests come through one route: another, rejected one is worth a word and no more.
        (by(Verdict.ACCEPTED, Verdict.REJECTED), "True", "Accepted", "apps/rejected (No: m)"),
        (by(Verdict.REJECTED, named=True), "True", "Accepted", "apps/rejected (No: m)"),
        (by(Verdict.REJECTED, Verdict.PENDING), "Unknown", "Pending", "apps/rejected (No: m)"),
    ],
)
def test_accepted_follows_the_routes(
    relation: Relation, status: str, reason: str, words: str
) -> None:
    found = told(PoolFacts(picker=PICKER), relation)["Accepted"]
    assert found[:2] == (status, reason)
    assert words in found[2]


@pytest.mark.parametrize(
    "spec",
    [
        {"appProtocol": "kubernetes.io/h3"},
        {"targetPorts": [{"number": 8000 + index} for index in range(9)]},
    ],
)
def test_what_a_newer_api_allows_and_we_cannot_serve_is_not_supported(spec: Any) -> None:
    found = told(facts(**spec), by(Verdict.ACCEPTED))
    assert found["Accepted"][:2] == ("False", "NotSupportedByParent")
    assert f"spec.{next(iter(spec))}: " in found["Accepted"][2]
    assert found["ResolvedRefs"][:2] == ("Unknown", "Pending")


def test_a_picker_reference_that_cannot_be_read_is_both_not_supported_and_invalid() -> None:
    found = told(facts(endpointPickerRef={"name": "epp"}, picker=None))
    assert found["Accepted"][:2] == ("False", "NotSupportedByParent")
    assert found["ResolvedRefs"][:2] == ("False", "InvalidExtensionRef")
    assert "spec.endpointPickerRef.port" in found["ResolvedRefs"][2]


def test_a_pool_without_a_picker_is_accepted_and_says_who_picks() -> None:
    found = told(facts(picker=None))
    assert found["Accepted"][:2] == ("True", "Accepted")
    assert "less loaded of two" in found["Accepted"][2]
    assert found["ResolvedRefs"][:2] == ("True", "ResolvedRefs")


def test_a_bad_annotation_is_told_and_the_pool_accepted() -> None:
    found = told(facts(annotations={"epp-client.dev/pick-timeout": "soon"}))["Accepted"]
    assert found[:2] == ("True", "Accepted")
    assert "'soon' is not a duration" in found[2]


SERVICE, SLICE = service("epp", "10.1.0.1:9002")
EXTERNAL = {**SERVICE, "spec": {"type": "ExternalName", "externalName": "example.com"}}
NO_PORT = {**SERVICE, "spec": {"ports": [{"port": 9003}]}}
REF = {"name": "epp", "port": {"number": 9002}}


@pytest.mark.parametrize(
    ("objects", "ref", "words"),
    [
        ([SLICE], REF, "Service default/epp does not exist"),
        ([EXTERNAL], REF, "ExternalName"),
        ([NO_PORT], REF, "has no port 9002"),
        ([SERVICE], REF | {"kind": "Deployment", "group": "apps"}, "kind apps/Deployment"),
        ([SERVICE], REF | {"kind": "Pod"}, "kind Pod is not supported"),
    ],
)
def test_a_reference_that_leads_nowhere_is_invalid(
    objects: list[dict[str, Any]], ref: dict[str, Any], words: str
) -> None:
    found = told(facts(*objects, picker=None, endpointPickerRef=ref))
    assert found["ResolvedRefs"][:2] == ("False", "InvalidExtensionRef")
    assert words in found["ResolvedRefs"][2]
    assert found["Accepted"][0] == "True"


def test_a_picker_that_is_down_is_still_a_resolved_reference() -> None:
    found = told(facts(SERVICE))["ResolvedRefs"]
    assert found == ("True", "ResolvedRefs", "The endpoint picker is epp.default.svc")


def test_what_comes_and_goes_with_pods_changes_no_message() -> None:
    assert told(facts(SERVICE)) == told(facts(SERVICE, SLICE))


@pytest.mark.parametrize(
    ("annotations", "reason", "words"),
    [
        ({}, "NotRequested", EXPORT_ANNOTATION),
        ({EXPORT_ANNOTATION: ""}, "NotRequested", EXPORT_ANNOTATION),
        ({EXPORT_ANNOTATION: "ClusterSet"}, "NotSupported", "'ClusterSet'"),
        ({EXPORT_ANNOTATION: "Moon"}, "NotSupported", "'Moon'"),
    ],
)
def test_exported(annotations: dict[str, str], reason: str, words: str) -> None:
    found = told(facts(annotations=annotations))["Exported"]
    assert found[:2] == ("False", reason)
    assert words in found[2]


def test_messages_are_bounded() -> None:
    routes = tuple(RouteVerdict(f"apps/{i}", Verdict.REJECTED, "x" * 900) for i in range(40))
    found = conditions(PoolFacts(), Relation(routes), GATEWAY)
    assert all(len(condition.message) <= MAX_MESSAGE for condition in found)
    many = conditions(PoolFacts((Fault((), "y" * 5000),)), NAMED, GATEWAY)
    assert all(len(condition.message) <= MAX_MESSAGE for condition in many)


def test_of_many_routes_some_are_shown() -> None:
    routes = tuple(RouteVerdict(f"apps/{i}", Verdict.PENDING) for i in range(40))
    text = conditions(PoolFacts(), Relation(routes), GATEWAY)[0].message
    assert text.endswith("HTTPRoute apps/4, and 35 more")
