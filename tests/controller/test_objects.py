"""The objects of a Gateway."""

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp_client.controller.names import (
    GATEWAY_LABEL,
    MANAGED_LABEL,
    MANAGER,
    MAX_LABEL,
    foreign_name,
    labels_of,
    object_name,
    selector_of,
)
from epp_client.controller.objects import GATEWAY_ANNOTATION, OWNED, objects_of
from epp_client.controller.parameters import Parameters, read_parameters
from epp_client.controller.ports import OwnPorts, own_ports
from epp_client.gateway.table import GatewayName, SecretName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.resources import (
    AUTOSCALER,
    CONFIG_MAP,
    DEPLOYMENT,
    ROLE,
    ROLE_BINDING,
    SERVICE,
    Resource,
)
from tests.controller.world import TEMPLATE, gateway, listener, plane


def _objects(*arguments: Any, **more: Any) -> list[Object]:
    return list(objects_of(plane(*arguments, **more), TEMPLATE).values())


def _one(resource: Resource, objects: list[Object]) -> Any:
    [found] = [data for data in objects if data["kind"] == resource.kind]
    return found


def _parameters(**data: str) -> Parameters:
    found = read_parameters({"data": data})
    assert isinstance(found, Parameters), found
    return found


def _containers(deployment: Any) -> dict[str, Any]:
    pod = deployment["spec"]["template"]["spec"]
    return {one["name"]: one for one in [*pod["initContainers"], *pod["containers"]]}


_NAMES = st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,100}[a-z0-9])?", fullmatch=True)
_PORTS = st.lists(
    st.tuples(st.integers(1, 65535), st.sampled_from(["HTTP", "HTTPS", "UDP"])), max_size=5
)


@given(_NAMES, _NAMES, _PORTS, st.sets(st.sampled_from(["web", "other"])), st.booleans())
def test_every_object_has_an_owner_labels_and_the_gateways_name(
    name: str, gateway_class: str, ports: list[tuple[int, str]], spaces: set[str], scaled: bool
) -> None:
    listeners = [listener(port, protocol) for port, protocol in ports]
    data = gateway(*listeners, name=name, gatewayClassName=gateway_class)
    secrets = frozenset(SecretName(space, "cert") for space in spaces)
    parameters = _parameters(maxReplicas="5") if scaled else Parameters()
    made = objects_of(plane(data, secrets=secrets, parameters=parameters), TEMPLATE)
    assert made == objects_of(plane(data, secrets=secrets, parameters=parameters), TEMPLATE)
    assert [s.resource for s in made] == sorted(
        (s.resource for s in made), key=lambda kind: OWNED.index(kind)
    )
    for subject, found in made.items():
        metadata = found["metadata"]
        assert (subject.namespace, subject.name) == (metadata["namespace"], metadata["name"])
        assert found["apiVersion"] == subject.resource.api_version
        assert metadata["labels"][MANAGED_LABEL] == MANAGER
        assert all(len(value) <= MAX_LABEL for value in metadata["labels"].values())
        assert metadata["annotations"][GATEWAY_ANNOTATION] == f"web/{name}"
        if subject.namespace == "web":
            [owner] = metadata["ownerReferences"]
            assert (owner["uid"], owner["controller"]) == ("uid-1", True)
            assert owner["blockOwnerDeletion"] is True
        else:
            # An owner in another namespace counts as missing: the object would be collected at once.
            assert "ownerReferences" not in metadata
            assert subject.resource in (ROLE, ROLE_BINDING)


@given(st.lists(st.tuples(_NAMES, _NAMES), min_size=2, max_size=6, unique=True))
def test_names_are_valid_for_a_service_and_rarely_clash(pairs: list[tuple[str, str]]) -> None:
    # `a-b` of class `c` and `a` of class `b-c` have one name: the owner tells them apart.
    names = {object_name(*pair) for pair in pairs}
    assert len(names) >= len({f"{one}-{other}" for one, other in pairs})
    for name in names:
        assert len(name) <= MAX_LABEL
        assert name[0].isalpha()
        assert name[-1].isalnum()
        assert all(letter.isalnum() or letter == "-" for letter in name)


def test_the_name_is_that_of_the_gateway_and_its_class() -> None:
    assert object_name("edge", "epp-client") == "edge-epp-client"
    assert foreign_name(GatewayName("web", "edge"), "epp-client") == "edge-epp-client-web"


def test_a_long_name_is_cut_and_stays_its_own() -> None:
    one, other = (object_name("x" * 80 + end, "epp-client") for end in "ab")
    assert one != other
    assert {len(one), len(other)} == {MAX_LABEL}
    assert object_name("1.a", "epp-client").startswith("g-1-a-epp-client-")


