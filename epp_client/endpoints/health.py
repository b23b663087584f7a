"""Decides from the results of health checks whether an endpoint is ready. Pure: no network, no clock."""

from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """What the checks have shown about an endpoint."""

    UNTESTED = "untested"
    """No check has succeeded yet."""
    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"


class Thresholds(NamedTuple):
    """Results in a row that change the state."""

    healthy: int = 2
    """Successes after which an unhealthy endpoint is healthy. An untested endpoint needs one."""
    unhealthy: int = 3
    """Failures after which a healthy endpoint is unhealthy."""


class HealthCheck(NamedTuple):
    """How the endpoints of a pool are checked."""

    kind: str
    """`tcp` or `http:/PATH`."""
    interval: float = 5.0
    """Seconds between two checks of an endpoint."""
    timeout: float = 2.0
    """Seconds for one check."""
    thresholds: Thresholds = Thresholds()


class EndpointHealth(NamedTuple):
    """The health of one endpoint."""

    state: State = State.UNTESTED
    against: int = 0
    """Results in a row that contradict the state."""
    failure: str = ""
    """Why the newest check failed; empty if it succeeded or there was none."""

    @property
    def ready(self) -> bool:
        """Whether it may get requests."""
        return self.state is State.HEALTHY

    @property
    def problem(self) -> str:
        """Why it gets no requests, as text for the user; empty if it does."""
        if self.ready:
            return ""
        if not self.failure:
            return "is not ready: " + (
                "not checked yet" if self.state is State.UNTESTED else "too few successful checks"
            )
        return f"is not ready: {self.failure}"


def checked(health: EndpointHealth, failure: str, thresholds: Thresholds) -> EndpointHealth:
    """The health after one more check. `failure` is empty if it succeeded."""
    match health.state, not failure:
        case State.UNTESTED, True:
            return EndpointHealth(State.HEALTHY)
        case State.UNTESTED, False:
            return EndpointHealth(State.UNTESTED, 0, failure)
        case (State.HEALTHY, True) | (State.UNHEALTHY, False):
            return EndpointHealth(health.state, 0, failure)
        case _:
            against = health.against + 1
            healthy = health.state is State.HEALTHY
            if against < (thresholds.unhealthy if healthy else thresholds.healthy):
                return EndpointHealth(health.state, against, failure)
            return EndpointHealth(State.UNHEALTHY if healthy else State.HEALTHY, 0, failure)
