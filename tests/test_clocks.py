"""No deadline can be moved by a jump of the wall clock: nothing but logs asks for the time of day."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "epp_client"
WALL_CLOCK = {"time.time", "time.time_ns", "datetime.now", "datetime.utcnow", "datetime.today"}
ALLOWED = {"kubernetes", "time_of_day.py"}
"""Kubernetes has uses of its own for the time of day (leases, transition times). The file is for what
people read."""


def names(tree: ast.AST) -> set[str]:
    """`module.attribute` of every attribute that is asked for, and what is imported from `time`."""
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            found.add(".".join(ast.unparse(node).split(".")[-2:]))
        if isinstance(node, ast.ImportFrom) and node.module == "time":
            found |= {f"time.{alias.name}" for alias in node.names}
    return found


def test_only_monotonic_clocks_are_read() -> None:
    guilty = {
        str(path.relative_to(PACKAGE)): found
        for path in PACKAGE.rglob("*.py")
        if path.relative_to(PACKAGE).parts[0] not in ALLOWED
        if (found := names(ast.parse(path.read_text())) & WALL_CLOCK)
    }
    assert guilty == {}


def test_a_wall_clock_would_be_seen() -> None:
    for text in ("import time\ntime.time()", "from time import time", "datetime.datetime.now()"):
        assert names(ast.parse(text)) & WALL_CLOCK, text
