"""Gateways that are broken in one way: this project's data plane with one function replaced. Each check of
the suite has to fail for one of them. Importing this package lists all."""

from testbed.strict.mutants import failing, picks, routes, statuses, traffic
from testbed.strict.mutants.registry import MUTANTS, NONE, Mutant
from testbed.strict.mutants.subsets import SUBSET_HEADER, make_subset_hints

__all__ = (
    "MUTANTS",
    "NONE",
    "SUBSET_HEADER",
    "Mutant",
    "failing",
    "make_subset_hints",
    "picks",
    "routes",
    "statuses",
    "traffic",
)
