"""config/kubernetes: what is applied is valid, hangs together, and asks for no more than it needs."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from epp_client.cli import app
from epp_client.manifests.lint import lint
from epp_client.pool.settings import PoolSettings
from testbed.envoy import envoy_binary
from tests.deploy.kustomize import HASHED, Object, render

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "config" / "kubernetes"
INSTALLS = ["base", *(f"overlays/{path.name}" for path in sorted((FOLDER / "overlays").iterdir()))]
MODELS = ("models/vllm", "models/sglang")
RENDERED = {name: render(FOLDER / name) for name in [*INSTALLS, "example", *MODELS]}
SIDECAR, HOLDER, ENVOY = "epp-client", "epp-client-hold", "envoy"


def of_kind(name: str, kind: str) -> list[Object]:
    return [made for made in RENDERED[name] if made["kind"] == kind]


def named(items: list[Object], name: str) -> Object:
    (found,) = [item for item in items if item["name"] == name]
    return found


def deployment(name: str) -> Object:
    (found,) = of_kind(name, "Deployment")
    return found


def pod(name: str) -> Object:
    spec: Object = deployment(name)["spec"]["template"]["spec"]
    return spec


def sidecar(name: str) -> Object:
    return named(pod(name)["initContainers"], SIDECAR)


def holder(name: str) -> Object:
    return named(pod(name)["initContainers"], HOLDER)


def envoy(name: str) -> Object:
    return named(pod(name)["containers"], ENVOY)


def flags(container: Object) -> dict[str, str]:
    pairs = [argument.partition("=") for argument in container["args"] if argument[0] == "-"]
    return {key: value for key, _, value in pairs}


def pods_of(name: str) -> Iterator[tuple[str, Object]]:
    for made in of_kind(name, "Deployment"):
        yield made["metadata"]["name"], made["spec"]["template"]["spec"]


# --- the rendering itself ---


@pytest.mark.parametrize("name", RENDERED)
def test_kubectl_renders_the_same(name: str) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("no kubectl on PATH to compare with")
    done = subprocess.run(
        ["kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\b(inference-gateway-envoy)-[a-z0-9]{10}\b", rf"\1{HASHED}", done.stdout)
    theirs = {_identity(made): made for made in yaml.safe_load_all(text)}
    assert theirs == {_identity(made): made for made in RENDERED[name]}


def _identity(made: Object) -> tuple[str, str]:
    return made["kind"], made["metadata"]["name"]


@pytest.mark.parametrize("name", RENDERED)
def test_every_object_has_an_identity_of_its_own(name: str) -> None:
    identities = [_identity(made) for made in RENDERED[name]]
    assert len(set(identities)) == len(identities)
    for made in RENDERED[name]:
        assert made["apiVersion"], made


def test_the_namespaces_agree() -> None:
    (namespace,) = of_kind("example", "Namespace")
    for name in RENDERED:
        found = {made["metadata"].get("namespace") for made in RENDERED[name]} - {None}
        assert found == {namespace["metadata"]["name"]}, name


# --- references ---


@pytest.mark.parametrize("name", RENDERED)
def test_selectors_match_the_labels_of_pods(name: str) -> None:
    labels = [
        made["spec"]["template"]["metadata"]["labels"] for made in of_kind(name, "Deployment")
    ]

    def selects(wanted: dict[str, str]) -> bool:
        return any(wanted.items() <= labelled.items() for labelled in labels)

    for made in RENDERED[name]:
        spec = made.get("spec", {})
        match made["kind"]:
            case "Service":
                assert selects(spec["selector"]), made
            case "PodDisruptionBudget" | "Deployment" | "InferencePool":
                assert selects(spec["selector"]["matchLabels"]), made
            case "NetworkPolicy":
                assert selects(spec["podSelector"]["matchLabels"]), made
    for _, spec in pods_of(name):
        for spread in spec.get("topologySpreadConstraints", []):
            assert selects(spread["labelSelector"]["matchLabels"])


@pytest.mark.parametrize("name", RENDERED)
def test_named_ports_exist(name: str) -> None:
    ports = {
        port["name"]
        for _, spec in pods_of(name)
        for container in [*spec.get("initContainers", []), *spec["containers"]]
        for port in container.get("ports", [])
    }
    for _, spec in pods_of(name):
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            own = {port["name"] for port in container.get("ports", [])}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                action = container.get(probe, {})
                action = action.get("httpGet") or action.get("tcpSocket") or {}
                assert action.get("port") in {None, *own}, (container["name"], probe)
    for made in of_kind(name, "Service"):
        assert {port["targetPort"] for port in made["spec"]["ports"]} <= ports
    for made in of_kind(name, "NetworkPolicy"):
        asked = {port["port"] for rule in made["spec"]["ingress"] for port in rule["ports"]}
        assert asked <= ports


@pytest.mark.parametrize("name", RENDERED)
def test_what_is_mounted_is_there(name: str) -> None:
    maps = {made["metadata"]["name"]: made["data"] for made in of_kind(name, "ConfigMap")}
    for _, spec in pods_of(name):
        volumes = {volume["name"]: volume for volume in spec.get("volumes", [])}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            for mount in container.get("volumeMounts", []):
                assert mount["name"] in volumes
        accounts = {made["metadata"]["name"] for made in of_kind(name, "ServiceAccount")}
        assert spec.get("serviceAccountName") in {None, *accounts}
    if name == "base":
        volume = named(pod(name)["volumes"], "envoy")
        mounted = maps[volume["configMap"]["name"]]
        mount = named(envoy(name)["volumeMounts"], "envoy")["mountPath"]
        words = [*envoy(name)["args"], *envoy(name)["lifecycle"]["preStop"]["exec"]["command"]]
        files = [word for word in words if word.startswith(f"{mount}/")]
        assert {file.removeprefix(f"{mount}/") for file in files} == set(mounted)


@pytest.mark.parametrize("name", RENDERED)
def test_bindings_name_roles_and_accounts_that_exist(name: str) -> None:
    identities = {_identity(made) for made in RENDERED[name]}
    for made in RENDERED[name]:
        if made["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        assert (made["roleRef"]["kind"], made["roleRef"]["name"]) in identities
        for subject in made["subjects"]:
            assert (subject["kind"], subject["name"]) in identities
    for made in of_kind(name, "HorizontalPodAutoscaler"):
        target = made["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) in identities
        containers = {c["name"] for c in [*pod(name)["initContainers"], *pod(name)["containers"]]}
        for metric in made["spec"]["metrics"]:
            container = metric["containerResource"]["container"]
            assert container in containers
            both = [*pod(name)["initContainers"], *pod(name)["containers"]]
            assert "cpu" in named(both, container)["resources"]["requests"]


# --- the bootstrap ---


def _bootstrap() -> str:
    arguments = ["envoy-config", "--pools", str(FOLDER / "example" / "pool.yaml")]
    done = CliRunner().invoke(app, [*arguments, "--status-listen", "0.0.0.0:9903"])
    assert done.exit_code == 0, done.output
    return done.output


def test_the_bootstrap_is_what_envoy_config_prints() -> None:
    assert (FOLDER / "base" / "envoy.yaml").read_text() == _bootstrap()


def test_the_comment_beside_it_is_the_command_that_makes_it() -> None:
    text = (FOLDER / "base" / "kustomization.yaml").read_text()
    assert (
        "epp-client envoy-config --pools ../example/pool.yaml --status-listen 0.0.0.0:9903" in text
    )


def test_envoy_accepts_the_bootstrap() -> None:
    command = [envoy_binary(), "--mode", "validate", "-l", "error", "--use-dynamic-base-id", "-c"]
    done = subprocess.run(
        [*command, str(FOLDER / "base" / "envoy.yaml")], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_bootstrap_and_pod_agree_on_ports_and_sockets() -> None:
    bootstrap = yaml.safe_load(_bootstrap())
    listeners = {
        item["name"]: item["address"]["socket_address"]["port_value"]
        for item in bootstrap["static_resources"]["listeners"]
    }
    ports = {port["name"]: port["containerPort"] for port in envoy("base")["ports"]}
    assert (ports["http"], ports["envoy-status"]) == (listeners["inference"], listeners["status"])
    pipes = re.findall(r"path: (/\S+\.sock)", _bootstrap())
    for container in (envoy("base"), sidecar("base")):
        mount = named(container["volumeMounts"], "epp-client-sockets")["mountPath"]
        assert all(pipe.startswith(f"{mount}/") for pipe in pipes)
    assert bootstrap["admin"]["address"]["socket_address"]["address"] == "127.0.0.1"


def test_the_sidecars_admin_is_where_the_probes_ask() -> None:
    for name in INSTALLS:
        port = named(sidecar(name)["ports"], "epp-admin")["containerPort"]
        assert flags(sidecar(name))["--admin"] == f"0.0.0.0:{port}"


def options(command: str) -> set[str]:
    found = get_command(app).commands[command]  # type: ignore[attr-defined]
    return {option for param in found.params for option in param.opts + param.secondary_opts}


@pytest.mark.parametrize("name", INSTALLS)
def test_hold_knows_every_argument(name: str) -> None:
    assert holder(name)["args"][0] == "hold"
    assert set(flags(holder(name))) <= options("hold")


@pytest.mark.parametrize("name", INSTALLS)
def test_serve_knows_every_argument(name: str) -> None:
    known = options("serve")
    if "--kubernetes" not in known:
        pytest.skip("this `serve` has no --kubernetes")
    assert sidecar(name)["args"][0] == "serve"
    if name == "overlays/status" and "--gateway" not in known:
        pytest.skip("this `serve` has no --gateway")
    assert set(flags(sidecar(name))) <= known


# --- start and end ---


@pytest.mark.parametrize("name", INSTALLS)
def test_the_sidecar_starts_before_envoy_and_outlives_it(name: str) -> None:
    assert sidecar(name)["restartPolicy"] == "Always"
    assert sidecar(name)["startupProbe"]


@pytest.mark.parametrize("name", INSTALLS)
def test_the_holder_is_there_before_the_sidecar_and_outlives_it(name: str) -> None:
    assert [item["name"] for item in pod(name)["initContainers"]] == [HOLDER, SIDECAR]
    assert holder(name)["restartPolicy"] == "Always"
    assert holder(name)["image"] == sidecar(name)["image"]
    socket = flags(holder(name))["--socket"]
    assert flags(sidecar(name))["--hold"] == socket
    for container in (holder(name), sidecar(name)):
        (mount,) = [m for m in container["volumeMounts"] if m["name"] == "epp-client-sockets"]
        assert socket.startswith(mount["mountPath"] + "/")
        assert "readOnly" not in mount
    user, group = (holder(name)["securityContext"][key] for key in ("runAsUser", "runAsGroup"))
    assert user == sidecar(name)["securityContext"]["runAsUser"], "or it is refused"
    assert group == sidecar(name)["securityContext"]["runAsGroup"]


def test_a_drain_and_a_start_fit_into_the_holders_patience_and_that_into_envoys() -> None:
    (option,) = [p for p in get_command(app).commands["hold"].params if p.name == "patience"]  # type: ignore[attr-defined]
    patience = float(flags(holder("base")).get("--patience", option.default))
    assert float(flags(sidecar("base"))["--drain-timeout"]) + 30 <= patience
    clusters = yaml.safe_load(_bootstrap())["static_resources"]["clusters"]
    protocol = named(clusters, "epp-client")["typed_extension_protocol_options"]
    (options_,) = protocol.values()
    http2 = options_["explicit_http_config"]["http2_protocol_options"]
    alive = {key: float(text[:-1]) for key, text in http2["connection_keepalive"].items()}
    assert alive["interval"] + alive["timeout"] >= patience


def test_the_drains_fit_into_the_grace_period() -> None:
    _, _, least, most = envoy("base")["lifecycle"]["preStop"]["exec"]["command"]
    drain = float(flags(sidecar("base"))["--drain-timeout"])
    assert 0 < int(least) < int(most)
    assert int(most) + drain + 10 <= pod("base")["terminationGracePeriodSeconds"]


@pytest.mark.parametrize("name", INSTALLS)
def test_retained_bodies_fit_into_the_memory_limit(name: str) -> None:
    """All that the workers may retain, and half a GiB for the processes themselves."""
    retained = int(flags(sidecar(name))["--max-retained-total"])
    workers = int(flags(sidecar(name)).get("--workers", "1"))
    limit = sidecar(name)["resources"]["limits"]["memory"]
    assert limit == "1Gi"
    assert retained * workers + 512 * 2**20 <= 2**30


# --- least privilege ---


@pytest.mark.parametrize("name", [*INSTALLS, "example"])
def test_every_container_is_restricted(name: str) -> None:
    """The `restricted` Pod Security Standard, but for the Envoy that stands for somebody else's."""
    for owner, spec in pods_of(name):
        if owner == "edge-envoy":
            continue
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["capabilities"] == {"drop": ["ALL"]}
            assert "memory" in container["resources"]["requests"]
            if name != "example":
                assert context["readOnlyRootFilesystem"] is True
                assert context["runAsUser"] > 0


