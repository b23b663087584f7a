"""The Helm chart: the same objects as config/kubernetes; values are checked, and each has an effect."""

import functools
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp_client.kubernetes.status.lease import lease_name
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.routes import GatewayName
from reference.helm_values import documented
from testbed.cluster.api import Object
from tests.cluster.helm import (
    AS_KUSTOMIZE,
    CHART,
    NAMESPACE,
    RELEASE,
    Refused,
    by_name,
    comparable,
    helm,
    template,
)
from tests.cluster.kustomize import CONFIG, render

PROMETHEUS = CONFIG.parent / "prometheus"
POOLS: Object = {"pools": [{"name": "llama"}]}
OVERLAYS: dict[str, Object] = {
    "base": {},
    "overlays/all-namespaces": {"allNamespaces": True},
    "overlays/status": {"status": {"enabled": True}},
    "overlays/verified-tls": {
        "pickerTls": {"mode": "verified", "caConfigMap": "epp-client-picker-ca"}
    },
}
"""The values that make what an overlay makes."""


def _written_by(container: Object, folder: Path) -> str:
    """What the init container writes, by running it."""
    [written] = [word for word in container["args"] if word.startswith("--output=")]
    assert written == "--output=/run/envoy/envoy.yaml"
    file = folder / "envoy.yaml"
    arguments = [word for word in container["args"] if word != written]
    subprocess.run(
        [sys.executable, "-m", "epp_client", *arguments, f"--output={file}"],
        check=True,
        timeout=60,
    )
    return file.read_text()


def _with_its_bootstrap(objects: list[Object], folder: Path) -> list[Object]:
    """As if the bootstrap that the init container writes were in the ConfigMap: how kustomize does it."""
    found = by_name(objects)
    pod = found["Deployment", RELEASE]["spec"]["template"]["spec"]
    container = pod["initContainers"].pop(0)
    found["ConfigMap", f"{RELEASE}-envoy"]["data"]["envoy.yaml"] = _written_by(container, folder)
    pod["volumes"] = [item for item in pod["volumes"] if item["name"] != "envoy-bootstrap"]
    [envoy] = pod["containers"]
    envoy["volumeMounts"].remove(
        {"name": "envoy-bootstrap", "mountPath": "/run/envoy", "readOnly": True}
    )
    place = envoy["args"].index("/run/envoy/envoy.yaml")
    envoy["args"][place] = "/etc/envoy/envoy.yaml"
    return list(found.values())


def _as_data(objects: dict[tuple[str, str], Object]) -> dict[tuple[str, str], Object]:
    """With the bootstrap as data: the two files differ in an empty line at the end."""
    data = objects["ConfigMap", f"{RELEASE}-envoy"]["data"]
    data["envoy.yaml"] = yaml.safe_load(data["envoy.yaml"])
    return objects


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_it_installs_what_kustomize_installs(overlay: str, tmp_path: Path) -> None:
    made = template({**AS_KUSTOMIZE, **POOLS, **OVERLAYS[overlay]})
    ours = _as_data(comparable(_with_its_bootstrap(made, tmp_path)))
    assert ours == _as_data(comparable(render(CONFIG / overlay)))


def test_every_overlay_has_values() -> None:
    overlays = {f"overlays/{path.name}" for path in (CONFIG / "overlays").iterdir()}
    assert overlays - {"overlays/existing-envoy"} | {"base"} == OVERLAYS.keys()


def test_a_bootstrap_of_ones_own_is_in_the_config_map_as_with_kustomize() -> None:
    bootstrap = (CONFIG / "base" / "envoy.yaml").read_text()
    made = template({**AS_KUSTOMIZE, "envoy": {"bootstrap": bootstrap}})
    assert comparable(made) == comparable(render(CONFIG / "base"))


