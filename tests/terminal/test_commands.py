"""`status`, `top` and `tap` as processes, against the admin page of a made-up fleet."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import stat
import sys
from pathlib import Path

import psutil
import pytest

from testbed.ports import free_ports
from tests.admin.fleet import Fleet
from tests.terminal.pages import Terminal, command, free_address, page, rows

pytestmark = pytest.mark.timeout(180)
FIRST = "team-0/model-000"


async def test_status_exits_with_what_it_says() -> None:
    async with page(Fleet(3)) as quiet, page(Fleet(6, troubled=True)) as troubled:
        # Their first look.
        await asyncio.sleep(3)
        fine = await command("status", "--admin", quiet)
        bad = await command("status", "--admin", troubled)
        document = await command("status", "--admin", troubled, "--output", "json")
    assert (fine.code, fine.err) == (0, "")
    assert fine.out.startswith("OK  3 pools, nothing to report")
    assert (bad.code, bad.err) == (2, "")
    assert bad.out.startswith("FAILING  the sidecar is not ready")
    assert document.code == 2
    said = json.loads(document.out)
    assert said["judgement"]["level"] == "failing"
    assert said["pools"]["rows"][0]["level"] == "failing"


async def test_without_an_answer_they_say_what_to_do() -> None:
    nowhere = free_address()
    for words in (["status"], ["top"], ["top", "--once"], ["tap"], ["tap", "--no-follow"]):
        ended = await command(*words, "--admin", nowhere)
        assert (ended.code, ended.out) == (3, ""), words
        assert ended.err.startswith(
            f"epp-client: nothing listens at {nowhere}. Is the sidecar running?"
        )
        assert "Traceback" not in ended.err


async def test_what_is_no_admin_page_is_named() -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    async def babble(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-OpenSSH\r\n")
        writer.close()
        await writer.wait_closed()

    for serve, why in (
        (answer, "older than this command"),
        (babble, "does not answer as an admin page"),
    ):
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        host, port = server.sockets[0].getsockname()
        ended = await command("status", "--admin", f"{host}:{port}")
        assert ended.code == 3
        assert why in ended.err
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ("status --admin nowhere", "--admin 'nowhere' is not of the form host:port"),
        ("status -n inference", "--namespace: needs --pod NAME"),
        ("status --context c", "--context: needs --pod NAME"),
        ("status --pod a --up", "give --pod or --up, not both"),
        ("status --pod=--kubeconfig=x", "is no name of a Pod"),
        ("top --pool llama", "--pool 'llama' is not of the form namespace/name"),
        ("tap --pool a/b/c", "--pool 'a/b/c' is not of the form namespace/name"),
    ],
)
async def test_a_wrong_option_is_named(words: str, why: str) -> None:
    ended = await command(*words.split())
    assert ended.code == 2
    assert why in ended.err
    assert "Traceback" not in ended.err


async def test_the_environment_names_the_page_as_it_does_for_the_sidecar() -> None:
    """Inside the sidecar's container, where it listens on all addresses."""
    async with page(Fleet(1)) as address:
        port = address.rpartition(":")[2]
        ended = await command("status", env={"EPP_CLIENT_ADMIN": f"0.0.0.0:{port}"})
    assert ended.out.startswith("OK")
    assert f"127.0.0.1:{port} at " in ended.out


async def test_top_prints_one_frame_for_a_script() -> None:
    async with page(Fleet(40)) as address:
        pools = await command("top", "--admin", address, "--once")
        some = await command("top", "--admin", address, "--filter", "model-01")
        one = await command("top", "--admin", address, "--once", "--pool", FIRST)
        none = await command("top", "--admin", address, "--once", "--pool", "a/b")
        few = await command("top", "--admin", address, "--once", "--pool", FIRST, "--filter", "-11")
    assert {done.code for done in (pools, some, one, none, few)} == {0}
    assert pools.out.count("/model-") == 40
    assert some.out.count("/model-") == 10
    assert "picker 10.200.0.0:9002  serving" in one.out
    assert one.out.count("ready  ") == 12
    assert "no pool a/b is served" in none.out
    assert few.out.count("ready  ") == 1
    assert "\x1b" not in pools.out


@pytest.mark.parametrize("how", ["q", "\x03", signal.SIGTERM, signal.SIGHUP])
async def test_top_leaves_a_clean_terminal(how: str | signal.Signals) -> None:
    async with page(Fleet(5)) as address:
        with Terminal("top", "--admin", address) as terminal:
            await terminal.shows(FIRST)
            assert not terminal.clean
            if isinstance(how, str):
                terminal.press(how)
            else:
                terminal.process.send_signal(how)
            code = await terminal.ends()
            assert code == (0 if isinstance(how, str) else 128 + how)
            assert terminal.clean
            assert "Traceback" not in terminal.written


