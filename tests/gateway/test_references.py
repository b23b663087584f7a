"""What backendRefs refer to, and what a bad one costs: status 500 for its share of the requests."""

from typing import Any

import pytest

from epp_client.gateway.table import Backend, Forward, Service, ServicePort
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.pods import PodFacts, pod_facts
from tests.gateway.objects import (
    POOL,
    POOL_REF,
    grant,
    resolve,
    route,
    rows,
    rule,
    said,
    service,
    slices,
)

WEB = {"name": "web", "port": 80}
WEB_PORT = ServicePort("default", "web", 80)
PORT = {"port": 80, "targetPort": 3000}


def backends(found: Any) -> tuple[Backend, ...]:
    [entry] = rows(found.table)
    assert isinstance(entry.action, Forward)
    return entry.action.backends


def test_a_pool_needs_no_port_and_ignores_one() -> None:
    for reference in (POOL_REF, {**POOL_REF, "port": 1234}):
        found = resolve(route(rule(to=[reference])))
        assert backends(found) == (Backend(POOL),)
        assert said(found)["ResolvedRefs"].status == "True"
        assert found.references.services == frozenset()


def test_a_service_has_the_ready_addresses_behind_its_port() -> None:
    found = resolve(
        route(rule(to=[WEB])),
        services={("default", "web"): service(80)},
        slices={("default", "web"): slices("10.0.0.2", "10.0.0.1")},
    )
    assert backends(found) == (Backend(WEB_PORT),)
    assert found.table.services == {WEB_PORT: Service((("10.0.0.1", 3000), ("10.0.0.2", 3000)))}
    assert found.references.services == {("default", "web")}


def test_a_service_without_an_address_is_resolved() -> None:
    found = resolve(route(rule(to=[WEB])), services={("default", "web"): service(80)})
    assert said(found)["ResolvedRefs"].status == "True"
    assert found.table.services == {WEB_PORT: Service()}


@pytest.mark.parametrize(
    ("said_protocol", "protocol"),
    [
        ("kubernetes.io/h2c", AppProtocol.H2C),
        ("grpc", AppProtocol.H2C),
        ("kubernetes.io/ws", AppProtocol.HTTP),
        ("http", AppProtocol.HTTP),
        ("example.org/own", AppProtocol.HTTP),
    ],
)
def test_the_ports_protocol_is_used(said_protocol: str, protocol: AppProtocol) -> None:
    found = resolve(
        route(rule(to=[WEB])),
        services={("default", "web"): service(80, appProtocol=said_protocol)},
    )
    assert found.table.services[WEB_PORT].app_protocol is protocol


@pytest.mark.parametrize(
    ("reference", "services", "reason"),
    [
        ({**POOL_REF, "name": "gone"}, {}, "BackendNotFound"),
        (WEB, {}, "BackendNotFound"),
        (WEB, {("default", "web"): service(81)}, "BackendNotFound"),
        ({"name": "web"}, {("default", "web"): service(80)}, "BackendNotFound"),
        (WEB, {("default", "web"): service(80, protocol="UDP")}, "BackendNotFound"),
        (WEB, {("default", "web"): service(80, appProtocol="https")}, "UnsupportedProtocol"),
        (WEB, {("default", "web"): {"spec": {"type": "ExternalName"}}}, "InvalidKind"),
        ({**WEB, "kind": "Pod"}, {}, "InvalidKind"),
        ({**POOL_REF, "group": "example.org"}, {}, "InvalidKind"),
        ({**WEB, "namespace": "away"}, {("away", "web"): service(80)}, "RefNotPermitted"),
        ({**POOL_REF, "namespace": "away"}, {}, "RefNotPermitted"),
    ],
)
def test_a_bad_reference_is_said_and_its_requests_get_500(
    reference: dict[str, Any], services: dict[tuple[str, str], Any], reason: str
) -> None:
    found = resolve(
        route(rule(to=[reference, POOL_REF])),
        services=services,
        pools=[POOL, PoolName("away", "llama")],
    )
    condition = said(found)["ResolvedRefs"]
    assert (condition.status, condition.reason) == ("False", reason)
    assert condition.message.startswith("spec.rules[0].backendRefs[0]: ")
    assert said(found)["Accepted"].status == "True"
    assert backends(found) == (Backend(None), Backend(POOL))
    [problem] = found.problems
    assert (problem.subject, problem.field) == (
        "HTTPRoute default/chat",
        "spec.rules[0].backendRefs[0]",
    )
    # What is not permitted is not watched either.
    assert ("away", "web") not in found.references.services


