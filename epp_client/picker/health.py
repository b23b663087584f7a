"""The health of one picker address: whether it is worth asking. A pure state machine.

What opened the breaker has to be disproved by its like: a failed connection by a connection, silence
by an answered health check, failed picks by a pick (one request at a time is let through for that).
Times are seconds of any monotonic clock, given as arguments. What a request did never counts: a
refusal, a pick outside the pool, a gRPC status about the request, a client that hung up.
"""

from enum import StrEnum
from typing import NamedTuple

FAILURES = 5
"""Picks that have to fail in a row, with none made in between. One slow pick is no outage, and no
request may shut a picker out for the others; what is dead or stopped shows by other signs, at once."""
CHECK_INTERVAL = 2.0
CHECK_PATIENCE = 3.0
"""Seconds of complete silence, health check included, that a stall may last."""
JITTER = 0.2
"""Share by which an interval is shorter or longer, so that nobody checks in step."""
_SHORTEST_INTERVAL, _LEAST_PATIENCE = 0.25, 1.0
OUT_INTERVAL = 0.5
"""Seconds between checks while no address is worth asking: a new leader is found soon."""
_FIRST_RETRY, _LONGEST_RETRY = 0.1, 2.0
_FIRST_TRIAL, _LONGEST_TRIAL = 1.0, 30.0


class Health(StrEnum):
    """What metrics, logs and `/pools` say of an address. From good to bad."""

    SERVING = "serving"
    """Its health check says so."""
    UNKNOWN = "unknown"
    """It lives and has no health service here (some pickers have it on another port): usable."""
    UNTRIED = "untried"
    """Not asked yet."""
    NOT_SERVING = "not_serving"
    """A standby replica, or one that is not ready: its health check says so."""
    TRIAL = "trial"
    """It failed, and may show with one request at a time that it is back."""
    FAILING = "failing"
    """It answers health checks, and no picks."""
    SILENT = "silent"
    """Connected, and answers nothing, health checks included."""
    UNREACHABLE = "unreachable"
    """No connection."""


USABLE = frozenset((Health.SERVING, Health.UNKNOWN, Health.UNTRIED))
OPEN = frozenset((Health.FAILING, Health.SILENT, Health.UNREACHABLE))
"""The breaker is open: who waits there waits in vain."""


class Pace(NamedTuple):
    """How often an address is checked, and how long it may be silent. Seconds."""

    interval: float
    patience: float


def pace(pick_timeout: float) -> Pace:
    """A hanging address has to be found out before its first request has waited for `pick_timeout`:
    the longest interval (`JITTER`) and the patience after it fit in. With less than 2 s for a pick the
    deadlines themselves tell sooner, under load."""
    return Pace(
        max(_SHORTEST_INTERVAL, min(CHECK_INTERVAL, 0.2 * pick_timeout)),
        max(_LEAST_PATIENCE, min(CHECK_PATIENCE, 0.7 * pick_timeout)),
    )


class AddressHealth:
    """One address. `state` is what came of everything it was told."""

    def __init__(self) -> None:
        self.state = Health.UNTRIED
        self.retry_after = 0.0
        """Seconds to wait before the next attempt to connect."""
        self.suspect = False
        """A pick failed since the last one that was made: `picked` wants to be called."""
        self._said = Health.UNKNOWN
        self._answers_checks = False
        self._failures = 0
        self._trial_wait = 0.0
        self._trial_at = 0.0
        self._trying = False

    @property
    def usable(self) -> bool:
        """Whether requests may go there."""
        return self.state in USABLE

    # --- connections and health checks ---

    def connect_failed(self) -> None:
        """There was no connection."""
        self.state = Health.UNREACHABLE
        self._trying = False
        self.retry_after = min(max(2 * self.retry_after, _FIRST_RETRY), _LONGEST_RETRY)

    def checked(self, said: Health, now: float) -> None:
        """A health check was answered: SERVING, NOT_SERVING, or UNKNOWN when that says nothing."""
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
        """A health check was not answered in time, and nothing else came meanwhile.

        From an address that has never answered one that says nothing: its picks have to show.
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
        """It answered a request with a pick, right or wrong, or a refusal."""
        self._failures = 0
        self.suspect = False
        if self.state is Health.TRIAL or self.state is Health.FAILING:
            self._close()

    def pick_failed(self, now: float) -> None:
        """A request got no pick, and nobody else has had one from there since it was asked."""
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
        """Whether this request may be the one that shows whether it is back."""
        if self.state is not Health.TRIAL or self._trying:
            return False
        self._trying = True
        return True

    def trial_undecided(self) -> None:
        """The request on trial ended and showed nothing: its client hung up."""
        self._trying = False

    def _half_open(self, now: float) -> None:
        if now >= self._trial_at:
            self.state = Health.TRIAL

    def _close(self) -> None:
        self.state = self._said
        self._failures = 0
        self.suspect = self._trying = False