def test_the_service_has_the_ports_of_the_listeners_once() -> None:
    listeners = (
        listener(443, "HTTPS"),
        listener(80),
        listener(80, hostname="a"),
        listener(53, "UDP"),
    )
    service = _one(SERVICE, _objects(gateway(*listeners)))
    ports = [(one["port"], one["targetPort"], one["protocol"]) for one in service["spec"]["ports"]]
    assert ports == [(80, 80, "TCP"), (443, 443, "TCP")]
    assert service["spec"]["type"] == "LoadBalancer"
    assert service["spec"]["selector"] == selector_of(GatewayName("web", "edge"))


def test_without_a_listener_that_can_be_served_there_is_no_service() -> None:
    assert SERVICE.kind not in {data["kind"] for data in _objects(gateway(listener(53, "UDP")))}


def test_another_listener_is_no_rollout() -> None:
    one = _one(DEPLOYMENT, _objects(gateway(listener(80))))
    two = _one(DEPLOYMENT, _objects(gateway(listener(80), listener(443, "HTTPS"))))
    assert one == two


def test_a_listener_may_have_a_port_that_is_usually_ours() -> None:
    objects = _objects(gateway(listener(9901), listener(9902), listener(9911)))
    containers = _containers(_one(DEPLOYMENT, objects))
    assert "--admin=0.0.0.0:9913" in containers["epp-client"]["args"]
    assert containers["epp-client"]["ports"] == [{"name": "epp-admin", "containerPort": 9913}]
    assert containers["envoy"]["lifecycle"]["preStop"]["exec"]["command"][-1] == "9912"
    config = yaml.safe_load(_one(CONFIG_MAP, objects)["data"]["envoy.yaml"])
    assert config["admin"]["address"]["socket_address"]["port_value"] == 9912
    [status] = config["static_resources"]["listeners"]
    assert status["address"]["socket_address"]["port_value"] == 9903


@given(st.sets(st.integers(9890, 9920)))
def test_our_ports_are_three_that_no_listener_has(taken: set[int]) -> None:
    ports = own_ports(taken)
    assert len({*ports, *taken}) == len(taken) + 3
    assert all(
        ours == usual for ours, usual in zip(ports, OwnPorts(), strict=True) if usual not in taken
    )


def test_the_sidecar_serves_the_gateway_and_writes_no_status() -> None:
    containers = _containers(_one(DEPLOYMENT, _objects()))
    args = containers["epp-client"]["args"]
    assert args[:4] == ["serve", "--kubernetes", "--gateway=$(NAMESPACE)/edge", "--no-status"]
    assert not [one for one in args if one.startswith(("--namespace", "--controller-name"))]
    assert "--hold=/run/epp-client/hold.sock" in args
    more = _objects(controller="example.com/mine")
    assert (
        "--controller-name=example.com/mine"
        in _containers(_one(DEPLOYMENT, more))["epp-client"]["args"]
    )


