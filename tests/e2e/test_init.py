"""`epp-client init`: the README's quick start as it stands, and what `init` refuses."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from testbed.ports import free_ports
from tests.e2e.test_getting_started import as_run, plain, steps

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "epp_client", "init")
PORTS = ("9002", "8001", "8002", "8080", "9902", "9901")


def quick_start() -> tuple[list[str], list[str]]:
    """The commands that begin with `init`, and what they print."""
    readme = (ROOT / "README.md").read_text()
    return next(step for step in steps(readme) if "epp-client init" in step[0][0])


@pytest.mark.timeout(120)
def test_the_quick_start_can_be_pasted(tmp_path: Path) -> None:
    commands, expected = quick_start()
    free = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def moved(line: str) -> str:
        """With this test's own ports."""
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: free[match[1]], line)

    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    init, *rest = commands
    move = "; ".join(f"sed -i s/{port}/{free[port]}/ example/*" for port in PORTS)
    script = "\n".join(
        [
            *("set -m", init, move),
            *(moved(as_run(line.removeprefix(".venv/bin/"))) for line in rest),
            "kill %2 %1; wait",
        ]
    )
    path = f"{tmp_path / '.venv' / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    printed = {plain(line) for line in done.stdout.splitlines()}
    assert {plain(line) for line in expected} <= printed, done
    endpoints = re.findall(r"picker: (\S+)", done.stdout)
    assert endpoints, "the picker was not asked"
    assert f"x-served-by: {endpoints[-1]}" in done.stdout
    assert "x-inference-fallback" not in done.stdout


def test_init_replaces_no_file_without_being_told(tmp_path: Path) -> None:
    def init(*more: str) -> subprocess.CompletedProcess[str]:
        command = [*COMMAND, "example", *more]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)

    assert init().returncode == 0
    file = tmp_path / "example" / "endpoints.yaml"
    written = file.read_text()
    file.write_text("mine")
    refused = init()
    assert refused.returncode == 2
    assert "example/endpoints.yaml" in refused.stderr
    assert "--force" in refused.stderr
    assert file.read_text() == "mine"
    assert init("--force").returncode == 0
    assert file.read_text() == written


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    command = [*COMMAND, str(tmp_path / "file" / "example")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert "cannot write to" in done.stderr
    assert "Traceback" not in done.stderr
