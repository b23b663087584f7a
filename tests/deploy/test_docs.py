"""Every command that a document shows is run, or names only things that exist.

What a reader does on this machine is run, here or in tests/e2e/test_getting_started.py. Of commands for a
cluster the files, objects, ports and options are looked up.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest
import yaml
from typer.main import get_command

from epp_client.cli import app
from epp_client.controller.app import template
from epp_client.controller.objects import Defaults, Plane, objects_of
from epp_client.controller.parameters import Parameters, read_parameters
from epp_client.pool.parse import settings_from
from epp_client.pool.settings import ANNOTATION_PREFIX, PoolSettings
from reference.__main__ import FOLDER, HEAD, PAGES
from reference.annotations import annotation_fields
from reference.helm_values import CHART, documented
from testbed.demo import STEPS
from testbed.envoy import envoy_binary
from tests.cluster.llm_d import VERSION as LLM_D_VERSION
from tests.deploy.dockerfile import STAGES
from tests.deploy.kustomize import render
from tests.deploy.test_kubernetes import INSTALLS, RENDERED

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *sorted(ROOT.glob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    ROOT / "benchmarks" / "README.md",
    ROOT / "tests" / "cluster" / "README.md",
]


class Line(NamedTuple):
    """A command, and the page that shows it."""

    page: str
    text: str

    @property
    def words(self) -> list[str]:
        """Without redirection and `&`."""
        found = [word for word in shlex.split(self.text, comments=True) if word != "&"]
        return found[: found.index(">")] if ">" in found else found

    @property
    def options(self) -> set[str]:
        return {word.partition("=")[0] for word in self.words if word.startswith("--")}


def commands(text: str) -> list[str]:
    """The lines of all `sh` blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


LINES = [
    Line(str(page.relative_to(ROOT)), line)
    for page in DOCUMENTS
    for line in commands(page.read_text())
]
CLUSTER = [
    made
    for name in ("base", "example", "overlays/existing-envoy", "models/vllm")
    for made in RENDERED[name]
]
KUBERNETES = ROOT / "config" / "kubernetes"
GATEWAY = [made for name in ("controller", "gateway") for made in render(KUBERNETES / name)]
PARAMETERS = yaml.safe_load((KUBERNETES / "gateway" / "parameters.yaml").read_text())


def made_by_the_controller() -> list[Any]:
    """The objects of the Gateway in config/kubernetes/gateway."""
    [gateway] = [made for made in GATEWAY if made["kind"] == "Gateway"]
    gateway["metadata"]["uid"] = "any"
    plane = Plane(gateway, Parameters(), Defaults("sidecar", "envoy"))
    return list(objects_of(plane, template()).values())


CLUSTER += [*GATEWAY, *made_by_the_controller()]
EXIST = {(made["kind"].lower(), made["metadata"]["name"]) for made in CLUSTER}
IMAGE = yaml.safe_load((ROOT / "config/kubernetes/base/kustomization.yaml").read_text())["images"][
    0
]
PORTS = {
    port["containerPort"]
    for made in CLUSTER
    if made["kind"] == "Deployment"
    for kind in ("initContainers", "containers")
    for container in made["spec"]["template"]["spec"].get(kind, [])
    for port in container.get("ports", [])
}
ENVOY_ADMIN = 9901
LLM_D = yaml.safe_load((ROOT / "config/llm-d/values.yaml").read_text())["router"]["proxy"]
PORTS |= {port["containerPort"] for port in LLM_D["ports"]}


def written(page: str) -> set[str]:
    """What the page's commands write."""
    text = (ROOT / page).read_text()
    how = r" (?:>|-out|-keyout) (\S+)"
    return {word for line in commands(text) for word in re.findall(how, line)}


def output_of(*command: str) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, cwd=ROOT, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


# --- one check for each program ---


def make_target(line: Line) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = [word for word in line.words[1:] if not word.startswith("-") and "=" not in word]
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE) or "/" in target, target
    for word in line.words[1:]:
        variable, equals, value = word.partition("=")
        if equals:
            assert f"$({variable})" in makefile or f"$(or $({variable})" in makefile, variable
        if variable == "BENCH":
            # Its packages are not there, so it cannot be asked for its help.
            source = (ROOT / "benchmarks" / "__main__.py").read_text()
            for option in re.findall(r"--([a-z]+)", value):
                assert re.search(rf"^    {option}: ", source, re.MULTILINE), option


