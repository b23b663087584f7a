"""The Helm chart: the same objects as config/kubernetes; values are checked, and each has an effect."""

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml

from epp_client.gateway.table import GatewayName
from epp_client.kubernetes.status.lease import lease_name
from epp_client.kubernetes.status.merge import Parent
from reference.helm_values import documented
from testbed.cluster.api import Object
from testbed.envoy import envoy_binary
from tests.cluster.chart_values import INSTEAD_OF_POOLS, SOME, WITH, merged, nested
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
from tests.deploy.test_kubernetes import flags, options

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


def _written_by(container: Object) -> str:
    """What the init container writes, by running it."""
    assert container["args"][-1] == "--output=/run/envoy/envoy.yaml"
    return _written(tuple(container["args"][:-1]))


@functools.cache
def _written(arguments: tuple[str, ...]) -> str:
    with tempfile.TemporaryDirectory(prefix="epp-client-bootstrap-") as folder:
        file = Path(folder) / "envoy.yaml"
        command = (sys.executable, "-m", "epp_client", *arguments, f"--output={file}")
        subprocess.run(command, check=True, timeout=60)
        return file.read_text()


def _with_its_bootstrap(objects: list[Object]) -> list[Object]:
    """As if the bootstrap that the init container writes were in the ConfigMap: how kustomize does it."""
    found = by_name(objects)
    pod = found["Deployment", RELEASE]["spec"]["template"]["spec"]
    container = pod["initContainers"].pop(0)
    found["ConfigMap", f"{RELEASE}-envoy"]["data"]["envoy.yaml"] = _written_by(container)
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
def test_it_installs_what_kustomize_installs(overlay: str) -> None:
    made = template({**AS_KUSTOMIZE, **POOLS, **OVERLAYS[overlay]})
    ours = _as_data(comparable(_with_its_bootstrap(made)))
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


