"""Blocked signals are taken by who waits for them, and stay pending for who does not."""

import subprocess
import sys
import textwrap

import pytest


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_signals_are_taken_one_by_one_and_the_others_stay_pending(loop: str) -> None:
    script = f"""
    import asyncio, os, signal, {loop}
    from epp_client import signals
    from epp_client.signal_waits import taken

    signals.block()

    def send(*numbers):
        for number in numbers:
            os.kill(os.getpid(), number)

    async def main():
        before = len(os.listdir("/proc/self/fd"))
        # Sent before anybody waits.
        send(signal.SIGHUP, signal.SIGUSR1)
        assert await taken(signals.RENEWING) is signal.SIGHUP
        assert await taken(signals.LOGGING) is signal.SIGUSR1
        # Sent while somebody waits for it, and somebody else for others.
        renewing = asyncio.create_task(taken(signals.RENEWING))
        ending = asyncio.create_task(taken(signals.ENDING))
        await asyncio.sleep(0.05)
        send(signal.SIGTERM)
        assert await ending is signal.SIGTERM
        assert not renewing.done()
        # Sent when nobody waits any more.
        renewing.cancel()
        await asyncio.wait({{renewing}})
        send(signal.SIGUSR2)
        await asyncio.sleep(0.05)
        assert signals.take(signals.RENEWING) is signal.SIGUSR2
        assert len(os.listdir("/proc/self/fd")) == before
        print("ok")

    {loop}.run(main())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert (done.stdout, done.returncode) == ("ok\n", 0), done.stderr
