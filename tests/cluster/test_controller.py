"""The controller under exactly the rights of config/kubernetes/controller, against a real API server.
Nothing else runs there: no garbage collector, so what is deleted here the controller has deleted."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from epp_client.controller.operator import Operator
from epp_client.controller.pages import Pages
from epp_client.gateway.features import SUPPORTED
from testbed.cluster import objects
from testbed.cluster.api import Api, ApiError, Object
from testbed.cluster.control_plane import ControlPlane
from tests.cluster.controlled import (
    ACCOUNT,
    BASIC,
    BINDING,
    NAME,
    PATIENCE,
    SYSTEM,
    World,
    conditions,
    controlling,
)
from tests.cluster.kustomize import CONFIG, render
from tests.cluster.pods import until

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def account(
    plane: ControlPlane, api: Api, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Path]:
    """The manifests are applied; the kubeconfig of the controller's ServiceAccount."""
    items = render(CONFIG / "controller")
    await api.apply([item for item in items if item["kind"] != "Deployment"])
    identity = await plane.service_account(api, SYSTEM, ACCOUNT)
    yield identity.write(tmp_path_factory.mktemp("controller") / "kubeconfig")
    for item in items:
        if item["kind"] in ("GatewayClass", "ClusterRoleBinding"):
            await api.delete(item)


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def operator(account: Path) -> AsyncIterator[Operator]:
    async with controlling(account) as running:
        yield running


@pytest_asyncio.fixture(loop_scope="session")
async def world(api: Api) -> AsyncIterator[World]:
    namespace = f"test-{secrets.token_hex(3)}"
    await api.create(objects.namespace(namespace))
    made = World(api, namespace)
    yield made
    for name in ("edge", "other"):
        try:
            await api.delete(objects.gateway(name, namespace=namespace))
        except ApiError as error:
            if error.status != 404:
                raise


def _class() -> Object:
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": "epp-client"},
    }


async def test_a_class_is_accepted(operator: Operator, api: Api) -> None:
    found = await until(api, _class(), lambda data: conditions(data)[0]["reason"] == "Accepted")
    said = {c["type"]: c for c in conditions(found)}
    assert said["Accepted"]["observedGeneration"] == found["metadata"]["generation"]
    assert said["SupportedVersion"]["status"] == "True"
    assert "v1." in said["SupportedVersion"]["message"]
    assert [one["name"] for one in found["status"]["supportedFeatures"]] == list(SUPPORTED)


async def test_a_gateway_gets_its_objects_and_is_programmed_once_they_run(
    operator: Operator, world: World
) -> None:
    gateway = await world.api.create(world.gateway())
    made = await world.until_there(*BASIC)
    for data in made.values():
        [owner] = data["metadata"]["ownerReferences"]
        assert owner["uid"] == gateway["metadata"]["uid"]
    subjects = (await world.api.get(BINDING))["subjects"]
    assert {"kind": "ServiceAccount", "name": NAME, "namespace": world.namespace} in subjects
    await world.condition("Programmed", lambda c: c["reason"] == "NoResources")
    await world.runs()
    await world.condition("Programmed", lambda c: c["status"] == "True")
    found = await world.api.get(gateway)
    assert found["status"]["addresses"] == [{"type": "IPAddress", "value": "192.0.2.7"}]
    [listener] = found["status"]["listeners"]
    assert {c["type"]: c["status"] for c in listener["conditions"]}["Programmed"] == "True"


async def test_another_port_changes_the_service_and_not_the_pods(
    operator: Operator, world: World
) -> None:
    await world.api.create(world.gateway())
    before = (await world.until_there(*BASIC))["Deployment"]
    await world.api.patch(world.gateway(), {"spec": world.gateway(80, 8443)["spec"]})
    await until(world.api, world.object("Service"), lambda data: len(data["spec"]["ports"]) == 2)
    assert (await world.api.get(world.object("Deployment")))["spec"] == before["spec"]
    await world.api.patch(world.gateway(), {"spec": world.gateway(8443)["spec"]})
    found = await until(
        world.api, world.object("Service"), lambda data: len(data["spec"]["ports"]) == 1
    )
    assert found["spec"]["ports"][0]["port"] == 8443


