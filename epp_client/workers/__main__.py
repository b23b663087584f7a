"""The start of a relay worker, with the descriptor of its channel as the argument."""

import sys

from epp_client.imports import structlog_without_rich, uncollected


def main() -> int:
    """Serve until the control process, or its successor, says otherwise."""
    structlog_without_rich()
    with uncollected():
        import uvloop

        from epp_client.workers.worker import run
    return uvloop.run(run(int(sys.argv[1])))


if __name__ == "__main__":
    sys.exit(main())
