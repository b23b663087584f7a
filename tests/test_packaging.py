"""What a fresh clone relies on: the help of the Makefile, the constraints, one version."""

import re
import runpy
import subprocess
import sys
import tomllib
from pathlib import Path

import yaml

from epp_client.version import VERSION

ROOT = Path(__file__).parents[1]


def make(*arguments: str) -> str:
    done = subprocess.run(
        ["make", "--no-print-directory", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    return done.stdout


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def constraints() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    return dict(line.split("==") for line in lines)


def test_help_lists_every_target() -> None:
    makefile = (ROOT / "Makefile").read_text()
    (phony,) = re.findall(r"^\.PHONY: ((?:.*\\\n)*.*)$", makefile, re.MULTILINE)
    listed = set(re.findall(r"^  make (\S+)", make("help"), re.MULTILINE))
    assert listed == set(phony.replace("\\", "").split())
    assert listed >= {"help", "venv", "demo", "test", "check", "protos", "bench", "clean"}


def test_help_is_the_default() -> None:
    assert make() == make("help")


def test_constraints_are_names_and_versions_alone() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+", line), line


def test_every_direct_dependency_is_constrained() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    direct = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {canonical(re.split(r"[^A-Za-z0-9._-]", item)[0]) for items in direct for item in items}
    assert names - {"epp-client"} <= {canonical(name) for name in constraints()}


def test_the_package_and_its_distribution_agree_on_the_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == VERSION


def test_every_place_that_states_the_version_states_the_same() -> None:
    release = runpy.run_path(str(ROOT / ".ci" / "release.py"))
    for name, before in release["STATED"].items():
        found = re.findall(rf"(?:{before})({release['NUMBER']})", (ROOT / name).read_text())
        assert set(found) == {VERSION}, name


def test_the_changelog_has_a_section_for_the_version() -> None:
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert re.search(rf"^## {re.escape(VERSION)} - \d{{4}}-\d\d-\d\d$", changelog, re.M)


def test_the_hooks_before_a_commit_run_what_make_check_runs() -> None:
    checked = make("--dry-run", "--always-make", "check")
    config = ROOT / ".pre-commit-config.yaml"
    validate = [f"{Path(sys.executable).parent}/pre-commit", "validate-config", str(config)]
    assert subprocess.run(validate, timeout=60).returncode == 0
    [local] = yaml.safe_load(config.read_text())["repos"]
    assert local["repo"] == "local", "nothing is fetched"
    for hook in local["hooks"]:
        program, *arguments = hook["entry"].replace(" --force-exclude", "").split()
        assert (ROOT / program).exists(), program
        assert " ".join([program, *arguments]) in checked
