"""What the kubelet of the one-machine cluster decides. What it does is in tests/cluster."""

import pytest

from testbed.cluster.api import Object
from testbed.cluster.kubelet.images import NoImage, image
from testbed.cluster.kubelet.probes import verdict_of
from testbed.cluster.kubelet.spec import (
    BadSpec,
    Identity,
    expanded,
    identity,
    port,
    variables,
    words,
)
from testbed.cluster.kubelet.status import (
    Conditions,
    ContainerStatus,
    Running,
    State,
    Terminated,
    Waiting,
    phase,
    pod_status,
)
from testbed.cluster.services import Endpoints

RUNS = Running("2026-01-01T00:00:00Z")
WAITS = Waiting("PodInitializing")


def _ended(code: int) -> Terminated:
    return Terminated(code, "2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z")


def _container(state: State, *, init: bool = False, sidecar: bool = False) -> ContainerStatus:
    up = isinstance(state, Running)
    restartable = sidecar or not init
    return ContainerStatus("c", "i", restartable, init, state, started=up, ready=up)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("--name=$(NAME)", "--name=llama"),
        ("$$(NAME)", "$(NAME)"),
        ("$(OTHER)", "$(OTHER)"),
        ("$NAME", "$NAME"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, value: str) -> None:
    assert expanded(text, {"NAME": "llama"}) == value


def test_a_command_takes_the_place_of_the_entrypoint_and_args_follow_either() -> None:
    assert words({"args": ["b"]}, ["a"], {}) == ["a", "b"]
    assert words({"command": ["c"], "args": ["b"]}, ["a"], {}) == ["c", "b"]


def test_variables_come_from_fields_config_maps_and_secrets() -> None:
    pod = {"metadata": {"name": "p", "namespace": "n", "labels": {"app": "x"}}, "spec": {}}
    container = {
        "envFrom": [{"prefix": "M_", "configMapRef": {"name": "map"}}],
        "env": [
            {"name": "LABEL", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
            {"name": "KEY", "valueFrom": {"secretKeyRef": {"name": "secret", "key": "k"}}},
            {"name": "BOTH", "value": "$(LABEL)-$(M_a)"},
        ],
    }
    data = {("ConfigMap", "map"): {"a": "1"}, ("Secret", "secret"): {"k": "$(LABEL)"}}
    assert variables(container, pod, lambda *key: data.get(key)) == {
        "M_a": "1",
        "LABEL": "x",
        "KEY": "$(LABEL)",
        "BOTH": "x-1",
    }
    with pytest.raises(BadSpec, match="no ConfigMap map"):
        variables(container, pod, lambda *key: None)


def test_a_container_has_the_user_of_its_own_context_then_of_the_pods_then_of_the_image() -> None:
    pod: Object = {
        "spec": {"securityContext": {"runAsUser": 10, "fsGroup": 30, "runAsNonRoot": True}}
    }
    own = {"securityContext": {"runAsUser": 20, "runAsGroup": 21}}
    assert identity(own, pod, 65532) == Identity(20, 21, (30,))
    assert identity({}, pod, 65532).user == 10
    assert identity({}, {"spec": {}}, 65532).user == 65532
    with pytest.raises(BadSpec, match="runAsNonRoot"):
        identity({}, {"spec": {"securityContext": {"runAsNonRoot": True}}}, 0)


def test_a_port_is_a_number_or_a_name_of_the_container() -> None:
    container = {"name": "c", "ports": [{"name": "http", "containerPort": 8080}]}
    assert [port(container, given) for given in (1, "2", "http")] == [1, 2, 8080]
    with pytest.raises(BadSpec, match="no port other"):
        port(container, "other")


def test_a_probe_counts_answers_in_a_row() -> None:
    verdict = verdict_of({"failureThreshold": 2, "successThreshold": 2})
    seen = []
    for answer in (True, True, False, True, False, False, True, True):
        verdict.heard(answer)
        seen.append((verdict.good, verdict.failed))
    assert seen == [
        *((False, False), (True, False), (True, False), (True, False)),
        *((True, False), (False, True), (False, True), (True, False)),
    ]


@pytest.mark.parametrize(
    ("init", "main", "policy", "expected"),
    [
        ([_container(WAITS, init=True)], WAITS, "Always", "Pending"),
        ([_container(_ended(0), init=True)], RUNS, "Always", "Running"),
        ([_container(RUNS, init=True, sidecar=True)], RUNS, "Always", "Running"),
        ([_container(_ended(1), init=True)], WAITS, "Never", "Failed"),
        ([_container(_ended(1), init=True)], WAITS, "Always", "Pending"),
        ([], _ended(0), "Never", "Succeeded"),
        ([], _ended(2), "OnFailure", "Failed"),
        ([], _ended(2), "Always", "Running"),
    ],
)
def test_the_phase_of_a_pod(
    init: list[ContainerStatus], main: State, policy: str, expected: str
) -> None:
    assert phase([*init, _container(main)], policy) == expected


def test_a_pod_is_ready_only_with_its_sidecars() -> None:
    sidecar, main = _container(RUNS, init=True, sidecar=True), _container(RUNS)
    conditions = Conditions()

    def ready() -> str:
        status = pod_status(
            [sidecar, main], conditions, address="203.0.113.9", started="", restarts="Always"
        )
        return str({c["type"]: c["status"] for c in status["conditions"]}["Ready"])

    assert ready() == "True"
    sidecar.ready = False
    assert ready() == "False"


def test_the_time_of_a_condition_changes_with_its_status_alone() -> None:
    conditions = Conditions({"Ready": (True, "then")})
    [same] = conditions.written({"Ready": True})
    assert same["lastTransitionTime"] == "then"
    [other] = conditions.written({"Ready": False})
    assert other["lastTransitionTime"] != "then"


def test_an_image_is_found_by_the_last_part_of_its_name() -> None:
    digest = "@sha256:" + "0" * 64
    names = [
        "epp-client",
        "epp-client:0.2.0",
        "registry.test:5000/a/epp-client:1",
        f"epp-client{digest}",
    ]
    assert {image(name).entrypoint for name in names} == {image("epp-client").entrypoint}
    with pytest.raises(NoImage, match=r"stands for registry.test/vllm:1; known are .*epp-client"):
        image("registry.test/vllm:1")


def _slice(uid: str, address: str, *, ready: bool | None) -> Object:
    return {
        "metadata": {
            "uid": uid,
            "namespace": "n",
            "labels": {"kubernetes.io/service-name": "s"},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 9090}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": ready}}],
    }


def test_a_service_has_the_ready_endpoints_of_all_its_slices() -> None:
    endpoints = Endpoints()
    endpoints.replace(
        [_slice("1", "203.0.113.1", ready=True), _slice("2", "203.0.113.2", ready=False)]
    )
    endpoints.put(_slice("3", "203.0.113.3", ready=None))
    assert endpoints.of(("n", "s"), "http") == [("203.0.113.1", 8080), ("203.0.113.3", 8080)]
    assert endpoints.of(("n", "s"), "https") == endpoints.of(("n", "t"), "http") == []
    endpoints.remove(_slice("1", "203.0.113.1", ready=True))
    assert endpoints.of(("n", "s"), "other") == [("203.0.113.3", 9090)]
