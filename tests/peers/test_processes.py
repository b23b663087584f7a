"""Children end with their owner, and say what went wrong; the real Envoy is one of them."""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path

import grpc
import httpx
import pytest
import trustme
from grpc import aio

from testbed import process as process_module
from testbed.envoy import running_envoy
from testbed.picker import HEALTH_CHECK
from testbed.process import Process, ProcessFailed

BOOTSTRAP = """
admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}
static_resources:
  listeners:
  - name: hello
    address: {socket_address: {address: 127.0.0.1, port_value: 0}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hello
          http_filters:
          - name: router
            typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {prefix: /}
                direct_response: {status: 200, body: {inline_string: hello}}
"""  # noqa: E501
PEERS = {
    "testbed.model_server": (),
    "testbed.grpc_model": (),
    "testbed.picker": ("--endpoints", "10.0.0.1:1", "--dialect", "pick-with-headers,value"),
}


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has reaped yet has."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


async def test_a_signal_for_a_child_that_has_just_ended_leaves_its_exit_code() -> None:
    for _ in range(20):
        child = await Process.start("sleep", "60")
        os.kill(child.pid, signal.SIGKILL)
        while child.running:
            child.signal(signal.SIGCONT)
            await asyncio.sleep(0)
        assert await child.exited() == -signal.SIGKILL


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(60):
        while not gone(pid):
            # nothing tells of the end of a grandchild
            await asyncio.sleep(0.02)


async def test_envoy_tells_its_ports_and_ends_with_its_owner() -> None:
    async with running_envoy(BOOTSTRAP) as envoy:
        address = (await envoy.listeners())["hello"]
        async with httpx.AsyncClient(timeout=5) as client:
            assert (await client.get(f"http://{address}/")).text == "hello"
            assert (await client.get(envoy.admin + "/ready")).status_code == 200
    assert gone(envoy.process.pid)


async def test_an_envoy_that_cannot_start_says_why() -> None:
    with pytest.raises(ProcessFailed, match="no_such_field"):
        async with running_envoy("no_such_field: 1"):
            pass


@pytest.mark.parametrize("module", PEERS)
async def test_a_peer_says_where_it_listens_and_ends_on_sigterm(module: str) -> None:
    peer, ready = await Process.python(module, *PEERS[module])
    host, _, port = ready["address"].rpartition(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.close()
    await writer.wait_closed()
    assert await peer.stop() == 0, peer.tail
    assert gone(peer.pid)


async def test_one_process_serves_several_model_servers_on_the_port_of_the_first() -> None:
    hosts = ("127.0.0.41", "127.0.0.42")
    peer, ready = await Process.python(
        "testbed.model_server", "--listen", *(f"{host}:0" for host in hosts)
    )
    port = ready["address"].rpartition(":")[2]
    assert ready["addresses"] == [f"{host}:{port}" for host in hosts]
    async with httpx.AsyncClient(timeout=60) as client:
        for address in ready["addresses"]:
            answer = await client.post(f"http://{address}/echo", content=b"x")
            assert answer.headers["x-model-server"] == address
    assert await peer.stop() == 0


async def test_the_picker_serves_mutual_tls_from_files(tmp_path: Path) -> None:
    authority = trustme.CA()
    own, client = authority.issue_cert("127.0.0.1"), authority.issue_cert("sidecar")
    files = [tmp_path / name for name in ("cert.pem", "key.pem", "ca.pem")]
    own.cert_chain_pems[0].write_to_path(files[0])
    own.private_key_pem.write_to_path(files[1])
    authority.cert_pem.write_to_path(files[2])
    peer, ready = await Process.python(
        "testbed.picker", "--endpoints", "10.0.0.1:1", "--tls-cert", str(files[0]),
        "--tls-key", str(files[1]), "--client-ca", str(files[2]),
    )  # fmt: skip
    credentials = grpc.ssl_channel_credentials(
        authority.cert_pem.bytes(),
        client.private_key_pem.bytes(),
        client.cert_chain_pems[0].bytes(),
    )
    anonymous = grpc.ssl_channel_credentials(authority.cert_pem.bytes())
    try:
        async with aio.secure_channel(ready["address"], credentials) as channel:
            assert await channel.unary_unary(HEALTH_CHECK)(b"", timeout=5) == b"\x08\x01"
        async with aio.secure_channel(ready["address"], anonymous) as channel:
            with pytest.raises(aio.AioRpcError):
                await channel.unary_unary(HEALTH_CHECK)(b"", timeout=5)
    finally:
        await peer.stop()


async def test_a_peer_that_fails_at_once_is_not_waited_for() -> None:
    async with asyncio.timeout(process_module.START_TIMEOUT / 2):
        with pytest.raises(ProcessFailed, match="esperanto"):
            await Process.python(
                "testbed.picker", "--endpoints", "10.0.0.1:1", "--dialect", "esperanto"
            )


async def test_a_frozen_peer_can_be_stopped() -> None:
    peer, _ = await Process.python("testbed.grpc_model")
    peer.signal(signal.SIGSTOP)
    await peer.stop()
    assert gone(peer.pid)


async def test_a_cancelled_start_leaves_no_child(monkeypatch: pytest.MonkeyPatch) -> None:
    started: asyncio.Queue[Process] = asyncio.Queue()

    async def silent(*_: str) -> Process:
        child = await start("sleep", "60")
        started.put_nowait(child)
        return child

    start = Process.start
    monkeypatch.setattr(Process, "start", silent)
    starting = asyncio.create_task(Process.python("anything"))
    child = await started.get()
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert gone(child.pid)


async def test_children_die_with_a_killed_parent() -> None:
    script = (
        "import asyncio, json\n"
        "from testbed.process import Process\n"
        "async def main():\n"
        "    child, _ = await Process.python('testbed.grpc_model')\n"
        "    print(json.dumps({'pid': child.pid}), flush=True)\n"
        "    await asyncio.sleep(60)\n"
        "asyncio.run(main())\n"
    )
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
    )
    assert parent.stdout is not None
    async with asyncio.timeout(60):
        pid = json.loads(await parent.stdout.readline())["pid"]
    assert not gone(pid)
    parent.kill()
    await parent.wait()
    await until_gone(pid)
