"""Decides what `epp-client up` does next: which process to start, drain or stop, and the exit code. Pure.

The sidecar starts first, because Envoy's routes are made from its pools. Envoy stops first, because its
streams need the sidecar.
"""

from collections.abc import Sequence
from enum import Enum, StrEnum, auto
from signal import SIGTERM
from typing import Final, NamedTuple

STEADY_AFTER: Final = 10.0
"""A process that lived for so many seconds is restarted without a delay."""
FIRST_DELAY: Final = 0.1
"""Seconds before the first restart of a process that lived for a shorter time. Doubled each time."""
MAX_DELAY: Final = 5.0
"""Seconds of the longest delay."""

HANG_AFTER: Final = 10.0
"""Seconds without an answer after which a process counts as hung, and is killed."""
HANG_QUESTIONS: Final = 3
"""Checks in a row that it must have left unanswered, too. If this process itself was stopped for a while,
there were fewer checks, and the other process is not to blame."""

IDLE_PATIENCE: Final = 1.0
"""Seconds at the start of a drain in which a client with an idle connection may send one more request. Its
response closes the connection. Without this time a request that arrives when Envoy exits is lost."""

DRAINED: Final = 0
"""Exit code: every request has ended."""
CUT: Final = 1
"""Exit code: open requests were cut, or a process did not end properly."""
NOT_STARTED: Final = 2
"""Exit code: a process failed before it was ready for the first time."""


_PROPER: Final = (0, -SIGTERM)
"""Proper exit codes of a process that was told to end. SIGTERM ends a process that has just been
started."""


class Part(StrEnum):
    """The processes of a gateway."""

    ENVOY = "envoy"
    SIDECAR = "sidecar"


class Start(NamedTuple):
    """Start a process after `delay` seconds."""

    part: Part
    delay: float = 0.0


class Drain(NamedTuple):
    """Tell Envoy to accept no connections, and wait for its open requests."""


class Stop(NamedTuple):
    """Tell a process to end, or cancel its delayed start."""

    part: Part


class Kill(NamedTuple):
    """End a process now."""

    part: Part


class Exit(NamedTuple):
    """Everything has ended."""

    code: int


Action = Start | Drain | Stop | Kill | Exit


class _Phase(Enum):
    RUNNING = auto()
    DRAINING = auto()
    STOPPING = auto()


class Clients(NamedTuple):
    """What clients have open at Envoy's listener."""

    requests: int
    connections: int


def drain_waits_for(clients: Clients, elapsed: float) -> str:
    """What a drain still waits for `elapsed` seconds after the listeners were closed; empty if nothing."""
    if clients.requests:
        return f"{clients.requests} requests are open"
    if clients.connections and elapsed < IDLE_PATIENCE:
        return f"{clients.connections} connections are open"
    return ""


class Supervision:
    """The state of one gateway. Each method is an event, and returns what to do about it."""

    def __init__(self) -> None:
        self._phase = _Phase.RUNNING
        self._started: set[Part] = set()
        """Processes that run, or whose start is delayed."""
        self._proven: set[Part] = set()
        """Processes that have been ready."""
        self._delays: dict[Part, float] = {}
        self._code = DRAINED

    @property
    def ending(self) -> bool:
        """Whether processes are stopped."""
        return self._phase is _Phase.STOPPING

    def begin(self) -> Sequence[Action]:
        """Nothing runs yet."""
        return self._start(Part.SIDECAR)

    def configured(self) -> Sequence[Action]:
        """Envoy has a configuration."""
        if self._phase is _Phase.RUNNING and Part.ENVOY not in self._started:
            return self._start(Part.ENVOY)
        return []

    def ready(self, part: Part) -> None:
        """A process is ready."""
        self._proven.add(part)

    def unanswered(self, part: Part, questions: int, elapsed: float) -> Sequence[Action]:
        """A process that was ready has left so many checks in a row unanswered, for `elapsed` seconds.

        It is not killed during a drain: that would cut its requests, and the drain has its own time limit.
        """
        hangs = questions >= HANG_QUESTIONS and elapsed >= HANG_AFTER
        return [Kill(part)] if hangs and self._phase is _Phase.RUNNING else []

    def exited(self, part: Part, code: int, lived: float) -> Sequence[Action]:
        """A process has ended with this exit code, negative for a signal, after `lived` seconds."""
        self._started.discard(part)
        if self._phase is _Phase.STOPPING:
            if code not in _PROPER:
                self._code = max(self._code, CUT)
            return self._stop_next()
        if part not in self._proven:
            self._code = NOT_STARTED
            return self._stop()
        if self._phase is _Phase.DRAINING and part is Part.ENVOY:
            self._code = CUT
            return self._stop()
        return self._start(part, self._delay(part, lived))

    def asked_to_end(self) -> Sequence[Action]:
        """SIGTERM or SIGINT: drain. Again: cut what is open. Once more: kill."""
        if self._phase is _Phase.STOPPING:
            return [Kill(part) for part in sorted(self._started)]
        if self._phase is _Phase.DRAINING:
            self._code = CUT
            return self._stop()
        if Part.ENVOY not in self._started:
            return self._stop()
        self._phase = _Phase.DRAINING
        return [Drain()]

    def drained(self, still_open: int) -> Sequence[Action]:
        """The drain is over, with so many requests still open."""
        if self._phase is not _Phase.DRAINING:
            return []
        if still_open:
            self._code = CUT
        return self._stop()

    def _start(self, part: Part, delay: float = 0.0) -> Sequence[Action]:
        self._started.add(part)
        return [Start(part, delay)]

    def _stop(self) -> Sequence[Action]:
        self._phase = _Phase.STOPPING
        return self._stop_next()

    def _stop_next(self) -> Sequence[Action]:
        for part in (Part.ENVOY, Part.SIDECAR):
            if part in self._started:
                return [Stop(part)]
        return [Exit(self._code)]

    def _delay(self, part: Part, lived: float) -> float:
        if lived >= STEADY_AFTER:
            self._delays[part] = 0.0
        else:
            before = self._delays.get(part, 0.0)
            self._delays[part] = min(MAX_DELAY, 2 * before) if before else FIRST_DELAY
        return self._delays[part]
