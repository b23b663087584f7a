"""What happens next when a process of the gateway starts, dies or is told to end."""

import pytest

from epp_client.up.supervision import (
    CUT,
    DRAINED,
    FIRST_DELAY,
    HANG_AFTER,
    HANG_QUESTIONS,
    IDLE_PATIENCE,
    MAX_DELAY,
    NOT_STARTED,
    STEADY_AFTER,
    Clients,
    Drain,
    Exit,
    Kill,
    Part,
    Start,
    Stop,
    Supervision,
    drain_waits_for,
)

ENVOY, SIDECAR = Part.ENVOY, Part.SIDECAR


def serving() -> Supervision:
    """A gateway both of whose processes have been ready."""
    gateway = Supervision()
    gateway.begin()
    gateway.ready(SIDECAR)
    gateway.configured()
    gateway.ready(ENVOY)
    return gateway


def test_the_sidecar_starts_first_and_envoy_once_it_has_a_configuration() -> None:
    gateway = Supervision()
    assert gateway.begin() == [Start(SIDECAR)]
    gateway.ready(SIDECAR)
    assert gateway.configured() == [Start(ENVOY)]
    assert gateway.configured() == []


@pytest.mark.parametrize("part", list(Part))
def test_a_process_that_dies_is_restarted_with_growing_delays(part: Part) -> None:
    gateway = serving()
    delays = []
    for _ in range(9):
        [start] = gateway.exited(part, -9, lived=0.5)
        assert isinstance(start, Start)
        assert start.part is part
        delays.append(start.delay)
    assert delays[:3] == [FIRST_DELAY, 2 * FIRST_DELAY, 4 * FIRST_DELAY]
    assert delays[-1] == MAX_DELAY
    assert gateway.exited(part, -9, lived=STEADY_AFTER) == [Start(part, 0.0)]
    assert gateway.exited(part, -9, lived=0.5) == [Start(part, FIRST_DELAY)]


def test_a_sidecar_that_never_was_ready_ends_the_gateway() -> None:
    gateway = Supervision()
    gateway.begin()
    assert gateway.exited(SIDECAR, 2, lived=1.0) == [Exit(NOT_STARTED)]


def test_an_envoy_that_never_was_ready_ends_the_sidecar_too() -> None:
    gateway = Supervision()
    gateway.begin()
    gateway.ready(SIDECAR)
    gateway.configured()
    assert gateway.exited(ENVOY, 1, lived=1.0) == [Stop(SIDECAR)]
    assert gateway.exited(SIDECAR, 0, lived=2.0) == [Exit(NOT_STARTED)]


def test_envoy_drains_and_stops_before_the_sidecar() -> None:
    gateway = serving()
    assert gateway.asked_to_end() == [Drain()]
    assert gateway.drained(0) == [Stop(ENVOY)]
    assert gateway.ending
    assert gateway.exited(ENVOY, 0, lived=60) == [Stop(SIDECAR)]
    assert gateway.exited(SIDECAR, 0, lived=60) == [Exit(DRAINED)]


def test_requests_that_outlast_the_drain_are_in_the_exit_code() -> None:
    gateway = serving()
    gateway.asked_to_end()
    assert gateway.drained(3) == [Stop(ENVOY)]
    gateway.exited(ENVOY, 0, lived=60)
    assert gateway.exited(SIDECAR, 0, lived=60) == [Exit(CUT)]


def test_a_process_that_had_to_be_killed_is_in_the_exit_code() -> None:
    gateway = serving()
    gateway.asked_to_end()
    gateway.drained(0)
    gateway.exited(ENVOY, 0, lived=60)
    assert gateway.exited(SIDECAR, -9, lived=60) == [Exit(CUT)]


def test_a_second_signal_cuts_the_drain_and_a_third_kills() -> None:
    gateway = serving()
    gateway.asked_to_end()
    assert gateway.asked_to_end() == [Stop(ENVOY)]
    assert gateway.drained(1) == []
    assert gateway.asked_to_end() == [Kill(ENVOY), Kill(SIDECAR)]
    gateway.exited(ENVOY, -9, lived=60)
    assert gateway.exited(SIDECAR, -9, lived=60) == [Exit(CUT)]


def test_a_signal_before_envoy_runs_stops_the_sidecar_at_once() -> None:
    gateway = Supervision()
    gateway.begin()
    assert gateway.asked_to_end() == [Stop(SIDECAR)]
    assert gateway.configured() == []
    assert gateway.exited(SIDECAR, -15, lived=1) == [Exit(DRAINED)]


def test_a_sidecar_that_dies_during_the_drain_is_restarted_for_the_open_requests() -> None:
    gateway = serving()
    gateway.asked_to_end()
    assert gateway.exited(SIDECAR, -9, lived=60) == [Start(SIDECAR, 0.0)]


def test_an_envoy_that_dies_during_the_drain_has_cut_its_requests() -> None:
    gateway = serving()
    gateway.asked_to_end()
    assert gateway.exited(ENVOY, -9, lived=60) == [Stop(SIDECAR)]
    assert gateway.drained(0) == []
    assert gateway.exited(SIDECAR, 0, lived=60) == [Exit(CUT)]


@pytest.mark.parametrize(
    ("requests", "connections", "elapsed", "waits"),
    [
        (0, 0, 0.0, False),
        (1, 1, 0.0, True),
        (1, 1, 100 * IDLE_PATIENCE, True),
        (0, 1, 0.0, True),
        (0, 1, IDLE_PATIENCE, False),
    ],
)
def test_a_drain_waits_for_requests_and_a_moment_for_idle_connections(
    requests: int, connections: int, elapsed: float, waits: bool
) -> None:
    assert bool(drain_waits_for(Clients(requests, connections), elapsed)) is waits


@pytest.mark.parametrize(
    ("questions", "elapsed", "hangs"),
    [
        (HANG_QUESTIONS, HANG_AFTER, True),
        (HANG_QUESTIONS - 1, 100 * HANG_AFTER, False),
        (100 * HANG_QUESTIONS, 0.9 * HANG_AFTER, False),
    ],
)
@pytest.mark.parametrize("part", list(Part))
def test_a_process_that_hangs_is_killed_and_started_again(
    part: Part, questions: int, elapsed: float, hangs: bool
) -> None:
    gateway = serving()
    assert gateway.unanswered(part, questions, elapsed) == ([Kill(part)] if hangs else [])
    if hangs:
        assert gateway.exited(part, -9, lived=60) == [Start(part, 0.0)]


@pytest.mark.parametrize("part", list(Part))
def test_a_drain_is_not_cut_short_for_want_of_an_answer(part: Part) -> None:
    gateway = serving()
    gateway.asked_to_end()
    assert gateway.unanswered(part, HANG_QUESTIONS, HANG_AFTER) == []
