"""`make wheel`: build the source distribution, the pure wheel and the compiled one, and try them.

Each wheel is built from the source distribution, so that nothing of this checkout is in it by chance: the
pure one with the tools of .venv, the compiled one as `pip install` builds it for a user. constraints.txt
pins the tools of both.
"""

import argparse
import os
import shutil
import subprocess
import sys
import sysconfig
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
    run(*tool, EPP_CLIENT_COMPILE="0")
    [source] = into.glob("*.tar.gz")
    if shutil.which("cc"):
        print("building the compiled wheel, as pip does (a minute)", flush=True)
        pip_wheel(source, into)
        python = f"cp{sys.version_info.major}{sys.version_info.minor}"
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        if not list(into.glob(f"*-{python}-{python}-{platform}.whl")):
            sys.exit(f"FAILED: pip made no wheel that is tagged {python} and {platform}")
    else:
        print("SKIPPED: no C compiler (cc), so no compiled wheel")
    return sorted(into.iterdir())


def pip_wheel(source: Path, into: Path, **environment: str) -> str:
    """What pip does with the source distribution, and what it prints."""
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    # Which of the two holds for tools depends on pip's version.
    pinned = dict.fromkeys(
        ("PIP_CONSTRAINT", "PIP_BUILD_CONSTRAINT"), str(ROOT / "constraints.txt")
    )
    return run(*pip, "wheel", "-v", "--no-deps", "-w", into, source, **pinned, **environment)


def try_without_compiler(source: Path) -> None:
    """Where there is no C compiler, pip installs plain Python and says so."""
    with tempfile.TemporaryDirectory() as folder:
        said = pip_wheel(source, Path(folder), CC="/nowhere/cc")
        [made] = Path(folder).iterdir()
    if (
        not made.name.endswith("-none-any.whl")
        or "NOT compiled: there is no C compiler" not in said
    ):
        sys.exit(f"FAILED: without a C compiler pip has made {made.name}:\n{said[-4000:]}")
    print("without a C compiler: plain Python, and pip says so", flush=True)


def try_choice(into: Path) -> None:
    """Of all three pip takes the wheel that is compiled for this machine."""
    with tempfile.TemporaryDirectory() as folder:
        pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
        found = ("--no-index", "--find-links", into)
        run(*pip, "download", "--no-deps", *found, "-d", folder, "epp-client")
        [taken] = Path(folder).iterdir()
    compiled = any(not name.name.endswith("-none-any.whl") for name in into.glob("*.whl"))
    if compiled == taken.name.endswith("-none-any.whl"):
        sys.exit(f"FAILED: pip takes {taken.name}")
    print(f"pip takes {taken.name}", flush=True)


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
        asked = "from epp_client.version import hot_path_compiled as it; print(it())"
        compiled = run(binaries / "python", "-P", "-c", asked).strip()
        said = run(binaries / "epp-client", "--version").strip()
        if said != f"epp-client {version}":
            sys.exit(f"FAILED: {wheel.name} says {said!r}, pyproject.toml has {version}")
        if not file.startswith(folder) or not file.endswith(suffix):
            sys.exit(f"FAILED: {wheel.name} has {HOT_MODULE} as {file}, not as {suffix}")
        if compiled != str(suffix == ".so"):
            sys.exit(f"FAILED: of {wheel.name} `serve` would say that compiled is {compiled}")
    print(f"{wheel.name}: installs, says {said!r}, hot path is {suffix}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--into", type=Path, default=ROOT / "build" / "dist")
    into = parser.parse_args().into.resolve()
    made = build(into)
    run(sys.executable, "-m", "twine", "check", "--strict", *made)
    try_choice(into)
    for path in made:
        if path.suffix == ".whl":
            try_wheel(path)
        else:
            try_without_compiler(path)
    print("\n".join(str(path) for path in made))


if __name__ == "__main__":
    main()
