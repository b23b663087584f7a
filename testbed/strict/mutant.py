"""`python -m testbed.strict.mutant NAME serve ...`: `epp-client serve` with one fault (`mutants`), or with
none, and with subset hints from a header."""

import sys

from epp_client import __main__, signals
from testbed.strict.mutants import MUTANTS, NONE, make_subset_hints


def main() -> None:
    """Break it, and run the command."""
    signals.block()
    name = sys.argv.pop(1)
    make_subset_hints()
    if name != NONE:
        MUTANTS[name].breaks()
    __main__.main()


if __name__ == "__main__":
    main()
