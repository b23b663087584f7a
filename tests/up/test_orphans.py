"""Children that `up` has not started are reaped, and no others."""

import asyncio
import contextlib
import os

import pytest

from epp_client.up import orphans


@pytest.fixture
def ended() -> int:
    """A child that has ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


def reaped(pid: int) -> bool:
    """Reap it now."""
    return os.waitpid(pid, os.WNOHANG)[0] == pid


async def looked(monkeypatch: pytest.MonkeyPatch, *started: int) -> None:
    monkeypatch.setattr(orphans, "INTERVAL", 0.001)
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.5):
            await orphans.reap(lambda: started)


async def test_an_adopted_child_is_reaped(monkeypatch: pytest.MonkeyPatch, ended: int) -> None:
    await looked(monkeypatch)
    with pytest.raises(ChildProcessError):
        reaped(ended)


async def test_one_that_was_started_is_left_to_its_parent(
    monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    await looked(monkeypatch, ended)
    assert reaped(ended)