async def test_top_says_that_the_sidecar_has_gone_and_goes_on_when_it_is_back() -> None:
    address = free_address()
    with contextlib.ExitStack() as owner:
        async with page(Fleet(2), address):
            terminal = owner.enter_context(Terminal("top", "--admin", address))
            await terminal.shows(FIRST)
            # Longer than the next one will have lived when it is seen.
            await asyncio.sleep(8)
            seen = len(terminal.text)
        gone = await terminal.shows("No answer since", seen)
        # What was known is still there.
        await terminal.shows(FIRST, gone)
        fleet = Fleet(3)
        async with page(fleet, address):
            back = await terminal.shows("The sidecar has restarted", gone)
            await terminal.shows("team-2/model-002", gone)
            assert "No answer" not in terminal.text[back:]
        terminal.press("q")
        assert await terminal.ends() == 0
        assert terminal.clean


async def test_top_waits_for_a_sidecar_that_hangs() -> None:
    """It accepts connections, and answers nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        with Terminal("top", "--admin", f"{host}:{port}") as terminal:
            await terminal.shows("No answer yet")
            terminal.press("q")
            assert await terminal.ends() == 0
            assert terminal.clean


async def test_tap_prints_json_lines_for_a_pipe() -> None:
    async with page(Fleet(4, troubled=True)) as address:
        await asyncio.sleep(2)
        every = await command("tap", "--admin", address, "--last", "5", "--count", "7")
        failed = await command("tap", "--admin", address, "--no-follow", "--failed")
        pool = await command(
            "tap", "--admin", address, "--no-follow", "--pool", FIRST, "--last", "2"
        )
        reason = await command(
            "tap",
            "--admin",
            address,
            "--no-follow",
            "--reason",
            "picker_timeout",
            "--output",
            "text",
        )
        one = rows(pool.out)[0]["request_id"]
        found = await command("tap", "--admin", address, "--no-follow", "--request-id", one)
        endpoint = rows(every.out)[0]["picked"]
        served = await command("tap", "--admin", address, "--no-follow", "--endpoint", endpoint)
    assert every.code == 0
    assert len(rows(every.out)) == 7
    numbers = [one["number"] for one in rows(every.out)]
    assert numbers == sorted(set(numbers))
    assert rows(failed.out)
    assert all(one["failed"] for one in rows(failed.out))
    assert [one["pool"] for one in rows(pool.out)] == [FIRST] * 2
    assert all(" refused      picker_timeout " in line for line in reason.out.splitlines())
    assert [one["request_id"] for one in rows(found.out)] == [one]
    assert all(one["picked"] == endpoint for one in rows(served.out))


async def test_tap_on_a_terminal_is_for_people() -> None:
    async with page(Fleet(4)) as address:
        with Terminal("tap", "--admin", address) as terminal:
            await terminal.shows("steered")
            terminal.press("\x03")
            assert await terminal.ends() == 0
            assert terminal.clean
            first = terminal.text.splitlines()[0]
            assert first.split()[1].startswith("team-")
            assert " pick " in first
            assert "\x1b[32msteered" in terminal.written
            assert "Traceback" not in terminal.written


async def test_tap_goes_on_when_the_sidecar_restarts_and_shows_nothing_twice() -> None:
    address = free_address()
    process = None
    try:
        async with page(Fleet(2), address):
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "epp_client", "tap", "--admin", address, "--count", "60"),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            first = await asyncio.wait_for(process.stdout.readline(), 60)
        async with page(Fleet(2), address):
            out, err = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process is not None and process.returncode is None:
            process.kill()
    assert process.returncode == 0
    assert "; trying again" in err.decode()
    assert f"{address} answers again" in err.decode()
    found = rows(first.decode() + out.decode())
    assert len(found) == 60
    keys = {(one["at"], one["pool"], one["request_id"]) for one in found}
    assert len(keys) == 60


async def test_a_broken_pipe_ends_tap_quietly() -> None:
    async with page(Fleet(3)) as address:
        line = f"{sys.executable} -m epp_client tap --admin {address} --last 3 | head -n 1"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", f"{line}; echo ${{PIPESTATUS[0]}}"),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 60)
    first, code = out.decode().splitlines()
    assert json.loads(first)["number"]
    assert (code, err.decode()) == ("0", "")


@pytest.mark.parametrize(
    ("words", "found"),
    [
        ("top --pool team-0/", ["team-0/model-000", "team-0/model-007"]),
        ("tap --pool team-1/model-0", ["team-1/model-001", "team-1/model-008"]),
        ("tap --reason picker_un", ["picker_unhealthy", "picker_unreachable", "picker_unresolved"]),
    ],
)
async def test_a_shell_completes_pools_and_reasons(words: str, found: list[str]) -> None:
    async with page(Fleet(9)) as address:
        line = f"epp-client {words}"
        ended = await command(
            env={
                "EPP_CLIENT_ADMIN": address,
                "_EPP_CLIENT_COMPLETE": "complete_bash",
                "COMP_WORDS": line,
                "COMP_CWORD": str(len(line.split()) - 1),
            }
        )
        assert ended.out.split() == found
    silent = await command(
        env={
            "EPP_CLIENT_ADMIN": free_address(),
            "_EPP_CLIENT_COMPLETE": "complete_bash",
            "COMP_WORDS": "epp-client top --pool team",
            "COMP_CWORD": "3",
        }
    )
    assert (silent.out.strip(), silent.err) == ("", "")


# --- a Pod, with a kubectl that forwards to the page ---

KUBECTL = """\
#!{python}
# A stand-in for kubectl port-forward. It prints what kubectl 1.34 prints.
import os, re, socket, sys, threading
open({log!r}, "a").write(f"{{os.getpid()}} {{' '.join(sys.argv[1:])}}\\n")
if "missing" in sys.argv:
    sys.exit('Error from server (NotFound): pods "missing" not found')
