"""`make coverage`: how much of the pure code its tests run, by lines and branches.

Pure is what the contract `pure` in .importlinter names. The tests are those of the rooms, and one that
sends every field of a picker's answer through the real Envoy. What a child process runs does not count.
"""

import configparser
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
FLOOR = 95.0
"""Per cent of the lines and branches of each room."""

TESTS = (
    *("tests/relay", "tests/ext_proc", "tests/picker", "tests/pool", "tests/wire", "tests/xds"),
    *("tests/endpoints", "tests/gateway", "tests/observe"),
    *("tests/kubernetes/test_api.py", "tests/kubernetes/test_cache.py"),
    *("tests/kubernetes/test_findings.py", "tests/kubernetes/test_lease.py"),
    *("tests/kubernetes/test_source.py", "tests/kubernetes/test_status.py"),
    *("tests/kubernetes/test_status_merge.py", "tests/kubernetes/test_status_routes.py"),
    *("tests/workers/test_delta.py", "tests/admin/test_metrics.py", "tests/e2e/test_answers.py"),
    "tests/admin/test_live.py",
    *("tests/up/test_standing_in.py", "tests/up/test_supervision.py"),
    *("tests/kubernetes/test_given_pool.py", "tests/test_option_values.py"),
    "tests/controller",
    *("tests/kubernetes/test_gateway_findings.py", "tests/kubernetes/test_gateway_merge.py"),
    "tests/kubernetes/test_gateway_parts.py",
    *("tests/terminal/test_live.py", "tests/terminal/test_tap_line.py"),
    *("tests/terminal/test_text.py", "tests/terminal/test_views.py"),
)


class Count(NamedTuple):
    """Lines and branches, and how many of them ran."""

    ran: int = 0
    all: int = 0

    @property
    def percent(self) -> float:
        return 100 * self.ran / self.all if self.all else 100.0

    def plus(self, other: "Count") -> "Count":
        return Count(self.ran + other.ran, self.all + other.all)


def pure_files() -> list[str]:
    """The sources of the contract's modules, generated code aside."""
    contracts = configparser.ConfigParser()
    contracts.read(ROOT / ".importlinter")
    found: set[Path] = set()
    for module in contracts["importlinter:contract:pure"]["source_modules"].split():
        path = ROOT / module.replace(".", "/")
        found.update(path.rglob("*.py") if path.is_dir() else [path.with_suffix(".py")])
    return sorted(str(path.relative_to(ROOT)) for path in found if "pb" not in path.parts)


def room(file: str) -> str:
    """`epp_client/wire/http2/frames.py` belongs to `wire`; a module of the package to itself."""
    return Path(file).parts[1].removesuffix(".py")


def measured(folder: str) -> tuple[dict[str, dict[str, object]], bool]:
    """What coverage.py has found, by file, and whether all tests passed."""
    # Measuring slows the property tests down: their bound is for runs without it.
    how = ("-q", "-n", "2", "--dist", "loadfile", "--timeout", "300")
    tests = (sys.executable, "-m", "pytest", *how, *TESTS)
    measure = ("--cov", "epp_client", "--cov-branch", f"--cov-report=json:{folder}/report.json")
    environment = {**os.environ, "COVERAGE_FILE": f"{folder}/data"}
    done = subprocess.run((*tests, *measure), cwd=ROOT, env=environment, timeout=3000)
    files: dict[str, dict[str, object]] = json.loads(Path(folder, "report.json").read_text())[
        "files"
    ]
    return files, done.returncode == 0


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files, passed = measured(folder)
    rooms: dict[str, Count] = defaultdict(Count)
    for file in pure_files():
        summary = files[file]["summary"]
        ran = summary["covered_lines"] + summary["covered_branches"]
        count = Count(ran, summary["num_statements"] + summary["num_branches"])
        rooms[room(file)] = rooms[room(file)].plus(count)
        if count.percent < FLOOR:
            lines, branches = files[file]["missing_lines"], files[file]["missing_branches"]
            ways = [f"{a}->{b}" for a, b in branches if a not in lines and b not in lines]
            print(f"{file}: {count.percent:.1f} %, missing {lines} {' '.join(ways)}")
    print(f"\n{'room':<12} {'ran':>6} {'all':>6} {'%':>6}")
    for name, count in rooms.items():
        print(f"{name:<12} {count.ran:>6} {count.all:>6} {count.percent:>6.1f}")
    low = [name for name, count in rooms.items() if count.percent < FLOOR]
    if low or not passed:
        sys.exit(f"below {FLOOR} %: {', '.join(low)}" if low else "tests failed")


if __name__ == "__main__":
    main()
