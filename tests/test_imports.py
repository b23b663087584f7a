"""What a process imports for nothing costs CPU time at every start."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

NOWHERE = "/nowhere"
STARTS = {
    # Both end once they have imported everything: there is no such folder, and no such descriptor.
    "control process": [
        *("epp_client", "serve", "--pools", "config/kubernetes/example", "--admin", "127.0.0.1:0"),
        *("--socket", f"{NOWHERE}/a.sock", "--xds-socket", f"{NOWHERE}/b.sock"),
    ],
    "worker": ["epp_client.workers", "99"],
}
ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("process", STARTS)
def test_serving_does_not_import_rich(process: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *STARTS[process]],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, "PYTHONPROFILEIMPORTTIME": "1"},
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert done.returncode
    assert {"structlog.dev", "epp_client.data_plane.plane"} <= imported
    assert not {name for name in imported if name.startswith("rich.")}


def test_rich_can_still_be_imported() -> None:
    code = (
        "from epp_client.imports import structlog_without_rich as start; start(); start();"
        "import rich.console, structlog; print(structlog.dev.rich)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "None\n"