@pytest.mark.parametrize("name", INSTALLS)
def test_the_sidecar_is_restricted_whoever_it_stands_beside(name: str) -> None:
    for container in (sidecar(name), holder(name)):
        context = container["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
    assert "cpu" not in sidecar(name)["resources"]["limits"]


@pytest.mark.parametrize("name", INSTALLS)
def test_only_the_sidecar_has_an_api_token(name: str) -> None:
    accounts = of_kind(name, "ServiceAccount")
    assert [account["automountServiceAccountToken"] for account in accounts] == [False]
    holding = [
        container["name"]
        for container in [*pod(name)["initContainers"], *pod(name)["containers"]]
        if any(m["name"] == "epp-client-token" for m in container.get("volumeMounts", []))
    ]
    assert holding == [SIDECAR]


LEASE = "epp-client.inference.inference-gateway"
READS: dict[str, set[tuple[str, str, str]]] = {
    "list": {
        ("inference.networking.k8s.io", "inferencepools", ""),
        ("", "pods", ""),
        ("", "services", ""),
        ("discovery.k8s.io", "endpointslices", ""),
    },
}
READS["watch"] = READS["list"]
WRITES: dict[str, set[tuple[str, str, str]]] = {
    "list": {("gateway.networking.k8s.io", "httproutes", "")},
    "watch": {("gateway.networking.k8s.io", "httproutes", "")},
    "create": {("coordination.k8s.io", "leases", "")},
    "get": {
        ("inference.networking.k8s.io", "inferencepools", ""),
        ("coordination.k8s.io", "leases", LEASE),
    },
    "patch": {("inference.networking.k8s.io", "inferencepools/status", "")},
    "update": {("coordination.k8s.io", "leases", LEASE)},
}


def granted(name: str) -> dict[str, set[tuple[str, str, str]]]:
    """(group, resource, name) by verb."""
    found: dict[str, set[tuple[str, str, str]]] = {}
    for made in RENDERED[name]:
        if made["kind"] not in ("Role", "ClusterRole"):
            continue
        for rule in made["rules"]:
            for verb in rule["verbs"]:
                found.setdefault(verb, set()).update(
                    (group, resource, only)
                    for group in rule["apiGroups"]
                    for resource in rule["resources"]
                    for only in rule.get("resourceNames", [""])
                )
    return found


@pytest.mark.parametrize("name", INSTALLS)
def test_the_roles_grant_exactly_what_is_used(name: str) -> None:
    expected: dict[str, set[tuple[str, str, str]]] = {}
    for table in [READS, *([WRITES] if name == "overlays/status" else [])]:
        for verb, things in table.items():
            expected[verb] = expected.get(verb, set()) | things
    assert granted(name) == expected
    everywhere = bool(of_kind(name, "ClusterRole"))
    assert everywhere == (name == "overlays/all-namespaces")
    assert everywhere == ("--namespace" not in flags(sidecar(name)))
    assert bool(of_kind(name, "Role")) != everywhere


# --- the example ---


def test_the_example_pool_is_one_that_we_accept() -> None:
    """All that may be said of it alone is that its Pods and its picker are not in the same file."""
    said = " ".join(
        str(problem)
        for problem in lint([FOLDER / "example" / "pool.yaml"], PoolSettings()).problems
    )
    absent = r"\S+ InferencePool inference/llama \S+: (selects no Pod in these|\S.* does not exist)"
    assert re.sub(absent + r".*?(?= /|$)", "", said).strip() == ""


@pytest.mark.parametrize("example", ["example", *MODELS])
def test_the_example_hangs_together(example: str) -> None:
    (pool,) = of_kind(example, "InferencePool")
    reference = pool["spec"]["endpointPickerRef"]
    (service,) = [
        made
        for made in of_kind(example, "Service")
        if made["metadata"]["name"] == reference["name"]
    ]
    assert reference["port"]["number"] in [port["port"] for port in service["spec"]["ports"]]
    (picker,) = [
        made
        for made in of_kind(example, "Deployment")
        if service["spec"]["selector"].items()
        <= made["spec"]["template"]["metadata"]["labels"].items()
    ]
    arguments = flags(picker["spec"]["template"]["spec"]["containers"][0])
    assert arguments["--pool-name"] == pool["metadata"]["name"]
    assert arguments["--pool-namespace"] == pool["metadata"]["namespace"]
    (models,) = [
        made["spec"]["template"]
        for made in of_kind(example, "Deployment")
        if pool["spec"]["selector"]["matchLabels"].items()
        <= made["spec"]["template"]["metadata"]["labels"].items()
    ]
    (server,) = models["spec"]["containers"]
    (target,) = pool["spec"]["targetPorts"]
    assert target["number"] in [port["containerPort"] for port in server["ports"]]
    assert flags(server)["--port"] == str(target["number"])


@pytest.mark.parametrize("name", MODELS)
def test_a_model_server_is_ready_when_its_model_is_loaded_and_ends_after_its_requests(
    name: str,
) -> None:
    (template,) = [
        made["spec"]["template"]
        for made in of_kind(name, "Deployment")
        if made["metadata"]["name"] == "qwen3"
    ]
    assert template["metadata"]["labels"]["llm-d.ai/engine-type"] == name.rpartition("/")[2]
    (server,) = template["spec"]["containers"]
    assert server["resources"]["limits"]["nvidia.com/gpu"] == "1"
    paths = {key: server[key]["httpGet"]["path"] for key in ("startupProbe", "readinessProbe")}
    loaded = {"models/vllm": "/health", "models/sglang": "/health_generate"}
    assert paths == {"startupProbe": loaded[name], "readinessProbe": "/health"}
    assert server["readinessProbe"]["timeoutSeconds"] > 1
    known = server["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert known > PoolSettings().drain_grace
    drain = int(flags(server).get("--shutdown-timeout", "0"))
    assert known + drain < template["spec"]["terminationGracePeriodSeconds"]
