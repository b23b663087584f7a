"""docs/kubernetes.md and docs/operations.md: their commands name things that exist."""

import re
import shlex
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from epp_client.cli import app
from tests.deploy.kustomize import render
from tests.deploy.test_kubernetes import INSTALLS, RENDERED

ROOT = Path(__file__).parents[2]
DOCS = ("kubernetes.md", "operations.md")


def commands(text: str) -> list[str]:
    """The lines of all `sh` blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.strip()]


README = (ROOT / "README.md").read_text().split("\n## In Kubernetes\n")[1].split("\n## ")[0]
LINES = [
    *((name, line) for name in DOCS for line in commands((ROOT / "docs" / name).read_text())),
    *(("README.md", line) for line in commands(README)),
]
EXIST = {(o["kind"].lower(), o["metadata"]["name"]) for name in RENDERED for o in RENDERED[name]}
PORTS = {
    port["containerPort"]
    for name in ("base", "example")
    for made in RENDERED[name]
    if made["kind"] == "Deployment"
    for kind in ("initContainers", "containers")
    for container in made["spec"]["template"]["spec"].get(kind, [])
    for port in container.get("ports", [])
}


def words(line: str) -> list[str]:
    return [word for word in shlex.split(line) if word != "&"]


def test_there_are_commands() -> None:
    assert {name for name, _ in LINES} == {*DOCS, "README.md"}
    assert len(LINES) > 20


@pytest.mark.parametrize(("name", "line"), LINES)
def test_files_and_folders_exist(name: str, line: str) -> None:
    made = {"pools.yaml"}
    for word in words(line):
        if re.match(r"(config|docs)/", word):
            assert (ROOT / word).exists(), word
        if word.endswith(".yaml") and "/" not in word:
            assert word in made
    if line.startswith("kubectl apply -k config/"):
        assert render(ROOT / words(line)[-1])


@pytest.mark.parametrize(("name", "line"), [item for item in LINES if "kubectl" in item[1]])
def test_objects_and_ports_exist(name: str, line: str) -> None:
    for kind, thing in re.findall(r"\b(deploy|deployment|service)[/ ]([\w-]+)", line):
        full = "deployment" if kind == "deploy" else kind
        assert (full, thing) in EXIST, line
    if "port-forward" in line:
        last = words(line)[-1].rpartition(":")[2]
        services = [o for o in RENDERED["base"] if o["kind"] == "Service"]
        offered = {port["port"] for o in services for port in o["spec"]["ports"]}
        assert int(last) in (offered if "service/" in line else PORTS)
    for namespace in re.findall(r"-n (\S+)", line):
        assert ("namespace", namespace) in EXIST
    for label, value in re.findall(r"-l ([\w./-]+)=([\w-]+)", line):
        labels = [
            o["spec"]["template"]["metadata"]["labels"]
            for o in [*RENDERED["base"], *RENDERED["example"]]
            if o["kind"] == "Deployment"
        ]
        slices = label == "kubernetes.io/service-name" and ("service", value) in EXIST
        assert slices or any(item.get(label) == value for item in labels), line


@pytest.mark.parametrize(("name", "line"), [i for i in LINES if i[1].startswith("epp-client ")])
def test_our_own_commands_have_these_options(name: str, line: str) -> None:
    command = get_command(app).commands[words(line)[1]]  # type: ignore[attr-defined]
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words(line) if word.startswith("--")} <= known


def test_the_sed_of_the_image_changes_the_image() -> None:
    (line,) = [line for _, line in LINES if line.startswith("sed ")]
    *_, script, file = words(line)
    _, old, new, _ = script.split("|")
    text = (ROOT / file).read_text()
    assert text.count(old) == 1
    images = yaml.safe_load(text.replace(old, new))["images"]
    (push,) = [line for _, line in LINES if line.startswith("docker push ")]
    assert words(push)[-1] == f"{images[0]['newName']}:{images[0]['newTag']}"


def test_every_variant_is_in_the_table() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    listed = set(re.findall(r"^\| `config/kubernetes/(\S+)` \|", text, re.MULTILINE))
    assert listed | {"base"} == set(INSTALLS)


def test_the_example_of_a_combination_renders(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    head = "apiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n"
    absolute = block.replace("../..", str(ROOT / "config" / "kubernetes"))
    (tmp_path / "kustomization.yaml").write_text(head + absolute)
    kinds = {made["kind"] for made in render(tmp_path)}
    assert "ClusterRole" in kinds
    assert "Role" not in kinds