@pytest.mark.parametrize(
    ("granted", "permitted"),
    [
        (grant("away", "default", kind="Service"), True),
        (grant("away", "default", kind="Service", name="web"), True),
        (grant("away", "default", kind="Service", name="other"), False),
        (grant("away", "default", kind="Secret"), False),
        (grant("away", "default", group="apps", kind="Service"), False),
        (grant("away", "third", kind="Service"), False),
        (grant("away", "default", source_kind="GRPCRoute", kind="Service"), False),
        (grant("third", "default", kind="Service"), False),
        ({"metadata": {"name": "broken"}}, False),
    ],
)
def test_a_grant_permits_what_it_says(granted: dict[str, Any], permitted: bool) -> None:
    found = resolve(
        route(rule(to=[{**WEB, "namespace": "away"}])),
        services={("away", "web"): service(80)},
        grants=[granted],
    )
    assert (said(found)["ResolvedRefs"].status == "True") is permitted


def test_a_pool_of_another_namespace_needs_a_grant_for_pools() -> None:
    found = resolve(
        route(rule(to=[{**POOL_REF, "namespace": "away"}])),
        pools=[PoolName("away", "llama")],
        grants=[
            grant("away", "default", group="inference.networking.k8s.io", kind="InferencePool")
        ],
    )
    assert backends(found) == (Backend(PoolName("away", "llama")),)


def test_backends_of_weight_0_get_nothing_and_are_resolved_all_the_same() -> None:
    found = resolve(route(rule(to=[{**POOL_REF, "weight": 0}, {**WEB, "weight": 0}])))
    assert backends(found) == ()
    assert said(found)["ResolvedRefs"].reason == "BackendNotFound"


def test_a_rule_without_backends_has_none() -> None:
    assert backends(resolve(route(rule(to=[])))) == ()


def test_several_pools_and_services_share_a_rule_by_weight() -> None:
    found = resolve(
        route(
            rule(
                to=[
                    {**POOL_REF, "weight": 70},
                    {**POOL_REF, "name": "qwen", "weight": 29},
                    {**WEB, "weight": 1},
                ]
            )
        ),
        pools=[POOL, PoolName("default", "qwen")],
        services={("default", "web"): service(80)},
    )
    assert [(backend.target, backend.weight) for backend in backends(found)] == [
        (POOL, 70),
        (PoolName("default", "qwen"), 29),
        (WEB_PORT, 1),
    ]


def test_only_services_that_are_served_are_in_the_table() -> None:
    found = resolve(
        route(rule(to=[{**WEB, "weight": 0}])),
        services={("default", "web"): service(80)},
    )
    assert found.table.services == {}


def pod(namespace: str, ip: str) -> PodFacts:
    status = {"podIP": ip, "conditions": [{"type": "Ready", "status": "True"}]}
    metadata = {"name": ip, "namespace": namespace, "labels": {"app": "web"}}
    return pod_facts({"metadata": metadata, "status": status})


def test_without_slices_a_service_selects_among_the_pods_of_its_namespace_alone() -> None:
    found = resolve(
        route(rule(to=[WEB])),
        services={("default", "web"): {"spec": {"selector": {"app": "web"}, "ports": [PORT]}}},
        pods=[pod("default", "10.0.0.1"), pod("away", "10.0.0.2")],
    )
    assert found.table.services[WEB_PORT].endpoints == (("10.0.0.1", 3000),)
