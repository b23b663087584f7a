"""`status`, `top` and `tap` against a sidecar with the real Envoy, and the commands of docs/terminal.md
against an `up`."""

import asyncio
import os
import re
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from testbed.envoy import envoy_binary
from testbed.ports import free_ports
from testbed.process import Process
from testbed.stack import running_stack
from tests.e2e.tools import echo
from tests.terminal.pages import PROGRAM, WAIT, Ended, Terminal, command, rows

pytestmark = pytest.mark.timeout(240)
PAGE = Path(__file__).parents[2] / "docs" / "terminal.md"
PORTS = ("9002", "8001", "8002")


async def until(*words: str, code: int, text: str = "") -> Ended:
    """Run a command until it ends with `code` and has printed `text`."""
    async with asyncio.timeout(WAIT):
        while True:
            ended = await command(*words)
            if ended.code == code and text in ended.out:
                return ended
            await asyncio.sleep(0.5)


async def test_a_dead_picker_is_seen_by_all_three() -> None:
    async with running_stack(transport="native") as stack, httpx.AsyncClient(timeout=60) as client:
        admin = ("--admin", stack.sidecar.admin_address)
        # The pool `lost` has no picker's Service.
        before = await until("status", *admin, code=1, text="1 Envoy connected")
        assert before.out.startswith("DEGRADED")
        with Terminal("top", *admin) as terminal:
            await terminal.shows("default/close")
            assert (await echo(client, stack, "open")).status_code == 200
            await stack.pickers["close"].kill()
            async with asyncio.timeout(WAIT):
                while (refused := await echo(client, stack, "close")).status_code == 200:
                    await asyncio.sleep(0.1)
            reason = refused.headers["x-inference-error"]
            assert reason.startswith("picker_")
            bad = await until("status", *admin, code=2, text="default/close")
            assert re.search(r"pools? refuses?: default/close: ", bad.out.splitlines()[0])
            assert "docs/runbook.md#" in bad.out
            await terminal.shows("FAILING")
            terminal.press("q")
            assert await terminal.ends() == 0
            assert terminal.clean
        frame = (await command("top", *admin, "--once")).out.splitlines()
        (everything,) = [n for n, line in enumerate(frame) if "all pools" in line]
        assert frame[everything + 1].split()[:2] == ["failing", "default/close"]
        one = await command("top", *admin, "--once", "--pool", "default/open")
        served = [line for line in one.out.splitlines() if "100 %" in line and "ready" in line]
        assert served[0].split()[0] in stack.endpoints
        failed = await command("tap", *admin, "--no-follow", "--failed", "--pool", "default/close")
        last = rows(failed.out)[-1]
        assert (last["outcome"], last["reason"]) == ("refused", reason)
        again = await command("tap", *admin, "--no-follow", "--request-id", last["request_id"])
        assert rows(again.out) == [last]


async def test_a_decision_is_shown_as_it_falls() -> None:
    async with running_stack(transport="native") as stack, httpx.AsyncClient(timeout=60) as client:
        with Terminal("tap", "--admin", stack.sidecar.admin_address, "--count", "1") as terminal:
            # It follows once it is connected: ask until one is shown.
            while terminal.process.poll() is None:
                await echo(client, stack, "open")
                terminal.read()
                await asyncio.sleep(0.2)
            assert await terminal.ends() == 0
            assert " default/open " in terminal.text
            assert " steered " in terminal.text


# --- the page ---


def page_commands() -> list[str]:
    """The commands of the page."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(), re.DOTALL)
    return [line for block in blocks for line in block.splitlines()]


@pytest.fixture
def runtime(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """For the private folder: the path of a socket may have 107 characters."""
    with tempfile.TemporaryDirectory(prefix="up-") as folder:
        monkeypatch.setenv("XDG_RUNTIME_DIR", folder)
        yield Path(folder)


async def test_the_commands_of_the_page(runtime: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    init, simulation, up, *rest = page_commands()
    assert not (await command("status", "--up")).out
    monkeypatch.chdir(runtime)
    assert (await command(*shlex.split(init)[1:])).code == 0
    ports = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))
    for file in (runtime / "example").iterdir():
        moved = re.sub(rf"\b({'|'.join(PORTS)})\b", lambda m: ports[m[1]], file.read_text())
        file.write_text(moved)
    assert simulation == "python example/simulation.py &"
    assert up == "epp-client up --endpoints example/endpoints.yaml &"
    listen, admin, envoy_admin = free_ports(3)
    model = await Process.start(sys.executable, "example/simulation.py")
    gateway = await Process.start(
        *(PROGRAM, *shlex.split(up)[1:-1], "--envoy", envoy_binary(), "--concurrency", "1"),
        *("--listen", f"127.0.0.1:{listen}", "--admin", f"127.0.0.1:{admin}"),
        *("--envoy-admin", f"127.0.0.1:{envoy_admin}"),
    )
    try:
        await until("status", "--up", code=0, text="1 Envoy connected")
        asking = asyncio.create_task(_ask(f"http://127.0.0.1:{listen}/v1/completions"))
        try:
            await until("tap", "--up", "--last", "1", "--no-follow", code=0, text="steered")
            for line in rest:
                await _run(shlex.split(line)[1:], runtime)
        finally:
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
    finally:
        await gateway.stop(10)
        await model.stop(1)
    gone = await command("status", "--up")
    assert gone.code == 3
    assert "you run no `epp-client up` on this machine" in gone.err


async def _ask(url: str) -> None:
    """A request now and then."""
    async with httpx.AsyncClient(timeout=60) as client:
        while True:
            await client.post(url, json={"model": "llama", "prompt": "Hello"})
            await asyncio.sleep(0.3)


async def _run(words: list[str], home: Path) -> None:
    """Run a command of the page, and end it if it does not end."""
    if words in (["top", "--up"], ["tap", "--up"]):
        with Terminal(*words) as terminal:
            await terminal.shows("default/llama")
            terminal.press("q" if words[0] == "top" else "\x03")
            assert await terminal.ends() == 0
            assert terminal.clean
        return
    if words == ["--install-completion"]:
        # It looks for the shell among its parents.
        done = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"{PROGRAM} --install-completion; true"),
            env={**os.environ, "HOME": str(home)},
            stdout=asyncio.subprocess.PIPE,
        )
        await done.communicate()
        assert (home / ".bash_completions" / "epp-client.sh").exists()
        return
    ended = await command(*words)
    assert ended.code == 0, (words, ended)
    if "--failed" not in words:
        assert "default/llama" in ended.out or '"name": "llama"' in ended.out, words


def test_the_table_of_exit_codes_is_that_of_the_code() -> None:
    from epp_client.cli.targets import NO_ANSWER
    from epp_client.terminal.status import EXIT_CODES

    codes = re.findall(r"^\| (\d) \|", PAGE.read_text(), re.MULTILINE)
    assert [int(code) for code in codes] == [*EXIT_CODES.values(), NO_ANSWER]
