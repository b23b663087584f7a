"""The health of one picker address: a pure state machine that decides whether it is usable.

A failure is disproved only by its opposite: a failed connection by a connection, silence by an answered
health check, failed picks by a pick (of one request at a time). A refusal, a pick outside the pool, a gRPC
status about the request, and a client that ended its request are never counted. Times are arguments, in
seconds of any monotonic clock.
"""

from enum import StrEnum
from typing import NamedTuple

FAILURES = 5
"""Failed picks in a row after which an address is FAILING. A single slow pick is not an outage. Dead and
stopped pickers are detected sooner by connections and health checks."""
CHECK_INTERVAL = 2.0
CHECK_PATIENCE = 3.0
"""Seconds of complete silence, health check included, after which an address is SILENT."""
JITTER = 0.2
"""Fraction by which intervals vary at random, so that processes do not check at the same time."""
_SHORTEST_INTERVAL, _LEAST_PATIENCE = 0.25, 1.0
OUT_INTERVAL = 0.5
"""Seconds between checks while no address is usable, to find a new leader soon."""
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 2.0
_FIRST_TRIAL, _LONGEST_TRIAL = 1.0, 30.0


class Health(StrEnum):
    """State of an address in metrics, logs and `/pools`, from good to bad."""

    SERVING = "serving"
    """Its health check passed."""
    UNKNOWN = "unknown"
    """Connected, without a health service on this port. Usable."""
    UNTRIED = "untried"
    """Not checked yet. Usable."""
    NOT_SERVING = "not_serving"
    """Its health check answered NOT_SERVING: a standby, or not ready."""
    TRIAL = "trial"
    """It was FAILING, and now gets one request at a time to show that it works again."""
    FAILING = "failing"
    """It answers health checks but no picks."""
    SILENT = "silent"
    """Connected, but answers nothing, health checks included."""
    UNREACHABLE = "unreachable"
    """No connection."""


USABLE = frozenset((Health.SERVING, Health.UNKNOWN, Health.UNTRIED))
OPEN = frozenset((Health.FAILING, Health.SILENT, Health.UNREACHABLE))
"""States without hope of a pick: waiting requests are released."""


class AddressNote(NamedTuple):
    """What a person may want to know about an address, besides its health."""

    error: str = ""
    """The last error; empty if there was none."""
    error_at: float = 0.0
    """Its Unix time in seconds."""
    check_seconds: float | None = None
    """How long the last answered health check took."""


class Pace(NamedTuple):
    """Interval of health checks, and how long an address may be silent, in seconds."""

    interval: float
    patience: float


def pace(pick_timeout: float) -> Pace:
    """The pace that detects a hanging address before its first request has waited for `pick_timeout`. The
    longest interval, with `JITTER`, plus the patience are shorter than that. With a `pick_timeout` below
    2 s the deadlines of picks detect it sooner under load."""
    return Pace(
        max(_SHORTEST_INTERVAL, min(CHECK_INTERVAL, 0.2 * pick_timeout)),
        max(_LEAST_PATIENCE, min(CHECK_PATIENCE, 0.7 * pick_timeout)),
    )


class AddressHealth:
    """The health of one address. Its methods are the events."""

    def __init__(self) -> None:
        self.state = Health.UNTRIED
        self.retry_after = 0.0
        """Seconds to wait before the next attempt to connect."""
        self.suspect = False
        """Whether a pick has failed since the last success, so that `picked` has to be called."""
        self._said = Health.UNKNOWN
        self._answers_checks = False
        self._failures = 0
        self._trial_wait = 0.0
        self._trial_at = 0.0
        self._trying = False

    @property
    def usable(self) -> bool:
        """Whether requests may be sent to it."""
        return self.state in USABLE

    # --- connections and health checks ---

    def connect_failed(self) -> None:
        """Connecting failed."""
        self.state = Health.UNREACHABLE
        self._trying = False
        self.retry_after = min(max(2 * self.retry_after, _FIRST_RETRY), _LONGEST_RETRY)

    def checked(self, said: Health, now: float) -> None:
        """A health check was answered with SERVING, NOT_SERVING, or UNKNOWN if it tells nothing."""
        self._answers_checks = True
        self._said = said
        self.retry_after = 0.0
        if said is Health.NOT_SERVING:
            self._close()
        elif self.state is Health.FAILING:
            self._half_open(now)
        elif self.state is not Health.TRIAL:
            self.state = said

    def unanswered(self, now: float) -> None:
        """A health check was not answered in time, and nothing else was received.
        This means nothing for an address that has never answered one: there picks decide.
        """
        self.retry_after = 0.0
        if self._answers_checks:
            if self.state is not Health.FAILING:
                self.state = Health.SILENT
                self._trying = False
        elif self.state is Health.FAILING:
            self._half_open(now)
        elif self.state is not Health.TRIAL:
            self.state = Health.UNKNOWN

    # --- picks ---

    def picked(self) -> None:
        """It answered a request with a pick, valid or not, or with a refusal."""
        self._failures = 0
        self.suspect = False
        if self.state is Health.TRIAL or self.state is Health.FAILING:
            self._close()

    def pick_failed(self, now: float) -> None:
        """A request got no pick, and no other request got one since it was sent."""
        self.suspect = True
        if self.state is Health.TRIAL:
            self._trying = False
            self._trial_wait = min(2 * self._trial_wait, _LONGEST_TRIAL)
        elif self.usable:
            self._failures += 1
            if self._failures < FAILURES:
                return
            self._trial_wait = _FIRST_TRIAL
        else:
            return
        self.state = Health.FAILING
        self._trial_at = now + self._trial_wait

    def begin_trial(self) -> bool:
        """Whether this request may be the one that tries the address."""
        if self.state is not Health.TRIAL or self._trying:
            return False
        self._trying = True
        return True

    def trial_undecided(self) -> None:
        """The trial request ended without a result: its client ended it."""
        self._trying = False

    def _half_open(self, now: float) -> None:
        if now >= self._trial_at:
            self.state = Health.TRIAL

    def _close(self) -> None:
        self.state = self._said
        self._failures = 0
        self.suspect = self._trying = False