async def test_a_deleted_gateway_leaves_nothing(operator: Operator, world: World) -> None:
    await world.api.create(world.gateway())
    route = objects.http_route("r", namespace=world.namespace, gateway="edge", pool="p")
    pool = objects.inference_pool("p", [8000], namespace=world.namespace)
    await world.api.create(pool)
    await world.api.create(route)
    await world.until_there(*BASIC)
    for item in (route, pool):
        await until(world.api, item, lambda data: (data.get("status") or {}).get("parents"))
    await world.api.delete(world.gateway())
    await world.until_there()
    for item in (route, pool):
        await until(world.api, item, lambda data: not data["status"].get("parents"))
    await until(
        world.api,
        BINDING,
        lambda data: world.namespace not in {s["namespace"] for s in data.get("subjects") or ()},
    )


async def test_a_gateway_that_is_given_to_another_class_loses_its_objects(
    operator: Operator, world: World
) -> None:
    foreign = {**_class(), "metadata": {"name": f"foreign-{world.namespace}"}}
    await world.api.create({**foreign, "spec": {"controllerName": "example.com/other"}})
    await world.api.create(world.gateway())
    await world.until_there(*BASIC)
    change = {"spec": {"gatewayClassName": foreign["metadata"]["name"]}}
    await world.api.patch(world.gateway(), change)
    await world.until_there()
    await world.api.delete(foreign)


async def test_a_deleted_class_takes_nothing_away(
    operator: Operator, world: World, account: Path
) -> None:
    kind = {**_class(), "metadata": {"name": f"mine-{world.namespace}"}}
    await world.api.create({**kind, "spec": {"controllerName": "epp-client.dev/gateway"}})
    await world.api.create(world.gateway(gatewayClassName=kind["metadata"]["name"]))
    service = world.object("Service", f"edge-mine-{world.namespace}")
    await until_exists(world.api, service)
    await world.api.delete(kind)
    other = objects.gateway("other", namespace=world.namespace)
    await world.api.create(other)
    # Once the other has its objects, the turn that has seen the deletion is over.
    await until_exists(world.api, world.object("Service", "other-epp-client"))
    await world.api.get(service)


async def until_exists(api: Api, item: Object) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await api.get(item)
                return
            except ApiError as error:
                if error.status != 404:
                    raise
            await asyncio.sleep(0.05)


async def test_what_somebody_else_changes_or_deletes_is_repaired(
    operator: Operator, world: World
) -> None:
    await world.api.create(world.gateway())
    made = await world.until_there(*BASIC)
    service = made["Service"]
    await world.api.delete(service)
    await until_new(world, "Service", service)
    change = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 3}}}}
    await world.api.patch(made["Deployment"], change)
    await until(
        world.api,
        made["Deployment"],
        lambda data: data["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 330,
    )
    # What is not ours is left alone: an autoscaler's annotation, for example.
    await world.api.patch(made["Deployment"], {"metadata": {"annotations": {"mine": "x"}}})
    await world.api.patch(made["ConfigMap"], {"data": {"drain.sh": "exit 0"}})
    await until(world.api, made["ConfigMap"], lambda data: data["data"]["drain.sh"] != "exit 0")
    assert (await world.api.get(made["Deployment"]))["metadata"]["annotations"]["mine"] == "x"


async def until_new(world: World, kind: str, old: Object) -> None:
    async with asyncio.timeout(PATIENCE):
        while True:
            found = (await world.there()).get(kind, old)
            if found["metadata"]["uid"] != old["metadata"]["uid"]:
                return
            await asyncio.sleep(0.05)


async def test_an_object_that_somebody_else_has_made_is_not_taken_over(
    operator: Operator, world: World
) -> None:
    theirs = objects.service(NAME, namespace=world.namespace)
    await world.api.create(theirs)
    await world.api.create(world.gateway())
    said = await world.condition("Programmed", lambda c: "was not made for this" in c["message"])
    assert said["message"].startswith(f"Service {world.namespace}/{NAME} exists")
    found = await world.api.get(theirs)
    assert "labels" not in found["metadata"]
    await world.api.delete(theirs)
    await until(world.api, world.gateway(), lambda data: "exists" not in str(conditions(data)))
    assert (await world.api.get(theirs))["metadata"]["labels"]


async def test_parameters_are_followed_and_wrong_ones_are_refused(
    operator: Operator, world: World
) -> None:
    parameters: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "parameters", "namespace": world.namespace},
        "data": {"replicas": "5", "serviceType": "ClusterIP"},
    }
    await world.api.create(parameters)
    reference = {"group": "", "kind": "ConfigMap", "name": "parameters"}
    infrastructure = {"parametersRef": reference, "labels": {"team": "a"}}
    await world.api.create(world.gateway(infrastructure=infrastructure))
    made = await world.until_there(*BASIC, "Role", "RoleBinding")
    assert made["Deployment"]["spec"]["replicas"] == 5
    assert made["Service"]["spec"]["type"] == "ClusterIP"
    assert {data["metadata"]["labels"]["team"] for data in made.values()} == {"a"}
    await world.api.patch(parameters, {"data": {"maxReplicas": "9"}})
    await world.until_there(*BASIC, "Role", "RoleBinding", "HorizontalPodAutoscaler")
    await world.api.patch(parameters, {"data": {"replicas": "many"}})
    said = await world.condition("Accepted", lambda c: c["status"] == "False")
    assert said["reason"] == "InvalidParameters"
    assert "ConfigMap " in said["message"]
    assert "data.replicas" in said["message"]
    # What runs stays as it is.
    await world.until_there(*BASIC, "Role", "RoleBinding", "HorizontalPodAutoscaler")
    await world.api.patch(parameters, {"data": {"replicas": "4", "maxReplicas": None}})
    await world.condition("Accepted", lambda c: c["status"] == "True")
    await world.until_there(*BASIC, "Role", "RoleBinding")


