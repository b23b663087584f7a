"""SIGUSR1 switches the log level of the control process and of its workers, and harms nobody."""

import json
import os
import signal
import time
from typing import Any

import pytest

from tests.workers.program import GAPS, Program, program

__all__ = ["program"]

pytestmark = pytest.mark.timeout(900)


def lines(program: Program) -> list[dict[str, Any]]:
    return [json.loads(line) for line in program.log.read_text().splitlines()]


def levels(program: Program) -> list[str]:
    """What the log level was changed to, one after the other, by the control process."""
    return [
        line["to"]
        for line in lines(program)
        if line["event"] == "the log level has changed" and "worker" not in line
    ]


def until_switched(program: Program, count: int) -> None:
    end = time.monotonic() + 60
    while len(levels(program)) < count:
        assert time.monotonic() < end, program.log.read_text()
        time.sleep(0.05)


def test_it_switches_to_debug_and_back(program: Program) -> None:
    program.until_settled()
    for count in range(1, 4):
        program.process.send_signal(signal.SIGUSR1)
        until_switched(program, count)
    assert levels(program) == ["debug", "info", "debug"]
    program.ends(signal.SIGTERM)


def test_workers_follow_and_so_do_later_ones(program: Program) -> None:
    program.until_settled()
    (first,) = program.workers
    program.process.send_signal(signal.SIGUSR1)
    until_switched(program, 1)
    assert [line["level"] for line in _until_worker_says(program, 1)] == ["debug"]
    program.process.send_signal(signal.SIGHUP)
    end = time.monotonic() + 60
    while program.workers == [first] or len(program.workers) != 1:
        assert time.monotonic() < end
        time.sleep(0.05)
    assert len(_until_worker_says(program, 2)) == 2
    program.ends(signal.SIGTERM)


def _until_worker_says(program: Program, count: int) -> list[dict[str, Any]]:
    """The debug lines of workers about their level."""
    end = time.monotonic() + 60
    while True:
        found = [
            line
            for line in lines(program)
            if "worker" in line and line["event"] == "logging at debug"
        ]
        if len(found) >= count:
            return found
        assert time.monotonic() < end, program.log.read_text()
        time.sleep(0.05)


def test_it_is_harmless_at_every_moment_of_a_start(program: Program) -> None:
    program.until_begun()
    pid, began = program.process.pid, time.monotonic()
    for gap in GAPS:
        time.sleep(max(0.0, began + gap - time.monotonic()))
        program.process.send_signal(signal.SIGUSR1)
    program.until_settled()
    assert program.process.pid == pid
    assert levels(program)
    program.ends(signal.SIGTERM)


def test_a_worker_ignores_it(program: Program) -> None:
    program.until_settled()
    (worker,) = program.workers
    os.kill(worker, signal.SIGUSR1)
    time.sleep(0.5)
    program.until_settled()
    assert program.workers == [worker]
    assert levels(program) == []
    program.ends(signal.SIGTERM)
