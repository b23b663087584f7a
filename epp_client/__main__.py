"""The start of every process: `epp-client`, and `python -m epp_client`.

A signal that comes while the rest is imported would end the process by its default action. So those that
the long-running commands know are held before anything else is imported.
"""

import sys

from epp_client import signals

LONG_RUNNING = ("serve", "hold")


def main() -> None:
    """Entry point."""
    if sys.argv[1:2] and sys.argv[1] in LONG_RUNNING:
        signals.hold()
    from epp_client import cli

    cli.main()


if __name__ == "__main__":
    main()
