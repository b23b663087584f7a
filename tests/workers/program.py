"""`epp-client serve` as a process without an Envoy, for tests that send it signals."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest
import yaml

from epp_client import signals
from testbed.looks import writers
from testbed.ports import free_ports
from testbed.stack import HOSTS, inference_pool, pod

GAPS = (0.0, 0.05, 0.2, 0.4, 1.0)
"""Seconds: from before the program has read its command line to after it serves."""
DOCUMENTED = (*signals.ENDING, *signals.RENEWING, *signals.LOGGING)
BITS = sum(1 << (number - 1) for number in DOCUMENTED)


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
