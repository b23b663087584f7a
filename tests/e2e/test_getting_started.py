"""The pages for this machine as a reader follows them: each block prints what the page says."""

import asyncio
import contextlib
import os
import re
import sys
from pathlib import Path

import pytest

from testbed.envoy import envoy_binary
from testbed.ports import free_ports

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "getting-started"
PAGES = ("this-machine.md", "without-kubernetes.md", "gateway-in-files.md")
DEFAULTS = {
    "epp-client up": (
        "epp-client up --log-format console --listen 127.0.0.1:8080 --admin 127.0.0.1:9902"
        " --envoy-admin 127.0.0.1:9901"
    ),
    "epp-client serve": "epp-client serve --admin 127.0.0.1:9902",
    "epp-client envoy-config": (
        "epp-client envoy-config --listen 127.0.0.1:8080 --envoy-admin 127.0.0.1:9901"
    ),
    "envoy -c": "envoy --use-dynamic-base-id -c",
}
"""What the page leaves to defaults, written out: the tests beside this one have the same defaults."""
PORTS = ("8000", "9002", "8080", "9902", "9901")


def steps(text: str) -> list[tuple[list[str], list[str]]]:
    """The commands of each `sh` block, and the lines of the `text` blocks before the next one."""
    found: list[tuple[list[str], list[str]]] = []
    for kind, body in re.findall(r"```(sh|text)\n(.*?)```", text, re.DOTALL):
        if kind == "sh":
            found.append((body.splitlines(), []))
        else:
            found[-1][1].extend(body.splitlines())
    return found


def as_run(line: str) -> str:
    """A command with its defaults written out. A kill is waited for."""
    for begin, written in DEFAULTS.items():
        if line.startswith(begin):
            return line.replace(begin, written, 1)
    return f"{line}; wait {line.split()[1]}" if line.startswith("kill ") else line


def plain(text: str) -> str:
    """Without what differs from run to run: numbers, and how wide a column is."""
    return " ".join(re.sub(r"\d+(\.\d+)*", "0", text).split())


async def printed(output: Path, since: int, lines: list[str]) -> None:
    """Wait until all of this has been printed.

    Raises:
        AssertionError: it has not, in time.
    """
    missing: set[str] = set()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(90):
            while True:
                said = {plain(line) for line in output.read_text()[since:].splitlines()}
                missing = {line for line in lines if plain(line) not in said}
                if not missing:
                    return
                await asyncio.sleep(0.05)
    raise AssertionError(f"not printed: {missing}; but:\n{output.read_text()[since:]}")


@pytest.mark.timeout(180)
@pytest.mark.parametrize("page", PAGES)
async def test_every_step_prints_what_the_page_says(tmp_path: Path, page: str) -> None:
    done = "this step is done"
    text = (FOLDER / page).read_text()
    free = dict(zip(PORTS, map(str, free_ports(len(PORTS))), strict=True))

    def moved(line: str) -> str:
        """With this test's own ports."""
        return re.sub(rf"\b({'|'.join(PORTS)})\b", lambda match: free[match[1]], line)

    folder = tmp_path / "docs" / "getting-started"
    folder.mkdir(parents=True)
    for source in FOLDER.glob("*.yaml"):
        (folder / source.name).write_text(moved(source.read_text()))
    output = tmp_path / "output"
    programs = f"{Path(sys.executable).parent}:{Path(envoy_binary()).parent}:{os.environ['PATH']}"
    with output.open("wb") as file:
        shell = await asyncio.create_subprocess_exec(
            *("bash", "-m"),
            cwd=tmp_path,
            env={**os.environ, "PATH": programs, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            stdin=asyncio.subprocess.PIPE,
            stdout=file,
            stderr=asyncio.subprocess.STDOUT,
        )
    assert shell.stdin is not None
    try:
        for commands, expected in steps(text):
            since = len(output.read_text())
            for command in commands:
                # The venv is the one that runs this test.
                if command != "make venv":
                    shell.stdin.write(f"{moved(as_run(command))}\n".encode())
            shell.stdin.write(f"echo; echo {done}\n".encode())
            await printed(output, since, [*map(moved, expected), done])
    finally:
        # Nothing is left of it once the page's own clean-up has run.
        shell.stdin.write(b"kill $(jobs -p) 2> /dev/null; wait\n")
        shell.stdin.close()
        await asyncio.wait_for(shell.wait(), 40)


@pytest.mark.parametrize(("page", "least"), [*zip(PAGES, (8, 6, 7), strict=True)])
def test_a_page_has_steps_and_what_they_print(page: str, least: int) -> None:
    found = steps((FOLDER / page).read_text())
    assert len(found) >= least
    assert sum(bool(expected) for _, expected in found) >= least - 2
