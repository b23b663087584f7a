"""`make audit`: is anything that we pin known to be dangerous? Says what it looked at, and what not.

1. pip-audit, when it is installed beside this project and its advisory service answers.
2. Always: everything installed is pinned as it is, the pins fit together, the index has withdrawn
   (yanked) none of them, and none is older than the fix of an advisory in `advisories.toml`.

The exit code is 1 when something was found, 0 otherwise; what was not checked is printed either way.
"""

import json
import subprocess
import sys
import tomllib
from importlib.metadata import distributions
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")
OURS = {"epp-client", "pip", "setuptools", "wheel"}


def pins() -> dict[str, Version]:
    """Name to version in constraints.txt."""
    found = {}
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        if line.strip() and not line.startswith("#"):
            requirement = Requirement(line)
            (pin,) = requirement.specifier
            assert pin.operator == "==", line
            found[canonicalize_name(requirement.name)] = Version(pin.version)
    return found


def run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def services(pip_audit: str) -> tuple[list[str], str]:
    """What the advisory service says, and how much of it was asked."""
    if not Path(pip_audit).exists():
        return [], "NOT CHECKED: advisory service (pip-audit is not installed)"
    command = (pip_audit, "-r", str(ROOT / "constraints.txt"), "--no-deps", "--disable-pip")
    done = run(*command, "--format", "json", "--progress-spinner", "off")
    try:
        entries = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], f"NOT CHECKED: advisory service ({done.stderr.strip().splitlines()[-1:]})"
    looked_up = [entry for entry in entries if "skip_reason" not in entry]
    found = [
        f"{entry['name']} {entry['version']}: {vulnerability['id']}, fixed in"
        f" {', '.join(vulnerability['fix_versions']) or 'no version yet'}"
        for entry in looked_up
        for vulnerability in entry["vulns"]
    ]
    if not looked_up:
        return [], "NOT CHECKED: advisory service (it answers for none of our packages from here)"
    return found, f"advisory service: {len(looked_up)} of {len(entries)} pins looked up"


def installed(pinned: dict[str, Version]) -> tuple[list[str], str]:
    """Whether what runs here is what is pinned."""
    found = []
    names = {canonicalize_name(d.metadata["Name"]): d.version for d in distributions()}
    for name, version in sorted(names.items()):
        if name in OURS:
            continue
        if name not in pinned:
            found.append(f"{name} {version} is installed and not in constraints.txt")
        elif Version(version) != pinned[name]:
            found.append(f"{name} {version} is installed, {pinned[name]} is pinned")
    check = run(*PIP, "check")
    if check.returncode:
        found += check.stdout.splitlines()
    return found, f"pins: {len(names)} installed packages are as pinned and fit together"


def yanked() -> tuple[list[str], str]:
    """Whether the index has withdrawn a pinned version."""
    done = run(
        *(*PIP, "install", "--dry-run", "--ignore-installed", "--no-deps", "--quiet"),
        *("--report", "-", "-r", str(ROOT / "constraints.txt")),
    )
    try:
        entries = json.loads(done.stdout)["install"]
    except (ValueError, KeyError):
        return [], f"NOT CHECKED: withdrawn versions ({done.stderr.strip().splitlines()[-1:]})"
    found = [
        f"{entry['metadata']['name']} {entry['metadata']['version']} was withdrawn by its authors"
        for entry in entries
        if entry.get("is_yanked")
    ]
    return found, f"index: {len(entries)} pins looked up, none of them withdrawn"


def known(pinned: dict[str, Version]) -> tuple[list[str], str]:
    """What we know of ourselves."""
    table = tomllib.loads((Path(__file__).parent / "advisories.toml").read_text())
    found = [
        f"{name} {pinned[name]} is older than {version}: {text}"
        for name, entries in table["fixed_in"].items()
        for version, text in entries
        if name in pinned and pinned[name] < Version(version)
    ]
    return (
        found,
        f"advisories.toml: {len(table['fixed_in'])} packages, until {table['known_until']}",
    )


def main(pip_audit: str) -> int:
    pinned = pins()
    bad = 0
    for found, what in (services(pip_audit), installed(pinned), yanked(), known(pinned)):
        for line in found:
            print(f"FOUND  {line}")
        bad += len(found)
        print(what if not found else f"({what.split(':')[0]}: {len(found)} findings)")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
