"""The start of every process: `epp-client`, and `python -m epp_client`.

Imports take a moment. During it, the default action of a signal would end the process. So the long-running
commands block their signals before anything else is imported.
"""

import sys

from epp_client import signals
from epp_client.imports import structlog_without_rich, uncollected

LONG_RUNNING = ("serve", "hold", "up", "standalone", "controller")


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] and sys.argv[1] in LONG_RUNNING:
        signals.block()
        structlog_without_rich()
    with uncollected():
        from epp_client import cli
    cli.main()


if __name__ == "__main__":
    main()
