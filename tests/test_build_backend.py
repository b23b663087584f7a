"""What `pip install` of a checkout or a source distribution builds. `make wheel` really compiles."""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PLAIN = "epp_client-{version}-py3-none-any.whl"
FAILING = """\
import os, sys
from setuptools import setup
if os.environ.get("EPP_CLIENT_COMPILE") == "1":
    sys.exit("epp_client/relay/exchange.py:1: error")
setup()
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A package of one module, with our backend and a setup.py that cannot compile."""
    for name in ("pyproject.toml", "build_backend.py", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "epp_client").mkdir()
    (tmp_path / "epp_client" / "__init__.py").touch()
    (tmp_path / "setup.py").write_text(FAILING)
    return tmp_path


def hook(project: Path, call: str, **environment: str) -> tuple[int, str, Any]:
    """The exit code of a hook, all that it prints, and what it returns."""
    script = f"import build_backend, json; print(json.dumps(build_backend.{call}))"
    inherited = {key: value for key, value in os.environ.items() if key != "EPP_CLIENT_COMPILE"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=project,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )
    said = done.stdout + done.stderr
    return (
        done.returncode,
        said,
        json.loads(done.stdout.splitlines()[-1]) if not done.returncode else None,
    )


def compiler(folder: Path) -> str:
    """A C compiler that is there, which is all that is looked at, beside Python's headers."""
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("this Python has no headers")
    (folder / "cc").touch(mode=0o755)
    return str(folder / "cc")


def stated() -> dict[str, Any]:
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return project


@pytest.mark.parametrize(
    ("environment", "why"),
    [
        ({"CC": "/nowhere/cc"}, "there is no C compiler (/nowhere/cc)"),
        ({"EPP_CLIENT_COMPILE": "0"}, "EPP_CLIENT_COMPILE=0"),
        ({}, "compiling failed: epp_client/relay/exchange.py:1: error"),
    ],
)
def test_what_cannot_be_compiled_is_plain_python_and_says_why(
    environment: dict[str, str], why: str, project: Path
) -> None:
    environment = {"CC": compiler(project), **environment}
    code, said, made = hook(project, "build_wheel('dist')", **environment)
    assert code == 0, said
    assert made == PLAIN.format(version=stated()["version"])
    assert f"epp-client: the hot path is NOT compiled: {why}\n" in said


def test_who_asks_for_compiling_gets_an_error_and_no_plain_python(project: Path) -> None:
    code, said, _ = hook(project, "build_wheel('dist')", EPP_CLIENT_COMPILE="1")
    assert code != 0
    assert "exchange.py:1: error" in said
    assert not list(project.glob("dist/*.whl"))


def test_the_compiler_is_only_fetched_where_it_can_work(project: Path) -> None:
    call = "get_requires_for_build_wheel()"
    _, _, without = hook(project, call, CC="/nowhere/cc")
    assert not [name for name in without if name.startswith("mypy")]
    _, said, needed = hook(project, call, CC=compiler(project))
    # mypyc reads the types of all that the package imports.
    assert {*without, *stated()["dependencies"]} < set(needed), said
    pinned = (ROOT / "constraints.txt").read_text().lower().splitlines()
    tools = set(needed) - {*without, *stated()["dependencies"]}
    assert {name.replace("[mypyc]", "").lower() for name in tools} <= set(pinned)
    assert any(name.startswith("mypy[mypyc]==") for name in tools)