def test_envoy_gets_no_token_and_may_bind_low_ports() -> None:
    pod = _one(DEPLOYMENT, _objects())["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    [envoy] = pod["containers"]
    assert "epp-client-token" not in {mount["name"] for mount in envoy["volumeMounts"]}
    assert pod["securityContext"]["sysctls"] == [
        {"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}
    ]


def test_a_changed_bootstrap_is_a_rollout() -> None:
    def template_of(data: Object) -> Any:
        return _one(DEPLOYMENT, _objects(data))["spec"]["template"]["metadata"]["annotations"]

    assert template_of(gateway(listener(80))) != template_of(gateway(listener(9903)))


def test_labels_and_annotations_of_the_infrastructure_are_on_all_objects_and_never_replace_ours() -> (
    None
):
    infrastructure = {
        "labels": {"team": "a", MANAGED_LABEL: "somebody", GATEWAY_LABEL: "other"},
        "annotations": {"note": "b", GATEWAY_ANNOTATION: "x/y"},
    }
    secrets = frozenset([SecretName("other", "cert")])
    objects = _objects(gateway(infrastructure=infrastructure), secrets=secrets)
    pods = _one(DEPLOYMENT, objects)["spec"]["template"]
    for data in [*objects, pods]:
        labels, annotations = data["metadata"]["labels"], data["metadata"]["annotations"]
        assert labels == {"team": "a", **labels_of(GatewayName("web", "edge"), "epp-client")}
        assert (annotations["note"], annotations[GATEWAY_ANNOTATION]) == ("b", "web/edge")
    # A Deployment's selector cannot be changed.
    assert "team" not in _one(DEPLOYMENT, objects)["spec"]["selector"]["matchLabels"]


def test_only_named_secrets_may_be_read_each_in_its_namespace() -> None:
    secrets = frozenset([SecretName("web", "a"), SecretName("web", "b"), SecretName("other", "c")])
    objects = _objects(secrets=secrets, config_maps=frozenset([("web", "parameters")]))
    roles = {data["metadata"]["namespace"]: data for data in objects if data["kind"] == ROLE.kind}
    verbs = ["list", "watch"]
    assert roles["web"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["a", "b"], "verbs": verbs},
        {
            "apiGroups": [""],
            "resources": ["configmaps"],
            "resourceNames": ["parameters"],
            "verbs": verbs,
        },
    ]
    assert roles["other"]["rules"] == [
        {"apiGroups": [""], "resources": ["secrets"], "resourceNames": ["c"], "verbs": verbs}
    ]
    for data in objects:
        if data["kind"] == ROLE_BINDING.kind:
            [subject] = data["subjects"]
            assert (subject["namespace"], subject["name"]) == ("web", "edge-epp-client")
            assert data["roleRef"]["name"] == data["metadata"]["name"]


def test_without_references_there_is_no_role() -> None:
    assert ROLE.kind not in {data["kind"] for data in _objects()}


def test_parameters_change_what_they_name() -> None:
    parameters = _parameters(
        replicas="3",
        serviceType="NodePort",
        externalTrafficPolicy="Local",
        image="registry.example/epp-client:1",
        envoyImage="registry.example/envoy:1",
        imagePullSecrets="[pull]",
        envoyConcurrency="8",
        envoyResources="{requests: {cpu: 4}, limits: {memory: 2Gi}}",
        sidecarResources="{requests: {memory: 1Gi}}",
        serveArgs="[--drain-timeout=5, --max-exchanges=7]",
        nodeSelector="{disk: fast}",
        tolerations="[{key: gpu, operator: Exists, tolerationSeconds: 4}]",
        priorityClassName="high",
    )
    objects = _objects(parameters=parameters)
    deployment = _one(DEPLOYMENT, objects)
    pod = deployment["spec"]["template"]["spec"]
    containers = _containers(deployment)
    assert deployment["spec"]["replicas"] == 3
    assert {one["image"] for one in containers.values()} == {
        "registry.example/epp-client:1",
        "registry.example/envoy:1",
    }
    assert containers["envoy"]["resources"]["requests"] == {"cpu": "4", "memory": "256Mi"}
    assert containers["envoy"]["resources"]["limits"] == {"memory": "2Gi"}
    assert containers["epp-client"]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    args = containers["envoy"]["args"]
    assert args[args.index("--concurrency") + 1] == "8"
    assert [one for one in containers["epp-client"]["args"] if "drain" in one] == [
        "--drain-timeout=5"
    ]
    assert pod["nodeSelector"] == {"disk": "fast"}
    assert pod["tolerations"] == [{"key": "gpu", "operator": "Exists", "tolerationSeconds": 4}]
    assert pod["priorityClassName"] == "high"
    assert pod["imagePullSecrets"] == [{"name": "pull"}]
    service = _one(SERVICE, objects)["spec"]
    assert (service["type"], service["externalTrafficPolicy"]) == ("NodePort", "Local")


def test_with_a_largest_number_the_autoscaler_has_the_replicas() -> None:
    objects = _objects(parameters=_parameters(replicas="0", maxReplicas="4"))
    assert "replicas" not in _one(DEPLOYMENT, objects)["spec"]
    scaler = _one(AUTOSCALER, objects)["spec"]
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (1, 4)
    assert scaler["scaleTargetRef"]["name"] == "edge-epp-client"


def test_the_template_is_not_changed_by_its_use() -> None:
    before = yaml.safe_dump(TEMPLATE.objects)
    _objects(parameters=_parameters(replicas="9", maxReplicas="9", nodeSelector="{a: b}"))
    assert yaml.safe_dump(TEMPLATE.objects) == before


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ({"replicas": "many"}, "data.replicas: Input should be a valid integer"),
        ({"replica": "2"}, "data.replica: Extra inputs are not permitted"),
        ({"serviceType": "ExternalName"}, "data.serviceType: Input should be"),
        ({"serveArgs": "[--no-status]"}, "data.serveArgs: --no-status is set by the controller"),
        ({"serveArgs": "[x]"}, "data.serveArgs: 'x' is no option; write --name=value"),
        ({"replicas": "5", "maxReplicas": "4"}, "data.maxReplicas: 4 is less than replicas"),
        ({"envoyResources": "{requests: {cpu: fast}}"}, "data.envoyResources.requests.cpu: String"),
        ({"nodeSelector": "{a"}, "data.nodeSelector: is not YAML"),
        (
            {"serviceType": "ClusterIP", "externalTrafficPolicy": "Local"},
            "data.externalTrafficPolicy: needs serviceType LoadBalancer or NodePort",
        ),
        (
            {"serviceType": "NodePort", "loadBalancerClass": "x"},
            "data.loadBalancerClass: needs serviceType LoadBalancer",
        ),
    ],
)
def test_a_wrong_parameter_is_named(data: dict[str, str], said: str) -> None:
    found = read_parameters({"data": data})
    assert isinstance(found, str)
    assert found.startswith(said)


def test_a_config_map_without_data_changes_nothing() -> None:
    assert read_parameters({}) == Parameters()