def test_envoy_accepts_the_bootstrap_of_every_option(tmp_path: Path) -> None:
    values: Object = {
        "pools": [
            {"name": "llama", "requestMode": "headers"},
            {"name": "qwen", "namespace": "b", "requestMode": "headers", "responseMode": "skip"},
        ],
        "routes": [
            {"prefix": "/v1/", "pool": "b/qwen"},
            {"prefix": "/", "pool": "inference/llama"},
        ],
        "sidecar": {"workers": 3},
        "envoy": {"configArgs": ["--idle-timeout=60", "--upgrade=none"]},
    }
    pod = by_name(template(values))["Deployment", RELEASE]["spec"]["template"]["spec"]
    text = _written_by(pod["initContainers"][0])
    (tmp_path / "envoy.yaml").write_text(text)
    assert text.count("ext-proc-") == 3
    # In both routes of both pools.
    assert text.count("request_trailer_mode: SKIP") == 4
    assert text.count("response_trailer_mode: SKIP") == 2
    routes = re.findall(r"match:\s+prefix: (\S+)\n.*?cluster: inferencepool/(\S+)", text, re.DOTALL)
    assert routes == [("/v1/", "b/qwen")] * 2 + [("/", "inference/llama")] * 2
    done = subprocess.run(
        [envoy_binary(), "--mode", "validate", "-l", "error", "-c", str(tmp_path / "envoy.yaml")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


def test_the_programs_know_every_argument() -> None:
    names = ("status.enabled", "status.controllerName", "pickerTls.mode", "pickerTls.caConfigMap")
    more = ("pickerTls.clientSecret", "sidecar.workers", "namespaces", "envoy.tlsSecret")
    values = merged(POOLS, *(nested(name, SOME[name]) for name in (*names, *more)))
    [deployment] = [made for made in template(values) if made["kind"] == "Deployment"]
    pod = deployment["spec"]["template"]["spec"]
    used = {container["args"][0]: set(flags(container)) for container in pod["initContainers"]}
    assert used.keys() == {"envoy-config", "hold", "serve"}
    for command, given in used.items():
        assert given <= options(command), command
    assert {"--picker-cert", "--picker-ca", "--controller-name", "--workers"} < used["serve"]
    assert {"--tls-cert", "--tls-key"} < used["envoy-config"]


def test_its_monitoring_is_that_of_config_prometheus() -> None:
    values = {"podMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    made = comparable(template({**AS_KUSTOMIZE, **POOLS, **values}))
    monitor = yaml.safe_load((PROMETHEUS / "podmonitor.yaml").read_text())
    rule = yaml.safe_load((PROMETHEUS / "prometheusrule.yaml").read_text())
    assert made["PodMonitor", RELEASE] == monitor
    assert made["PrometheusRule", RELEASE]["spec"] == rule["spec"]


def test_its_alerts_have_the_labels_the_runbook_and_the_objective_of_the_values() -> None:
    given = {"alertLabels": {"team": "a", "severity": "page"}, "objective": 0.9995}
    values = {"enabled": True, "runbookUrl": "https://wiki.example.com/runbook", **given}
    made = by_name(template({**POOLS, "prometheusRule": values}))["PrometheusRule", RELEASE]
    rules = [rule for group in made["spec"]["groups"] for rule in group["rules"]]
    alerts = {rule["alert"]: rule for rule in rules if "alert" in rule}
    assert all(rule["labels"] == given["alertLabels"] for rule in alerts.values())
    links = {rule["annotations"]["runbook_url"].partition("#")[0] for rule in alerts.values()}
    assert links == {"https://wiki.example.com/runbook"}
    fast = alerts["EppClientErrorBudgetBurnsFast"]["expr"]
    assert "14.4 * (1 - 0.9995)" in fast
    assert "0.999)" not in fast
    assert not any("labels" in rule for rule in rules if "record" in rule)


# --- lint and values ---


@pytest.mark.parametrize("values", ["gateway", "sidecar", "controller"])
def test_it_is_lint_free(values: str) -> None:
    said = helm("lint", "--strict", str(CHART), "--values", str(CHART / "ci" / f"{values}.yaml"))
    assert "1 chart(s) linted, 0 chart(s) failed" in said
    assert "[WARNING]" not in said


WRONG: dict[str, tuple[Object, str]] = {
    "an unknown value": ({"podmonitor": {}}, "additional properties 'podmonitor' not allowed"),
    "an unknown value inside": ({"envoy": {"resurces": {}}}, "'resurces' not allowed"),
    "a wrong type": ({"autoscaling": {"minReplicas": "two"}}, "minReplicas"),
    "an unknown mode": ({"mode": "daemonset"}, "'gateway', 'sidecar', 'controller'"),
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
    "a drain that ends before it begins": (
        {"envoy": {"drainMinSeconds": 60, "drainMaxSeconds": 30}},
        "envoy.drainMinSeconds: must be less",
    ),
    "a CA that is not used": (
        {"pickerTls": {"caConfigMap": "ca"}},
        "pickerTls.caConfigMap: needs pickerTls.mode=verified",
    ),
    "a certificate without TLS": (
        {"pickerTls": {"mode": "plaintext", "clientSecret": "s"}},
        "pickerTls.clientSecret: needs TLS",
    ),
    "pools of a controller": (
        {"mode": "controller"},
        "mode controller: serves the Gateways and HTTPRoutes of all namespaces; remove pools",
    ),
    "a status of a controller": (
        {"mode": "controller", "pools": [], "status": {"enabled": True}},
        "status.enabled: remove it; the controller always reports",
    ),
    "a controller name without a path": ({"controller": {"name": "edge"}}, "controller/name"),
    "a Gateway and pools": (
        {"serveGateway": {"enabled": True}},
        "serveGateway.enabled: routes and certificates come from the Gateway; remove pools",
    ),
    "a Gateway of a controller": (
        {"mode": "controller", "pools": [], "serveGateway": {"enabled": True}},
        "serveGateway.enabled: needs mode gateway; with mode controller",
    ),
    "a Gateway beside an Envoy": (
        {"mode": "sidecar", "pools": [], "serveGateway": {"enabled": True}},
        "serveGateway.enabled: needs mode gateway",
    ),
    "a Gateway whose namespace is not served": (
        {"pools": [], "serveGateway": {"enabled": True}, "status": {"gateway": "infra/edge"}},
        r"status.gateway: its namespace infra is not one of the namespaces \(inference\)",
    ),
    "a runbook at no address": (
        {"prometheusRule": {"runbookUrl": "docs/runbook.md"}},
        "prometheusRule/runbookUrl",
    ),
    "an objective in percent": ({"prometheusRule": {"objective": 99.9}}, "objective"),
    "a port of the sidecar": ({"serveGateway": {"ports": [9902]}}, "serveGateway/ports/0"),
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


@functools.cache
def _rendered(values: str) -> list[Object]:
    return template(yaml.safe_load(values))


@pytest.mark.parametrize("name", SOME)
def test_a_value_has_an_effect(name: str) -> None:
    needed = WITH.get(name, {})
    before = POOLS if name in INSTEAD_OF_POOLS else merged(POOLS, needed)
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


def test_two_releases_share_nothing() -> None:
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
