"""Signals that come when nobody can handle them yet are held; no order and no number of them kills."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import cycle
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from epp_client import signals
from testbed.looks import children, writers
from testbed.ports import free_ports
from testbed.stack import HOSTS, inference_pool, pod

pytestmark = pytest.mark.timeout(900)

GAPS = (0.0, 0.05, 0.2, 0.4, 1.0)
"""Seconds: from before the program has read its command line to after it serves."""
DOCUMENTED = (*signals.ENDING, *signals.RENEWING, *signals.LOGGING)
BITS = sum(1 << (number - 1) for number in DOCUMENTED)


def with_each_gap(*numbers: signal.Signals) -> list[tuple[signal.Signals, float]]:
    """Each gap with one of two signals in turn, and the first gap with both.

    The storms of `tests/slow/test_signal_storm.py` have the other pairs.
    """
    return [*zip(cycle(numbers), GAPS, strict=False), (numbers[1], GAPS[0])]


def until(happened: Callable[[], bool]) -> None:
    end = time.monotonic() + 240
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def mask(pid: int, field: str) -> int:
    """Of the documented signals, those that are in this mask of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1], 16) & BITS
    raise AssertionError(f"no {field}")


class Program:
    """`epp-client serve` without an Envoy."""

    def __init__(self, folder: Path) -> None:
        pools = folder / "pools"
        pools.mkdir()
        objects = [inference_pool("open", 8000, None, ""), pod("model-0", HOSTS[0])]
        (pools / "all.yaml").write_text(yaml.safe_dump_all(objects))
        (port,) = free_ports(1)
        self._page = f"http://127.0.0.1:{port}"
        self.log = folder / "log"
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "epp_client", "serve", "--pools", str(pools)),
                    *("--socket", str(folder / "ext-proc.sock"), "--no-xds"),
                    *("--admin", f"127.0.0.1:{port}"),
                ],
                stdout=log,
                stderr=log,
            )

    @property
    def everybody(self) -> list[int]:
        """The process and its workers, orphans too."""
        return writers(self.log)

    @property
    def workers(self) -> list[int]:
        return [pid for pid in self.everybody if pid != self.process.pid]

    @property
    def said(self) -> list[str]:
        return [json.loads(line)["event"] for line in self.log.read_text().splitlines()]

    @property
    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            with urlopen(f"{self._page}/readyz", timeout=5) as answer:
                return bool(answer.status == 200)
        except (URLError, OSError):
            return False

    def until_begun(self) -> None:
        """Its first instruction: everything is held."""
        until(lambda: mask(self.process.pid, "SigBlk") == BITS)

    def until_settled(self) -> None:
        """Nothing is pending, it serves, and has the one worker that it should."""
        until(lambda: self.ready and not mask(self.process.pid, "ShdPnd"))
        until(lambda: self.ready and len(self.everybody) == 2)

    def ends(self, *numbers: signal.Signals) -> None:
        for number in numbers:
            self.process.send_signal(number)
        assert self.process.wait(timeout=240) == 0, self.log.read_text()
        assert self.everybody == [], "an orphan"


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Program]:
    running = Program(tmp_path)
    yield running
    running.process.kill()
    running.process.wait()
    for orphan in running.everybody:
        os.kill(orphan, signal.SIGKILL)


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
