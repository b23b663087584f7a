"""Signals that come when nobody can handle them yet are held; no order and no number of them kills."""

import os
import signal
import subprocess
import sys
import time
from itertools import cycle
from pathlib import Path

import pytest

from epp_client import signals
from testbed.looks import children
from tests.workers.program import BITS, GAPS, Program, mask, program, until

__all__ = ["program"]

pytestmark = pytest.mark.timeout(900)


def with_each_gap(*numbers: signal.Signals) -> list[tuple[signal.Signals, float]]:
    """Each gap with one of two signals in turn, and the first gap with both.

    The storms of `test_signal_storm.py` have the other pairs.
    """
    return [*zip(cycle(numbers), GAPS, strict=False), (numbers[1], GAPS[0])]


@pytest.mark.parametrize("number", signals.RENEWING)
def test_what_comes_as_it_starts_is_acted_on_when_it_serves(
    program: Program, number: signal.Signals
) -> None:
    program.until_begun()
    pid, began = program.process.pid, time.monotonic()
    for gap in GAPS:
        time.sleep(max(0.0, began + gap - time.monotonic()))
        program.process.send_signal(number)
    program.until_settled()
    assert program.process.pid == pid
    program.ends(signal.SIGTERM)


@pytest.mark.parametrize(("number", "gap"), with_each_gap(*signals.ENDING))
def test_told_to_end_as_it_starts_it_ends_with_0(
    program: Program, number: signal.Signals, gap: float
) -> None:
    program.until_begun()
    time.sleep(gap)
    program.ends(number)


@pytest.mark.parametrize(("second", "gap"), with_each_gap(*signals.RENEWING))
def test_whatever_follows_an_upgrade_is_done_after_it(
    program: Program, second: signal.Signals, gap: float
) -> None:
    until(lambda: program.ready)
    before = program.everybody
    program.process.send_signal(signal.SIGUSR2)
    time.sleep(gap)
    program.process.send_signal(second)
    program.until_settled()
    assert set(before) & set(program.everybody) == {program.process.pid}
    program.process.send_signal(signal.SIGUSR2)
    time.sleep(gap)
    program.ends(signal.SIGINT if gap == GAPS[1] else signal.SIGTERM)


@pytest.mark.parametrize("first", signals.ENDING)
def test_once_told_to_end_it_is_neither_renewed_nor_upgraded(
    program: Program, first: signal.Signals
) -> None:
    until(lambda: program.ready)
    program.ends(signal.SIGUSR2, first, signal.SIGHUP, signal.SIGUSR2)
    assert program.said.count("upgrading") <= 1


def test_workers_start_with_all_of_it_held_and_end_up_with_nothing_held(program: Program) -> None:
    """A signal for the whole container or unit reaches them too."""
    ignored = (signal.SIGHUP, signal.SIGUSR2, signal.SIGINT)
    until(lambda: program.ready)
    (before,) = program.workers
    assert mask(before, "SigBlk") == 0
    program.process.send_signal(signal.SIGHUP)
    until(lambda: len(children(program.process.pid)) == 2)
    (fresh,) = set(children(program.process.pid)) - {before}
    assert mask(fresh, "SigBlk") == BITS
    for number in ignored:
        os.kill(fresh, number)
    program.until_settled()
    assert program.workers == [fresh]
    assert mask(fresh, "SigBlk") == 0
    for number in ignored:
        os.kill(fresh, number)
    # it drains: it is there to be told to
    program.process.send_signal(signal.SIGHUP)
    until(lambda: fresh not in program.everybody)
    program.until_settled()
    assert "restarting a relay worker that crashed" not in program.said
    program.ends(signal.SIGTERM)


def test_a_worker_that_is_told_to_end_as_it_starts_ends_when_it_serves(program: Program) -> None:
    until(lambda: bool(children(program.process.pid)))
    (first,) = children(program.process.pid)
    os.kill(first, signal.SIGTERM)
    until(
        lambda: (
            "restarting a relay worker that received SIGTERM from another process" in program.said
        )
    )
    program.until_settled()
    assert first not in program.everybody
    assert "restarting a relay worker that crashed" not in program.said
    program.ends(signal.SIGTERM)


@pytest.mark.parametrize("number", [*signals.RENEWING, *signals.LOGGING])
def test_the_holder_ignores_what_renews_others(tmp_path: Path, number: signal.Signals) -> None:
    path = tmp_path / "hold.sock"
    command = [sys.executable, "-m", "epp_client", "hold", "--socket", str(path)]
    with subprocess.Popen(command) as holder:
        until(lambda: mask(holder.pid, "SigBlk") == BITS)
        # as it starts, as it becomes another program, and as it holds
        for _ in range(5):
            holder.send_signal(number)
            time.sleep(0.1)
        until(path.is_socket)
        holder.send_signal(number)
        holder.terminate()
        assert holder.wait(timeout=240) == 0
        assert not path.exists()


def test_other_children_start_with_nothing_held() -> None:
    """Such as a plugin that a kubeconfig names for credentials."""
    script = (
        "import asyncio, sys, uvloop; from epp_client import signals; signals.block()\n"
        "async def main():\n"
        "    child = await asyncio.create_subprocess_exec('grep', 'SigBlk', '/proc/self/status')\n"
        "    return await child.wait()\n"
        "sys.exit(uvloop.run(main()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert int(done.stdout.split()[1], 16) & BITS == 0
