"""The Helm chart's controller, and its gateway that serves a Gateway: rendered, installed, and on a cluster
with a kubelet."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from epp_client.controller.app import defaults_of, identity_of
from epp_client.controller.settings import ControllerSettings
from testbed.cluster import objects
from testbed.cluster.api import Api, Object
from testbed.cluster.machine import Machine
from tests.cluster.chart_values import CONTROLLER, SERVES_GATEWAY, SOME, merged, nested
from tests.cluster.conftest import Site
from tests.cluster.controlled import BINDING, conditions
from tests.cluster.helm import CHART, by_name, comparable, template
from tests.cluster.kustomize import CONFIG, render
from tests.cluster.pods import PATIENCE, until, until_gone
from tests.cluster.test_chart_installed import Installation
from tests.cluster.test_manifests import RESTRICTED, pod_of
from tests.cluster.test_rights import _with_component
from tests.deploy.test_kubernetes import flags, options

RELEASE, NAMESPACE = "epp-client-controller", "epp-client-system"
"""As config/kubernetes/controller names them."""
OWN_CLASS = "example.com/own"


def _controller(values: Object | None = None) -> list[Object]:
    return template(merged(CONTROLLER, values or {}), release=RELEASE, namespace=NAMESPACE)


def _container(made: list[Object]) -> Object:
    [deployment] = [item for item in made if item["kind"] == "Deployment"]
    [container] = deployment["spec"]["template"]["spec"]["containers"]
    found: Object = container
    return found


def test_it_installs_what_kustomize_installs() -> None:
    theirs = comparable(render(CONFIG / "controller"), NAMESPACE)
    # helm makes it: `--create-namespace`.
    del theirs["Namespace", NAMESPACE]
    ours = comparable(_controller(), NAMESPACE)
    given = _container(list(ours.values()))["args"]
    [image] = [one for one in given if one.startswith("--envoy-image=")]
    assert image == f"--envoy-image={defaults_of(ControllerSettings()).envoy_image}"
    given.remove(image)
    assert ours == theirs


def test_the_program_knows_every_argument() -> None:
    values = merged(*(nested(name, SOME[name]) for name in SOME if name.startswith("controller.")))
    given = set(flags(_container(_controller(values))))
    assert given <= options("controller")
    assert {"--controller-name", "--replicas", "--envoy-image", "--log-level"} <= given


@pytest.mark.parametrize(
    "name",
    ["epp-client.dev/gateway", "Example.com/gateway".lower(), f"{'long.' * 12}example.com/a/b"],
)
def test_its_lease_is_the_one_that_it_asks_for(name: str) -> None:
    made = by_name(_controller({"controller": {"name": name}}))
    rules = made["Role", RELEASE]["rules"]
    [names] = [rule["resourceNames"] for rule in rules if "resourceNames" in rule]
    assert names == [identity_of(ControllerSettings(controller_name=name)).lease]


def _kinds(items: list[Object]) -> Iterator[Object]:
    for item in items:
        if item["kind"] in ("Role", "ClusterRole"):
            yield from item["rules"]


def test_serving_a_gateway_has_the_rights_of_the_component(tmp_path: Path) -> None:
    theirs = render(_with_component(tmp_path / "rights", "gateway"))
    ours = template(SERVES_GATEWAY)

    def sorted_rules(items: list[Object]) -> list[str]:
        return sorted(str(sorted(rule.items())) for rule in _kinds(items))

    assert sorted_rules(ours) == sorted_rules(theirs)


def test_the_gateways_rights_go_where_its_objects_are() -> None:
    values = {"namespaces": ["a", "b"], "serveGateway": {"enabled": True, "secrets": ["tls"]}}
    found = {
        item["metadata"]["namespace"]: {
            resource for rule in item["rules"] for resource in rule["resources"]
        }
        for item in template(merged(SERVES_GATEWAY, values))
        if item["kind"] == "Role" and item["metadata"]["name"].endswith("-gateway-gateway")
    }
    assert {place: "secrets" in what for place, what in found.items()} == {
        "a": False,
        "b": False,
        "inference": True,
    }
    assert all("httproutes" in what for what in found.values())


def test_a_gateway_of_all_namespaces_has_a_cluster_role_and_its_secrets_in_its_own() -> None:
    values = {"allNamespaces": True, "serveGateway": {"enabled": True, "secrets": ["tls"]}}
    made = by_name(template(merged(SERVES_GATEWAY, values)))
    of_all = made["ClusterRole", "inference-inference-gateway-gateway"]["rules"]
    own = made["Role", "inference-gateway-gateway"]["rules"]
    assert not {"secrets", "leases"} & {one for rule in of_all for one in rule["resources"]}
    assert {one for rule in own for one in rule["resources"]} == {"secrets", "leases"}


# --- on an API server ---


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.timeout(150)
async def test_an_upgrade_keeps_the_data_planes_of_its_gateways(site: Site) -> None:
    helm_ = Installation(site)
    try:
        helm_.run("install", "ctl", str(CHART), values=CONTROLLER)
        subject = {"kind": "ServiceAccount", "name": "edge", "namespace": site.namespace}
        await site.api.patch(BINDING, {"subjects": [subject]})
        changed = merged(CONTROLLER, {"controller": {"gatewayReplicas": 3}})
        helm_.run("upgrade", "ctl", str(CHART), values=changed)
        assert (await site.api.get(BINDING))["subjects"] == [subject]
    finally:
        helm_.run("uninstall", "ctl")


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.timeout(150)
@pytest.mark.parametrize(
    ("form", "prefix", "more"),
    [
        (CONTROLLER, "controller.", ("podLabels", "podAnnotations", "tolerations", "extraVolumes")),
        (SERVES_GATEWAY, "serveGateway.", ("sidecar.workers",)),
    ],
    ids=["controller", "serveGateway"],
)
async def test_every_value_makes_objects_that_the_api_server_accepts(
    site: Site, form: Object, prefix: str, more: tuple[str, ...]
) -> None:
    names = [name for name in SOME if name.startswith(prefix) and name != f"{prefix}enabled"]
    values = merged(form, *(nested(name, SOME[name]) for name in (*names, *more)))
    made = template(values, release="any", namespace=site.namespace)
    assert len(made) > 6
    await site.api.apply(made, dry_run=True)


@pytest.mark.asyncio(loop_scope="session")
async def test_its_pods_pass_the_restricted_pod_security_standard(site: Site) -> None:
    namespace = objects.namespace(f"{site.namespace}-restricted")
    namespace["metadata"]["labels"] = RESTRICTED
    await site.api.create(namespace)
    for form in (CONTROLLER, SERVES_GATEWAY):
        [deployment] = [item for item in template(form) if item["kind"] == "Deployment"]
        pod = pod_of(deployment)
        pod["metadata"]["namespace"] = namespace["metadata"]["name"]
        await site.api.create(pod, dry_run=True)


@pytest.mark.asyncio(loop_scope="session")
async def test_it_says_what_is_next(site: Site) -> None:
    for form, then in ((CONTROLLER, "kubectl wait"), (SERVES_GATEWAY, "for=condition=Programmed")):
        said = Installation(site).run("install", "any", str(CHART), "--dry-run=server", values=form)
        assert then in said.partition("NOTES:")[2]


# --- with a kubelet ---


async def _programmed(api: Api, gateway: Object) -> Object:
    return await until(
        api,
        gateway,
        lambda data: any(
            c["type"] == "Programmed" and c["status"] == "True" for c in conditions(data)
        ),
    )


async def _served_by(address: str) -> str:
    """The model server that answers there. The EndpointSlice of the Service follows the Pods."""
    body = {"model": "llama", "messages": [{"role": "user", "content": "hello"}]}
    url = f"http://{address}/v1/chat/completions"
    said = ""
    try:
        async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
            while True:
                try:
                    async with session.post(url, json=body) as answer:
                        said = f"{answer.status} {await answer.text()}"
                        if answer.status == 200:
                            return answer.headers["x-model-server"]
                except aiohttp.ClientError as error:
                    said = repr(error)
                await asyncio.sleep(0.1)
    except TimeoutError as error:
        raise AssertionError(said) from error


@pytest.mark.asyncio(loop_scope="session")
@pytest.mark.timeout(240)
async def test_a_gateway_is_served_by_the_controller_and_by_a_gateway_of_its_own(
    machine: Machine,
) -> None:
    """One Gateway of the class of the controller, one of a class that the chart's gateway serves itself."""
    example = render(CONFIG / "example")
    system = objects.namespace(NAMESPACE)
    await machine.api.apply([*example, system])
    made = template(
        merged(CONTROLLER, {"replicas": 1, "controller": {"gatewayReplicas": 1}}),
        release="ctl",
        namespace=NAMESPACE,
    )
    own = template(
        merged(
            SERVES_GATEWAY,
            {
                "autoscaling": {"enabled": False},
                "replicas": 1,
                "envoy": {"drainMinSeconds": 0},
                "service": {"type": "LoadBalancer"},
                "serveGateway": {"addresses": ["own.example.com"]},
                "status": {"gateway": "inference/own", "controllerName": OWN_CLASS},
            },
        ),
        release="own",
        namespace="inference",
    )
    one = objects.gateway("one", namespace="inference", of_class="epp-client")
    other = objects.gateway("own", namespace="inference", of_class="own")
    routes = [
        objects.http_route(f"to-{name}", namespace="inference", gateway=name, pool="llama")
        for name in ("one", "own")
    ]
    await machine.api.apply([*made, *own, objects.gateway_class("own", OWN_CLASS)])
    for item in (one, other, *routes):
        await machine.api.create(item)
    service: Object = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "own", "namespace": "inference"},
    }
    try:
        found = await _programmed(machine.api, one)
        first = found["status"]["addresses"][0]["value"]
        found = await _programmed(machine.api, other)
        assert [one["value"] for one in found["status"]["addresses"]] == ["own.example.com"]
        found = await until(machine.api, service, lambda item: item["status"]["loadBalancer"])
        for address in (first, found["status"]["loadBalancer"]["ingress"][0]["ip"]):
            assert (await _served_by(address)).endswith(":8000")
    finally:
        for item in (one, other, *routes):
            await machine.api.delete(item)
        cluster_wide = ("Namespace", "GatewayClass", "ClusterRole", "ClusterRoleBinding")
        gone = [item for item in (*made, *own, *example, system) if item["kind"] in cluster_wide]
        gone.append(objects.gateway_class("own", OWN_CLASS))
        for item in gone:
            await machine.api.delete(item)
        for item in gone:
            await until_gone(machine.api, item)