def test_the_patch_makes_of_an_envoy_what_the_component_makes(tmp_path: Path) -> None:
    made = by_name(template({**AS_KUSTOMIZE, "mode": "sidecar"}))
    patch = made.pop(("ConfigMap", f"{RELEASE}-patch"))["data"]["patch.yaml"]
    # kustomize wants a name in a patch, kubectl does not.
    named = {**yaml.safe_load(patch), "apiVersion": "apps/v1", "kind": "Deployment"}
    (tmp_path / "patch.yaml").write_text(yaml.safe_dump({**named, "metadata": {"name": "any"}}))
    overlay = CONFIG / "overlays" / "existing-envoy"
    (tmp_path / "envoy.yaml").write_text((overlay / "envoy.yaml").read_text())
    kustomization = {
        "namespace": NAMESPACE,
        "resources": ["envoy.yaml"],
        "patches": [{"path": "patch.yaml", "target": {"kind": "Deployment"}}],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    patched = render(tmp_path)
    assert comparable([*made.values(), *patched]) == comparable(render(overlay))


def test_its_monitoring_is_that_of_config_prometheus() -> None:
    values = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    made = comparable(template({**AS_KUSTOMIZE, **POOLS, **values}))
    monitor = yaml.safe_load((PROMETHEUS / "podmonitor.yaml").read_text())
    rule = yaml.safe_load((PROMETHEUS / "prometheusrule.yaml").read_text())
    assert made["PodMonitor", RELEASE] == monitor
    assert made["PrometheusRule", RELEASE]["spec"] == rule["spec"]


# --- lint and values ---


@pytest.mark.parametrize("values", ["gateway", "sidecar"])
def test_it_is_lint_free(values: str) -> None:
    said = helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{values}.yaml"))
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


WRONG: dict[str, tuple[Object, str]] = {
    "an unknown value": ({"podmonitor": {}}, "additional properties 'podmonitor' not allowed"),
    "an unknown value inside": ({"envoy": {"resurces": {}}}, "'resurces' not allowed"),
    "a wrong type": ({"autoscaling": {"minReplicas": "two"}}, "minReplicas"),
    "an unknown mode": ({"mode": "daemonset"}, "'gateway', 'sidecar'"),
    "a pool without a name": ({"pools": [{"namespace": "a"}]}, "missing property 'name'"),
    "a pool with a slash": ({"pools": [{"name": "inference/llama"}]}, "pools/0/name"),
    "a port that is none": ({"service": {"port": 70000}}, "service/port"),
    "no pool": ({"pools": []}, "pools: name the InferencePools"),
    "a route to no pool": (
        {"routes": [{"prefix": "/", "pool": "inference/qwen"}]},
        r"routes: inference/qwen is not one of the pools \(inference/llama\)",
    ),
    "namespaces and all": (
        {"namespaces": ["a"], "allNamespaces": True},
        "namespaces, allNamespaces: set one of the two",
    ),
    "a bootstrap and pools": ({"envoy": {"bootstrap": "{}"}}, "envoy.bootstrap: replaces pools"),
    "a CA that is not used": (
        {"pickerTls": {"caConfigMap": "ca"}},
        "pickerTls.caConfigMap: needs pickerTls.mode=verified",
    ),
    "a certificate without TLS": (
        {"pickerTls": {"mode": "plaintext", "clientSecret": "s"}},
        "pickerTls.clientSecret: needs TLS",
    ),
    "a monitor of nothing": (
        {"mode": "sidecar", "podMonitor": {"enabled": True}},
        "podMonitor.matchLabels: give the labels",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_value_is_refused_by_its_name(case: str) -> None:
    values, why = WRONG[case]
    with pytest.raises(Refused, match=why):
        template({**POOLS, **values})


SOME: dict[str, Any] = {
    "mode": "sidecar",
    "pools": [{"name": "qwen", "namespace": "models", "responseMode": "skip"}],
    "routes": [{"prefix": "/chat", "pool": "inference/llama"}],
    "namespaces": ["models"],
    "allNamespaces": True,
    "image.repository": "registry.example.com/epp-client",
    "image.tag": "9.9.9",
    "image.digest": f"sha256:{'0' * 64}",
    "image.pullPolicy": "Always",
    "imagePullSecrets": [{"name": "registry"}],
    "fullnameOverride": "edge",
    "commonLabels": {"team": "a"},
    "serviceAccount.create": False,
    "serviceAccount.name": "other",
    "serviceAccount.annotations": {"a": "b"},
    "rbac.create": False,
    "status.enabled": True,
    "status.gateway": "infra/edge",
    "status.controllerName": "example.com/gateway",
    "pickerTls.mode": "verified",
    "pickerTls.caConfigMap": "ca",
    "pickerTls.clientSecret": "client",
    "sidecar.workers": 3,
    "sidecar.maxRetainedTotal": 1_000_000_000,
    "sidecar.drainTimeout": 10,
    "sidecar.extraArgs": ["--log-level=debug"],
    "sidecar.extraEnv": [{"name": "EPP_CLIENT_DRAIN_GRACE", "value": "9"}],
    "sidecar.extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
    "sidecar.resources": {"limits": {"memory": "2Gi"}},
    "hold.resources": {"limits": {"memory": "128Mi"}},
    "envoy.image": "envoyproxy/envoy:v1.39.3",
    "envoy.concurrency": 4,
    "envoy.logLevel": "info",
    "envoy.tlsSecret": "edge-tls",
    "envoy.configArgs": ["--idle-timeout=60"],
    "envoy.configResources": {"limits": {"memory": "512Mi"}},
    "envoy.bootstrap": "static_resources: {}\n",
    "envoy.drainMinSeconds": 1,
    "envoy.drainMaxSeconds": 60,
    "envoy.extraArgs": ["--component-log-level", "ext_proc:debug"],
    "envoy.extraEnv": [{"name": "A", "value": "b"}],
    "envoy.extraVolumeMounts": [{"name": "v", "mountPath": "/v"}],
    "envoy.resources": {"limits": {"memory": "2Gi"}},
    "service.type": "LoadBalancer",
    "service.port": 8000,
    "service.annotations": {"a": "b"},
    "service.extraSpec": {"externalTrafficPolicy": "Local"},
    "replicas": 5,
    "autoscaling.enabled": False,
    "autoscaling.minReplicas": 3,
    "autoscaling.maxReplicas": 20,
    "autoscaling.targetCPU": 50,
    "podDisruptionBudget.enabled": False,
    "podDisruptionBudget.maxUnavailable": "10%",
    "networkPolicy.enabled": False,
    "networkPolicy.monitoringNamespace": "prometheus",
    "networkPolicy.extraIngress": [{"ports": [{"port": 1}]}],
    "networkPolicy.extraEgress": [{"ports": [{"port": 53, "protocol": "UDP"}]}],
    "podMonitor.enabled": True,
    "podMonitor.labels": {"release": "prometheus"},
    "podMonitor.interval": "15s",
    "podMonitor.matchLabels": {"app": "edge-envoy"},
    "prometheusRule.enabled": True,
    "prometheusRule.labels": {"release": "prometheus"},
    "podLabels": {"a": "b"},
    "podAnnotations": {"a": "b"},
    "nodeSelector": {"kubernetes.io/os": "linux"},
    "tolerations": [{"key": "a", "operator": "Exists"}],
    "affinity": {"nodeAffinity": {}},
    "topologySpread": False,
    "topologySpreadConstraints": [
        {"topologyKey": "rack", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
    ],
    "priorityClassName": "high",
    "extraVolumes": [{"name": "v", "emptyDir": {}}],
}
"""Another value than the default for every value of the chart."""
WITH: dict[str, Object] = {
    "replicas": {"autoscaling": {"enabled": False}},
    "status.gateway": {"status": {"enabled": True}},
    "status.controllerName": {"status": {"enabled": True}},
    "pickerTls.caConfigMap": {"pickerTls": {"mode": "verified"}},
    "podMonitor.labels": {"podMonitor": {"enabled": True}},
    "podMonitor.interval": {"podMonitor": {"enabled": True}},
    "podMonitor.matchLabels": {
        "mode": "sidecar",
        "podMonitor": {"enabled": True, "matchLabels": {"app": "other"}},
    },
    "prometheusRule.labels": {"prometheusRule": {"enabled": True}},
    "envoy.bootstrap": {"pools": []},
}
"""What a value needs to have an effect."""


def merged(*parts: Object) -> Object:
    """Values, the later ones over the earlier ones, as helm merges them."""
    whole: Object = {}
    for part in parts:
        for key, value in deepcopy(part).items():
            both = isinstance(value, dict) and isinstance(whole.get(key), dict)
            whole[key] = merged(whole[key], value) if both else value
    return whole


def nested(name: str, value: Any) -> Object:
    """The values that `--set name=value` stands for."""
    for part in reversed(name.split(".")):
        value = {part: value}
    nested: Object = value
    return nested


@functools.cache
def _rendered(values: str) -> list[Object]:
    return template(yaml.safe_load(values))


@pytest.mark.parametrize("name", SOME)
def test_a_value_has_an_effect(name: str) -> None:
    needed = WITH.get(name, {})
    before = POOLS if name == "envoy.bootstrap" else merged(POOLS, needed)
    after = merged(POOLS, needed, nested(name, SOME[name]))
    assert template(after) != _rendered(yaml.safe_dump(before))


def test_every_value_is_tried_and_explained() -> None:
    values = documented((CHART / "values.yaml").read_text())
    assert {value.name for value in values} == SOME.keys()
    assert [value.name for value in values if not value.comment] == []


def test_another_lease_is_named_as_the_sidecar_names_it() -> None:
    status = {"enabled": True, "gateway": "infra/edge", "controllerName": "example.com/gateway"}
    made = by_name(template({**POOLS, "status": status}))
    [named] = [
        rule["resourceNames"]
        for rule in made["Role", f"{RELEASE}-status"]["rules"]
        if "resourceNames" in rule
    ]
    parent = Parent(GatewayName("infra", "edge"), "example.com/gateway")
    assert named == [lease_name(parent, "epp-client.dev/gateway")]


def test_several_namespaces_have_a_role_each() -> None:
    values = {"namespaces": ["a", "b"], "status": {"enabled": True}}
    made = template({**POOLS, **values})
    places = {
        (item["metadata"]["name"], item["metadata"]["namespace"]): item["rules"]
        for item in made
        if item["kind"] == "Role"
    }
    leases = ["coordination.k8s.io"]
    for namespace in ("a", "b"):
        assert len(places[RELEASE, namespace]) == 3
        rules = places[f"{RELEASE}-status", namespace]
        assert [rule["apiGroups"] == leases for rule in rules] == [False] * 3
    own = places[f"{RELEASE}-status", NAMESPACE]
    assert [rule["apiGroups"] == leases for rule in own] == [True] * 2
    bindings = [item for item in made if item["kind"] == "RoleBinding"]
    assert {b["subjects"][0]["namespace"] for b in bindings} == {NAMESPACE}


def test_two_releases_share_nothing(tmp_path: Path) -> None:
    values = {**POOLS, "allNamespaces": True, "status": {"enabled": True}}
    first, second = (template(values, release=name) for name in ("blue", "green"))
    assert not by_name(first).keys() & by_name(second).keys()
    elsewhere = template(values, release="blue", namespace="other")
    everywhere = {key for key in by_name(elsewhere) if key[0].startswith("Cluster")}
    assert not everywhere & by_name(first).keys()
    selectors = [
        by_name(made)["Deployment", name]["spec"]["selector"]["matchLabels"]
        for made, name in ((first, "blue"), (second, "green"))
    ]
    assert selectors[0] != selectors[1]
