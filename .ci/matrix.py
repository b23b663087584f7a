"""`make matrix`: every supported Python that is on this machine runs the fast tests and the demo.

A venv for each in build/python, made once. A version that is not here is named as skipped.
"""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.compatibility.table import PYTHONS  # noqa: E402

FAST = (
    *("tests/relay", "tests/ext_proc", "tests/picker", "tests/pool", "tests/wire", "tests/xds"),
    *("tests/test_command_line.py", "tests/test_options.py", "tests/test_collector.py"),
)
"""The pure rooms, the wire and the command line."""

HOW = ("-q", "-n", "2", "--timeout", "300")
"""The bound of a test is above its usual one: how fast a Python is does not matter here."""

BOUND = 1800
"""Seconds for one step."""


def interpreter(version: str) -> Path | None:
    """A Python of this minor version: on PATH, or the newest that pyenv has."""
    candidates = [shutil.which(f"python{version}")]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    patches = pyenv.glob(f"{version}.*/bin/python")
    candidates += sorted(map(str, patches), key=lambda path: (len(path), path), reverse=True)
    script = "import sys; print('%d.%d' % sys.version_info[:2])"
    for candidate in filter(None, candidates):
        # A shim of pyenv is on PATH for versions that are not switched on.
        done = subprocess.run([candidate, "-c", script], capture_output=True, text=True, timeout=30)
        if done.stdout.strip() == version:
            return Path(candidate)
    return None


def attempt(*command: str | Path) -> bool:
    """Whether the command succeeds; if not, the end of its output is printed."""
    try:
        done = subprocess.run(
            [str(part) for part in command],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BOUND,
        )
    except subprocess.TimeoutExpired:
        print(f"{command} took more than {BOUND} s")
        return False
    if done.returncode != 0:
        print(done.stdout[-6000:])
    return done.returncode == 0


def venv_of(version: str, python: Path) -> Path | None:
    """The folder of programs of a venv with everything installed; None if that fails."""
    folder = ROOT / "build" / "python" / version
    pip = (folder / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check")
    made = attempt(python, "-m", "venv", folder) and attempt(
        *pip, "--editable", f"{ROOT}[dev]", "--constraint", ROOT / "constraints.txt"
    )
    return folder / "bin" if made else None


def outcome(version: str) -> str:
    """What came of one version, in a few words."""
    python = interpreter(version)
    if python is None:
        return "SKIPPED: not on this machine"
    binaries = venv_of(version, python)
    if binaries is None:
        return "FAILED: does not install"
    if not attempt(binaries / "python", "-m", "pytest", *HOW, *FAST):
        return "FAILED: tests"
    if not attempt(binaries / "python", "-m", "testbed"):
        return "FAILED: demo"
    return "tests and demo pass"


def main() -> None:
    outcomes = {}
    for version in sys.argv[1:] or PYTHONS:
        began = time.monotonic()
        outcomes[version] = outcome(version)
        took = time.monotonic() - began
        print(f"Python {version}: {outcomes[version]} ({took:.0f} s)", flush=True)
    sys.exit(any(text.startswith("FAILED") for text in outcomes.values()))


if __name__ == "__main__":
    main()