async def test_a_gateway_of_node_ports_has_the_addresses_of_the_nodes(
    operator: Operator, world: World
) -> None:
    addresses = [{"type": "InternalIP", "address": "192.0.2.8"}]
    node: Object = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": f"node-{world.namespace}"},
        "status": {"addresses": addresses},
    }
    parameters: Object = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "parameters", "namespace": world.namespace},
        "data": {"serviceType": "NodePort"},
    }
    selector = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"routes": "yes"}}}}
    gateway = world.gateway(
        infrastructure={"parametersRef": {"group": "", "kind": "ConfigMap", "name": "parameters"}}
    )
    gateway["spec"]["listeners"][0]["allowedRoutes"] = selector
    await world.api.create(node)
    await world.api.create(parameters)
    await world.api.create(gateway)
    found = await until(
        world.api, gateway, lambda data: (data.get("status") or {}).get("addresses")
    )
    assert found["status"]["addresses"] == [{"type": "IPAddress", "value": "192.0.2.8"}]
    await world.api.delete(node)
    # An address that is not there any more goes.
    await until(world.api, gateway, lambda data: not data["status"].get("addresses"))


async def test_a_data_plane_reads_the_named_secret_and_no_other(
    operator: Operator, world: World, plane: ControlPlane
) -> None:
    tls = {"certificateRefs": [{"name": "named"}]}
    listener = {"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}
    await world.api.create(world.gateway(listeners=[listener]))
    await world.until_there(*BASIC, "Role", "RoleBinding")
    identity = await plane.service_account(world.api, world.namespace, NAME)
    path = f"/api/v1/namespaces/{world.namespace}/secrets"
    async with Api(identity) as data_plane:
        async with asyncio.timeout(PATIENCE):
            while True:
                try:
                    # As the sidecar asks for it.
                    query = {"fieldSelector": "metadata.name=named"}
                    assert (await data_plane.call("GET", path, query=query))["items"] == []
                    break
                except ApiError as error:
                    # The authorizer follows the Roles a moment later.
                    if error.status != 403:
                        raise
                    await asyncio.sleep(0.05)
        for query in ({}, {"fieldSelector": "metadata.name=other"}):
            with pytest.raises(ApiError, match="forbidden"):
                await data_plane.call("GET", path, query=query)
        with pytest.raises(ApiError, match="forbidden"):
            await data_plane.call("GET", f"{path}/named")
        pools = "/apis/inference.networking.k8s.io/v1/inferencepools"
        await data_plane.call("GET", pools)
        with pytest.raises(ApiError, match="forbidden"):
            await data_plane.call("POST", f"/api/v1/namespaces/{world.namespace}/pods", {})
    # Without the reference there is no right.
    await world.api.patch(world.gateway(), {"spec": world.gateway(80)["spec"]})
    await world.until_there(*BASIC)


async def test_another_replica_takes_over_and_does_what_was_left(
    world: World, account: Path, operator: Operator
) -> None:
    await until_leads(operator)
    async with controlling(account, "two") as second:
        await world.api.create(world.gateway())
        await world.until_there(*BASIC)
        assert (operator.holder.holds, second.holder.holds) == (True, False)
        assert second.applying.written == 0
        # Somebody takes the Lease from the first: it stops writing.
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": ACCOUNT, "namespace": SYSTEM},
        }
        await world.api.patch(lease, {"spec": {"holderIdentity": "somebody"}})
        async with asyncio.timeout(PATIENCE):
            while operator.holder.holds:
                await asyncio.sleep(0.02)
        await world.api.delete(world.object("Service"))
        await until_exists(world.api, world.object("Service"))


