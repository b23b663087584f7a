"""A process that ends although nobody told it to is noticed, whatever the requests say."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import tests.conftest
from chaos.installation import Installation
from testbed.deaths import DEATHS, Death, deaths_noted, worker_death
from testbed.envoy import running_envoy
from testbed.process import Process
from tests.peers.test_processes import BOOTSTRAP

WORKER_LINE = (
    '{"worker": 0, "pid": 17, "exit_code": -11, "event": "restarting a relay worker that crashed"}'
)


async def until(happened: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not happened():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGKILL])
async def test_an_envoy_that_dies_is_noticed_while_it_should_run(number: signal.Signals) -> None:
    with deaths_noted() as deaths:
        async with running_envoy(BOOTSTRAP) as envoy:
            os.kill(envoy.process.pid, number)
            await until(lambda: bool(deaths))
    [death] = deaths
    assert (death.name, death.pid, death.code) == ("envoy", envoy.process.pid, -number)
    assert f"died of {number.name}, without being told to end" in str(death)


async def test_an_envoy_that_was_told_to_end_is_no_death() -> None:
    with deaths_noted() as deaths:
        for end in ("stop", "kill"):
            async with running_envoy(BOOTSTRAP) as envoy:
                await getattr(envoy.process, end)()
    assert deaths == []


async def test_a_crash_at_sigterm_is_a_death() -> None:
    script = (
        "import os, signal, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getpid(), signal.SIGSEGV))\n"
        "print('last words', flush=True)\n"
        "time.sleep(60)\n"
    )
    with deaths_noted() as deaths:
        process = await Process.start(sys.executable, "-c", script)
        await until(lambda: "last words" in process.tail)
        assert await process.stop() == -signal.SIGSEGV
    [death] = deaths
    assert death.asked
    assert "died of SIGSEGV, when it was told to end" in str(death)
    assert "last words" in death.tail


async def test_an_exit_status_is_a_death_unless_it_is_waited_for() -> None:
    command = (sys.executable, "-c", "raise SystemExit(3)")
    with deaths_noted() as deaths:
        awaited = await Process.start(*command)
        assert await awaited.exited() == 3
        alone = await Process.start(*command)
        await until(lambda: bool(deaths))
        await awaited.stop()
        await alone.stop()
    [death] = deaths
    assert (death.pid, death.code) == (alone.pid, 3)
    assert "exited with 3" in str(death)


async def test_what_a_sidecar_says_of_a_dead_worker_is_noted() -> None:
    assert worker_death(WORKER_LINE) == (17, -11)
    assert worker_death('{"event": "serving"}') is None
    script = f"print({WORKER_LINE!r}, flush=True); import time; time.sleep(60)"
    with deaths_noted() as deaths:
        process = await Process.start(sys.executable, "-c", script)
        await until(lambda: bool(deaths))
        await process.stop()
    assert [(death.pid, death.code) for death in deaths] == [(17, -signal.SIGSEGV)]


def test_every_test_fails_for_a_death() -> None:
    DEATHS.append(Death("envoy", 17, -11, asked=False, tail="the last line"))
    with pytest.raises(pytest.fail.Exception, match=r"envoy \(pid 17\) died of SIGSEGV") as failed:
        tests.conftest._fail_for_deaths()
    assert "the last line" in str(failed.value)
    assert DEATHS == []


@pytest.mark.parametrize(
    ("number", "ours", "noted"), [("9", True, 0), ("9", False, 1), ("11", True, 1)]
)
async def test_a_worker_of_an_installation_that_nobody_killed_is_noted(
    tmp_path: Path, number: str, ours: bool, noted: int
) -> None:
    installation = Installation(tmp_path)
    if ours:
        child = await Process.start("sleep", "60")
        installation.signal(child.pid, signal.SIGKILL)
        assert await child.exited() == -signal.SIGKILL
        await child.stop()
    pid = str(child.pid) if ours else "17"
    line = WORKER_LINE.replace("-11", f"-{number}").replace("17", pid)
    installation.log.write_text('{"event": "serving"}\n' + line + "\n" + line[:20])
    with deaths_noted() as deaths:
        installation.note_deaths()
        # what has been read is not read again
        installation.note_deaths()
    assert [(death.pid, death.code) for death in deaths] == [(int(pid), -int(number))] * noted
