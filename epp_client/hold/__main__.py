"""The process that `epp-client hold` becomes by `exec`."""

import signal
import sys
import time
from types import FrameType

from epp_client import signals
from epp_client.hold.holder import Holder, say


def _end(number: int, _: FrameType | None) -> None:
    raise SystemExit(0)


def main() -> None:
    """Hold until SIGTERM or SIGINT. Arguments: the path of the holder's socket, and its patience in
    seconds."""
    path, patience = sys.argv[1], float(sys.argv[2])
    for number in signals.ENDING:
        signal.signal(number, _end)
    signals.ignore((*signals.RENEWING, *signals.LOGGING))
    try:
        holder = Holder(path, patience, time.monotonic)
    except OSError as error:
        say(str(error))
        raise SystemExit(2) from error
    say(f"listening on {path}")
    try:
        signals.unblock()
        holder.run()
    finally:
        holder.close()


if __name__ == "__main__":
    main()