async def test_its_pages_say_what_it_does(operator: Operator) -> None:
    await until_leads(operator)
    pages = Pages("127.0.0.1:0", operator)
    root = f"http://{await pages.start()}"
    try:
        async with aiohttp.ClientSession() as session:
            for path, said in (("livez", "ok\n"), ("readyz", "ok\nleader\n")):
                async with session.get(f"{root}/{path}") as answer:
                    assert (answer.status, await answer.text()) == (200, said)
            async with session.get(f"{root}/metrics") as answer:
                text = await answer.text()
            assert "epp_client_controller_leader 1.0" in text
            assert 'epp_client_controller_writes_total{result="written"}' in text
            assert 'epp_client_status_writes_total{result="written"}' in text
            async with session.get(f"{root}/readyz", headers={"host": "example.com"}) as answer:
                assert answer.status == 403
    finally:
        await pages.close()


async def until_leads(operator: Operator) -> None:
    async with asyncio.timeout(PATIENCE):
        while not operator.holder.holds:
            await asyncio.sleep(0.02)


async def test_the_death_of_the_api_server_deletes_nothing_and_ends_nothing(
    operator: Operator, world: World, plane: ControlPlane
) -> None:
    await until_leads(operator)
    await world.api.create(world.gateway())
    made = await world.until_there(*BASIC)
    await plane.kill()
    async with asyncio.timeout(PATIENCE):
        while not operator.stale():
            await asyncio.sleep(0.05)
    await plane.start()
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await world.api.patch(world.gateway(), {"spec": world.gateway(80, 81)["spec"]})
                break
            except (aiohttp.ClientError, ApiError):
                await asyncio.sleep(0.1)
    await until(world.api, world.object("Service"), lambda data: len(data["spec"]["ports"]) == 2)
    now = await world.there()
    assert {k: d["metadata"]["uid"] for k, d in now.items()} == {
        k: d["metadata"]["uid"] for k, d in made.items()
    }
    deployment = now["Deployment"]["metadata"]
    assert deployment["generation"] == made["Deployment"]["metadata"]["generation"]


SELDOM = {
    # After a conflict of two writers of a status.
    ("get", "gateway.networking.k8s.io", "gatewayclasses"),
    ("get", "gateway.networking.k8s.io", "gateways"),
    ("get", "gateway.networking.k8s.io", "httproutes"),
    ("get", "inference.networking.k8s.io", "inferencepools"),
    # Asked of the authorizer by the API server, not by the controller.
    ("bind", "rbac.authorization.k8s.io", "clusterroles"),
    ("update", "gateway.networking.k8s.io", "gateways/finalizers"),
    # An apply of an object that is not there is a patch, and needs both.
    *(
        ("create", group, resource)
        for group, resource in (
            ("", "configmaps"),
            ("", "serviceaccounts"),
            ("", "services"),
            ("apps", "deployments"),
            ("autoscaling", "horizontalpodautoscalers"),
            ("policy", "poddisruptionbudgets"),
            ("rbac.authorization.k8s.io", "rolebindings"),
            ("rbac.authorization.k8s.io", "roles"),
        )
    ),
}


async def test_the_controller_needs_its_rights_and_no_more(
    operator: Operator, plane: ControlPlane
) -> None:
    """The last of this module: what the tests above have asked for."""
    asked = plane.asked_by(SYSTEM, ACCOUNT)
    # An API server that starts again refuses for a moment, until its authorizer knows the Roles.
    allowed = {request[:3] for request in asked if request.status not in (401, 403)}
    assert {r[:3] for r in asked if r.status in (401, 403)} - allowed == set()
    granted = {
        (verb, group, resource)
        for item in render(CONFIG / "controller")
        if item["kind"] in ("Role", "ClusterRole") and item["metadata"]["name"] == ACCOUNT
        for rule in item["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert allowed | SELDOM == granted