server = socket.create_server(("127.0.0.1", 0))
port = sys.argv[-1].lstrip(":")
print(f"Forwarding from 127.0.0.1:{{server.getsockname()[1]}} -> {{port}}", flush=True)
def pump(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for one in (a, b):
        try:
            one.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
while True:
    client, _ = server.accept()
    print(f"Handling connection for {{port}}", flush=True)
    try:
        pod = socket.create_connection(("127.0.0.1", int(port)))
    except OSError:
        sys.exit("error: lost connection to pod")
    for a, b in ((client, pod), (pod, client)):
        threading.Thread(target=pump, args=(a, b), daemon=True).start()
"""


class Kubectl:
    """The stand-in, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self._log = folder / "log"
        self._log.touch()
        program = folder / "kubectl"
        program.write_text(KUBECTL.format(python=sys.executable, log=str(self._log)))
        program.chmod(program.stat().st_mode | stat.S_IEXEC)
        self.env = {"PATH": f"{folder}:{os.environ['PATH']}"}

    @property
    def calls(self) -> list[tuple[int, str]]:
        """Process id and arguments of each call."""
        lines = self._log.read_text().splitlines()
        return [(int(pid), rest) for pid, _, rest in (line.partition(" ") for line in lines)]

    async def all_ended(self) -> None:
        """None runs any more, within a moment."""
        async with asyncio.timeout(20):
            while any(psutil.pid_exists(pid) for pid, _ in self.calls):
                await asyncio.sleep(0.05)


@pytest.fixture
def kubectl(tmp_path: Path) -> Kubectl:
    return Kubectl(tmp_path)


async def test_a_pod_is_reached_by_kubectl_which_ends_with_us(kubectl: Kubectl) -> None:
    async with page(Fleet(2)) as address:
        port = address.rpartition(":")[2]
        where = (
            "--pod",
            "deploy/gateway",
            "-n",
            "inference",
            "--context",
            "kind",
            "--pod-port",
            port,
        )
        status = await command("status", *where, env=kubectl.env)
        tap = await command("tap", *where, "--last", "2", "--count", "2", env=kubectl.env)
    assert status.code == 0
    assert "deploy/gateway at " in status.out
    assert len(rows(tap.out)) == 2
    assert [call for _, call in kubectl.calls] == [
        "port-forward --namespace=inference --context=kind --address=127.0.0.1 deploy/gateway :"
        + port
    ] * 2
    await kubectl.all_ended()


async def test_what_kubectl_complains_of_is_passed_on(kubectl: Kubectl) -> None:
    ended = await command("status", "--pod", "missing", env=kubectl.env)
    assert ended.code == 3
    assert (
        'port-forward missing: Error from server (NotFound): pods "missing" not found' in ended.err
    )
    none = await command("status", "--pod", "any", env={"PATH": ""})
    assert none.code == 3
    assert "--pod needs kubectl on PATH" in none.err
    await kubectl.all_ended()


@pytest.mark.parametrize("arguments", [("status",), ("top", "--once"), ("tap", "--last", "1")])
async def test_a_wrong_port_of_a_pod_is_named(kubectl: Kubectl, arguments: tuple[str, ...]) -> None:
    [nobody] = free_ports(1)
    done = await command(
        *arguments, "--pod", "deploy/gateway", "--pod-port", str(nobody), env=kubectl.env
    )
    assert done.code == 3
    assert f"for port {nobody} of deploy/gateway: is the admin page there? --pod-port" in done.err
    await kubectl.all_ended()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
async def test_kubectl_ends_whatever_ends_us(kubectl: Kubectl, number: signal.Signals) -> None:
    async with page(Fleet(2)) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "epp_client", "tap", "--pod", "gateway"),
            *("--pod-port", address.rpartition(":")[2], "--last", "1"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **kubectl.env},
        )
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 60)
        process.send_signal(number)
        await asyncio.wait_for(process.wait(), 60)
        await kubectl.all_ended()


async def test_a_new_forward_takes_the_place_of_a_broken_one(kubectl: Kubectl) -> None:
    async with page(Fleet(2)) as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "epp_client", "tap", "--pod", "gateway", "--count", "20"),
            *("--pod-port", address.rpartition(":")[2], "--last", "1"),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, **kubectl.env},
        )
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 60)
        os.kill(kubectl.calls[0][0], signal.SIGKILL)
        out, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0
    assert len(rows(out.decode())) == 19
    assert len(kubectl.calls) >= 2
    await kubectl.all_ended()
