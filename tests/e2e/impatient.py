"""The command line of the sidecar, whose start waits less.

    python -m tests.e2e.impatient CONSTANT=SECONDS ... serve ...

The constants are those of `epp_client.sidecar`. What a test waits for is then over soon; what it tests is
the same.
"""

import sys


def main() -> None:
    """Set the constants, then be the command line."""
    from epp_client import sidecar
    from epp_client.cli import main as command_line

    while "=" in sys.argv[1]:
        name, _, seconds = sys.argv.pop(1).partition("=")
        # A typo must not leave the usual wait.
        assert isinstance(getattr(sidecar, name), float)
        setattr(sidecar, name, float(seconds))
    command_line()


if __name__ == "__main__":
    main()
