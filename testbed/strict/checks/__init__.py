"""What is asked of a gateway, a function for each check. Importing this package lists all of them."""

from testbed.strict.checks import (
    answers,
    bodies,
    changes,
    conditions,
    failing,
    picking,
    routing,
)
from testbed.strict.checks.registry import CHECKS, Check

__all__ = (
    "CHECKS",
    "Check",
    "answers",
    "bodies",
    "changes",
    "conditions",
    "failing",
    "picking",
    "routing",
)
