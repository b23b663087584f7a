"""`epp-client controller` as a process."""

import asyncio
import signal
import sys
from pathlib import Path

import aiohttp
import pytest

from testbed.kubernetes.double import ADMIN, running
from testbed.process import Process

PATIENCE = 40.0


@pytest.mark.timeout(90)
async def test_it_is_alive_but_not_ready_without_its_lists_and_ends_at_sigterm(
    tmp_path: Path,
) -> None:
    # The double serves no ServiceAccounts.
    async with running() as double:
        kubeconfig = double.kubeconfig(tmp_path / "kubeconfig", ADMIN)
        process = await Process.start(
            *(sys.executable, "-m", "epp_client", "controller", "--admin=127.0.0.1:0"),
            *("--lease-namespace=default", f"--kubeconfig={kubeconfig}"),
        )
        try:
            async with asyncio.timeout(PATIENCE), aiohttp.ClientSession() as session:
                while '"event": "started"' not in process.tail:
                    assert process.running, process.tail
                    await asyncio.sleep(0.05)
                bound = process.tail.partition('"admin": "')[2].partition('"')[0]
                root = f"http://{bound}"
                async with session.get(f"{root}/livez") as answer:
                    assert answer.status == 200
                while "serviceaccounts" not in (said := await _page(session, f"{root}/readyz")):
                    await asyncio.sleep(0.05)
                assert said.startswith("503 not listed yet: ")
            process.signal(signal.SIGTERM)
            assert await process.exited() == 0, process.tail
        finally:
            await process.stop()


async def _page(session: aiohttp.ClientSession, url: str) -> str:
    async with session.get(url) as answer:
        return f"{answer.status} {await answer.text()}"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--controller-name=x"], "controller_name: String should match pattern"),
        (["--kubeconfig=/does/not/exist"], "kubeconfig /does/not/exist: no such file"),
    ],
)
async def test_a_wrong_setting_is_named(arguments: list[str], said: str) -> None:
    process = await Process.start(sys.executable, "-m", "epp_client", "controller", *arguments)
    try:
        async with asyncio.timeout(PATIENCE):
            assert await process.exited() == 2
        assert said in process.tail
    finally:
        await process.stop()