def our_own(line: Line) -> None:
    command = get_command(app).commands.get(line.words[1])  # type: ignore[attr-defined]
    if command is None:
        assert line.words[1:] in (["--version"], ["--install-completion"])
        return
    known = {
        option
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    assert line.options <= known


def kubectl(line: Line) -> None:
    text = line.text
    for kind, thing in re.findall(
        r"\b(deploy|deployment|service|inferencepool)[/ ](\w[\w-]*)", text
    ):
        assert ("deployment" if kind == "deploy" else kind, thing) in EXIST
    if "port-forward" in text:
        last = int(line.words[-1].rpartition(":")[2])
        services = [o for o in CLUSTER if o["kind"] == "Service"]
        offered = {port["port"] for o in services for port in o["spec"]["ports"]}
        assert last in (offered if "service/" in text else {*PORTS, ENVOY_ADMIN})
    for namespace in re.findall(r"-n (\S+)", text):
        assert ("namespace", namespace) in EXIST
    for label, value in re.findall(r"-l ([\w./-]+)=([\w-]+)", text):
        labels = [
            o["spec"]["template"]["metadata"]["labels"]
            for o in CLUSTER
            if o["kind"] == "Deployment"
        ]
        slices = label == "kubernetes.io/service-name" and ("service", value) in EXIST
        assert slices or any(item.get(label) == value for item in labels)
    for folder in re.findall(r"-k (config/\S+)", text):
        assert render(ROOT / folder)


def curl(line: Line) -> None:
    """Its address is one of ours, and its path exists there."""
    if "--connect-to" in line.words:
        # Of a Gateway: tests/cluster/test_gateway_page.py sends it.
        assert re.search(r"https?://llama\.example\.com/v1/completions", line.text)
        return
    [(port, path)] = re.findall(r"(?:127\.0\.0\.1|localhost):(\d+)(/[\w/]*)", line.text)
    admin = (ROOT / "epp_client" / "admin" / "server.py").read_text()
    paths = {
        "9902": set(re.findall(r'add_get\("([^"]+)"', admin)),
        # Envoy's admin page, and the model server's API through its listener.
        str(ENVOY_ADMIN): {"/runtime"},
        # `/docs` is a redirect of docs/getting-started/gateway.yaml.
        "8080": {"/v1/completions", "/docs"},
    }
    assert path in paths[port]


def image(line: Line) -> None:
    names = r"(\S+/)?epp-client(-standalone)?:[\d.]+"
    name = next(word for word in line.words if re.fullmatch(names, word)).rpartition("/")[2]
    assert name in (f"{IMAGE['name']}:{IMAGE['newTag']}", LLM_D["image"])
    if line.words[-1] == ".":
        target = "standalone" if name == LLM_D["image"] else ""
        given = line.words[line.words.index("--target") + 1] if "--target" in line.words else ""
        assert given == target
        assert target in STAGES


def llm_d_chart(line: Line) -> None:
    """Of llm-d's chart: the version that is tested, and our image."""
    assert line.words[1] == "upgrade"
    chart = next(word for word in line.words if word.startswith("oci://"))
    assert chart.rpartition("/")[2] == "llm-d-router-standalone"
    assert line.words[line.words.index("--version") + 1] == LLM_D_VERSION
    for word, value in zip(line.words, line.words[1:], strict=False):
        if word == "--set":
            key, _, setting = value.partition("=")
            assert key.startswith(("router.modelServers.matchLabels.", "router.proxy.")), key
            assert key != "router.proxy.image" or setting == LLM_D["image"]


def module(line: Line) -> None:
    if line.words[1].endswith("/simulation.py"):
        # `epp-client init` writes it: tests/e2e/test_init.py runs the page.
        return
    name = line.words[2]
    if name != "pytest":
        known = re.findall(r"--[a-z-]+", output_of(sys.executable, "-m", name, "--help"))
        assert line.options <= set(known)


def envoy(line: Line) -> None:
    known = output_of(envoy_binary(), "--help")
    for word in line.words[1:]:
        assert not word.startswith("-") or re.search(rf"{word}\b", known), word


def edits_once(line: Line) -> None:
    script, file = line.words[-2:]
    # What a page copies into a folder of its own is edited there.
    file = re.sub(r"^build/run/\w+/", "docs/getting-started/", file)
    before = (ROOT / file).read_text()
    after = output_of("sed", script, file)
    changed = [a for a, b in zip(before.splitlines(), after.splitlines(), strict=True) if a != b]
    assert len(changed) == 1


def helm(line: Line) -> None:
    """Its chart, values and namespace exist. What they make: tests/cluster/test_chart.py."""
    if any(word.startswith("oci://") for word in line.words):
        llm_d_chart(line)
        return
    assert line.words[1] in ("install", "upgrade", "template", "uninstall")
    assert line.words[1] == "uninstall" or (ROOT / line.words[3] / "Chart.yaml").exists()
    assert ("namespace", line.words[line.words.index("--namespace") + 1]) in EXIST
    known = {value.name for value in documented((CHART / "values.yaml").read_text())}
    for option, value in pairwise(line.words):
        if option == "--set":
            name = re.sub(r"\[.*", "", value.partition("=")[0])
            assert any(f"{name}.".startswith(f"{one}.") for one in known), name


CHECKS: Final[Mapping[str, Callable[[Line], None]]] = {
    "make": make_target,
    "epp-client": our_own,
    "kubectl": kubectl,
    "curl": curl,
    "docker": image,
    "kind": image,
    "helm": helm,
    "python": module,
    "python3": module,
    ".venv/bin/python": module,
    "envoy": envoy,
    "sed": edits_once,
}
NOT_OURS: Final = (
    *("cp", "export", "kill", "mkdir", "sudo", "git", "kind create"),
    *("cloud-provider-kind", "openssl", "sleep"),
    *("POOL=", ".venv/bin/locust", ".venv/bin/pre-commit", "benchmarks/vegeta/run.sh"),
)
"""Begin commands that name nothing of ours but files."""


@pytest.mark.parametrize(
    "line", [line for line in LINES if not line.text.startswith(NOT_OURS)], ids=str
)
def test_a_command_names_what_exists(line: Line) -> None:
    CHECKS[line.words[0].removeprefix(".venv/bin/")](line)


@pytest.mark.parametrize("line", LINES, ids=str)
def test_files_and_folders_exist(line: Line) -> None:
    for word in line.words:
        if re.match(r"(config|docs|tests|benchmarks|build)/[\w./-]+$", word) or (
            re.fullmatch(r"[\w-]+\.(yaml|json)", word)
        ):
            made = word in written(line.page) or word.startswith("build/run")
            assert made or (ROOT / word).exists(), word


def test_every_page_of_steps_has_commands() -> None:
    pages = {line.page for line in LINES}
    started = {str(page.relative_to(ROOT)) for page in (ROOT / "docs/getting-started").glob("*.md")}
    assert {"README.md", "docs/runbook.md", "docs/operations.md", *started} <= pages


def test_the_bootstrap_of_the_existing_envoy_is_valid(tmp_path: Path) -> None:
    """What docs/getting-started/existing-envoy.md has on this machine, in its order."""
    page = "docs/getting-started/existing-envoy.md"
    mine = [line for line in LINES if line.page == page]
    programs = f"{Path(sys.executable).parent}:{Path(envoy_binary()).parent}:{os.environ['PATH']}"
    said = ""
    for line in mine:
        if "build/sidecar.yaml" in line.text:
            done = subprocess.run(
                ["bash", "-c", line.text.replace("build/", f"{tmp_path}/")],
                cwd=ROOT,
                env={**os.environ, "PATH": programs},
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            )
            said += done.stdout
    [expected] = re.findall(r"```text\n(configuration .*)\n```", (ROOT / page).read_text())
    assert expected.replace("build/", f"{tmp_path}/") in said
    parts = yaml.safe_load((tmp_path / "sidecar.yaml").read_text())
    clusters = {cluster["name"] for cluster in parts["static_resources"]["clusters"]}
    assert clusters == {"epp-client", "epp-client-xds"}
    assert "dynamic_resources" in parts


def test_the_patch_for_an_existing_envoy_gets_its_name() -> None:
    """kubectl refuses a patch whose name is not the Deployment's."""
    page = "docs/getting-started/existing-envoy.md"
    [edit] = [line for line in LINES if line.page == page and line.words[0] == "sed"]
    [patch] = [line for line in LINES if line.page == page and "--patch-file" in line.words]
    made = yaml.safe_load(output_of("sed", *edit.words[-2:]))
    assert made["metadata"]["name"] == patch.words[patch.words.index("deployment") + 1]


def test_the_sed_of_the_image_changes_the_image() -> None:
    page = "docs/getting-started/kubernetes.md"
    [line] = [line for line in LINES if line.page == page and line.words[:2] == ["sed", "-i"]]
    made = yaml.safe_load(output_of("sed", *line.words[-2:]))["images"]
    [push] = [line for line in LINES if line.words[:2] == ["docker", "push"]]
    assert push.words[-1] == f"{made[0]['newName']}:{made[0]['newTag']}"


def test_the_readme_shows_steps_of_the_demo() -> None:
    shown, *_ = re.findall(r"```text\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    steps = [[cell.strip() for cell in row.split("│")[1:3]] for row in shown.splitlines()]
    assert len(steps) >= 3
    for name, stated in steps:
        assert (name, stated) in {(step[0], step[1]) for step in STEPS}


def test_every_variant_is_in_the_table() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    listed = set(re.findall(r"^\| `config/kubernetes/(\S+)` \|", text, re.MULTILINE))
    assert listed | {"base"} == set(INSTALLS)


def test_the_example_of_a_combination_renders(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    blocks = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    (block,) = [block for block in blocks if "components:" in block]
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    absolute = block.replace("../..", str(ROOT / "config" / "kubernetes"))
    (tmp_path / "kustomization.yaml").write_text(head + absolute)
    kinds = {made["kind"] for made in render(tmp_path)}
    assert "ClusterRole" in kinds
    assert "Role" not in kinds


def test_the_picture_of_the_packages_is_true() -> None:
    """Every package is in it, and imports only what is below it."""
    picture = (ROOT / "docs" / "images" / "rooms.svg").read_text()
    layer = {
        name: float(y)
        for y, text in re.findall(r" y='([\d.]+)' [^>]*font-weight[^>]*>([^<]*)<", picture)
        for name in re.findall(r"(\w+)(?:/|\.py)", text.partition("(")[0])
    }
    package = ROOT / "epp_client"
    assert {path.parent.name for path in package.glob("*/__init__.py")} <= layer.keys()
    for path in package.rglob("*.py"):
        mine = path.relative_to(package).parts[0].removesuffix(".py")
        for other in re.findall(
            r"^(?:from|import) epp_client\.(\w+)", path.read_text(), re.MULTILINE
        ):
            if mine in layer and other in layer and (mine, other) != ("metrics", "relay"):
                assert layer[mine] <= layer[other], f"{mine} imports {other}"


def test_the_parameters_on_the_page_are_those_of_the_file_and_can_be_used() -> None:
    [shown] = re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "controller.md").read_text(), re.DOTALL
    )
    assert yaml.safe_load(shown) == PARAMETERS
    found = read_parameters(PARAMETERS)
    assert isinstance(found, Parameters), found
    assert found.replicas == 1


def test_the_values_on_the_page_are_those_of_the_file() -> None:
    page = ROOT / "docs" / "getting-started" / "helm.md"
    [shown] = re.findall(r"```yaml\n(.*?)```", page.read_text(), re.DOTALL)
    assert page.with_name("helm-values.yaml").read_text() == shown


# --- the reference ---


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_reference_is_what_the_code_says(name: str) -> None:
    assert (FOLDER / name).read_text() == HEAD + PAGES[name](), "run `make reference`"


def test_every_annotation_of_the_reference_is_one() -> None:
    for name, (_, meaning) in annotation_fields().items():
        wrong = {f"{ANNOTATION_PREFIX}{name}": "\0"}
        _, faults = settings_from(wrong, PoolSettings())
        assert not any("no such setting" in fault.text for fault in faults), name
        assert meaning, name
    _, [fault] = settings_from({f"{ANNOTATION_PREFIX}none": "1"}, PoolSettings())
    assert set(fault.text.partition("there are ")[2].split(", ")) == annotation_fields().keys()


def test_every_option_of_the_reference_has_its_meaning() -> None:
    page = (FOLDER / "command-line.md").read_text()
    rows = re.findall(r"^\| `--.*$", page, re.MULTILINE)
    assert len(rows) > 60
    assert not [row for row in rows if row.endswith("|  |")]
