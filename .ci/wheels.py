"""`make wheel`: build the source distribution, the pure wheel and the compiled one, and try them.

Each wheel is built from the source distribution, so that nothing of this checkout is in it by chance.
The tools come from .venv, where constraints.txt has pinned them.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
HOT_MODULE = "epp_client.relay.exchange"
"""One of setup.py's HOT_PATH."""


def run(*command: str | Path, **environment: str) -> str:
    """Standard output; a command that fails ends the build with all that it printed."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=900,
    )
    if done.returncode != 0:
        sys.exit(f"{done.stdout[-4000:]}\nFAILED: {' '.join(map(str, command))}")
    return done.stdout


def build(into: Path) -> list[Path]:
    """The source distribution, the pure wheel and, with a C compiler, the compiled wheel."""
    shutil.rmtree(into, ignore_errors=True)
    tool = (sys.executable, "-m", "build", "--no-isolation", "--outdir", into)
    print("building the source distribution and the pure wheel", flush=True)
    run(*tool)
    if shutil.which("cc"):
        print("building the compiled wheel (a minute)", flush=True)
        run(*tool, EPP_CLIENT_COMPILE="1")
    else:
        print("SKIPPED: no C compiler (cc), so no compiled wheel")
    return sorted(into.iterdir())


def try_wheel(wheel: Path) -> None:
    """Install it into a fresh venv; the program runs, and the hot path is compiled or is not."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    suffix = ".py" if wheel.name.endswith("-none-any.whl") else ".so"
    with tempfile.TemporaryDirectory() as folder:
        binaries = Path(folder) / "venv" / "bin"
        run(sys.executable, "-m", "venv", binaries.parent)
        pip = (binaries / "pip", "install", "--quiet", "--disable-pip-version-check")
        run(*pip, wheel, "--constraint", ROOT / "constraints.txt")
        # With -P nothing of the current folder is imported.
        where = f"import {HOT_MODULE} as module; print(module.__file__)"
        file = run(binaries / "python", "-P", "-c", where).strip()
        said = run(binaries / "epp-client", "--version").strip()
        if said != f"epp-client {version}":
            sys.exit(f"FAILED: {wheel.name} says {said!r}, pyproject.toml has {version}")
        if not file.startswith(folder) or not file.endswith(suffix):
            sys.exit(f"FAILED: {wheel.name} has {HOT_MODULE} as {file}, not as {suffix}")
    print(f"{wheel.name}: installs, says {said!r}, hot path is {suffix}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "dist")
    into = parser.parse_args().into.resolve()
    made = build(into)
    run(sys.executable, "-m", "twine", "check", "--strict", *made)
    for path in made:
        if path.suffix == ".whl":
            try_wheel(path)
    print("\n".join(str(path) for path in made))


if __name__ == "__main__":
    main()
