"""The command line as its users type it."""

import asyncio
import json
import signal
import subprocess
from pathlib import Path

import aiohttp
import pytest
import trustme
import yaml

from epp_client.relay import exchange
from epp_client.settings import TransportName
from testbed.envoy import envoy_binary
from testbed.picker import start_picker, tls_credentials
from testbed.process import Process
from testbed.stack import Stack, inference_pool, pod, service

from .tools import COMMAND, connection_manager, run

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest.fixture(scope="session")
def transport() -> TransportName:
    """Of the installation that commands are tried on: no command knows it."""
    return TransportName.NATIVE


async def test_help_names_every_command() -> None:
    code, text = await run("--help")
    assert code == 0
    for command in ("serve", "hold", "check", "pick", "envoy-config"):
        assert command in text


async def test_check_accepts_good_manifests_and_points_at_bad_ones(
    stack: Stack, tmp_path: Path
) -> None:
    code, text = await run("check", str(stack.manifests))
    assert code == 0, text
    assert "no-such-service does not exist" in text
    bad = tmp_path / "pools.yaml"
    bad.write_text(
        "apiVersion: inference.networking.k8s.io/v1\nkind: InferencePool\n"
        "metadata: {name: llama}\nspec:\n  selector: {matchLabels: {a: b}}\n"
        "  targetPorts:\n  - number: 70000\n"
    )
    code, text = await run("check", str(bad))
    assert code == 1
    assert f"{bad}:7 InferencePool default/llama spec.targetPorts[0].number: 70000 is not" in text


async def test_check_reads_standard_input_and_says_what_would_be_served(stack: Stack) -> None:
    objects = [inference_pool("p", 8000, "epp", "FailOpen"), pod("a", "10.0.0.1")]
    objects += service("epp", "10.1.0.1:9002")

    def call(*more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*COMMAND, "check", "-", *more],
            input=yaml.safe_dump_all(objects),
            capture_output=True,
            text=True,
            timeout=40,
            check=False,
        )

    done = await asyncio.to_thread(call, "--live", "--strict")
    assert (done.returncode, done.stdout) == (
        0,
        "0 errors, 0 warnings\n1 pool, 1 endpoint, picker 10.1.0.1:9002\n",
    )
    del objects[2:]
    assert (await asyncio.to_thread(call)).returncode == 0
    done = await asyncio.to_thread(call, "--live")
    assert done.returncode == 1
    assert "standard input:" in done.stdout


async def test_a_source_without_a_pool_says_so_and_the_first_line_says_whether_it_is_compiled(
    tmp_path: Path,
) -> None:
    (tmp_path / "pods.yaml").write_text(yaml.safe_dump(pod("a", "10.0.0.1")))
    log = tmp_path / "log"
    with log.open("wb") as output:
        sidecar = await asyncio.create_subprocess_exec(
            *(*COMMAND, "serve", "--pools", str(tmp_path), "--socket", str(tmp_path / "s")),
            *("--xds-socket", str(tmp_path / "x"), "--admin", "127.0.0.1:0"),
            stdout=output,
            stderr=output,
        )
    try:
        async with asyncio.timeout(60):
            while '"serving"' not in log.read_text():
                await asyncio.sleep(0.05)
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        plain = str(exchange.__file__).endswith(".py")
        first = lines[0]["event"].partition(":")[0]
        assert first == f"the hot path is {'not ' if plain else ''}compiled"
        [hint] = [line["hint"] for line in lines if line["event"] == "no InferencePool is served"]
        [admin] = [line["admin"] for line in lines if line["event"] == "serving"]
        async with aiohttp.ClientSession() as session:
            ready = await (await session.get(f"http://{admin}/readyz")).text()
        assert hint in ready
        assert f"{tmp_path} has no usable InferencePool" in hint
    finally:
        sidecar.send_signal(signal.SIGTERM)
        await sidecar.wait()


async def test_envoy_config_takes_the_modes_from_each_pool(stack: Stack) -> None:
    code, text = await run("envoy-config", "--pools", str(stack.manifests))
    assert code == 0, text
    bootstrap = yaml.safe_load(text[text.index("node:") :])
    routes = connection_manager(bootstrap)["route_config"]["virtual_hosts"][0]["routes"]
    past = {
        route["name"]
        for route in routes
        for per_route in route["typed_per_filter_config"].values()
        if "processing_mode" in per_route["overrides"]
    }
    assert past == {"default/skip", "default/skip with trailers"}
    code, text = await run(
        "envoy-config", "--pools", str(stack.manifests), "--response-mode", "skip"
    )
    assert text.count("response_trailer_mode: SKIP") > 2, "pools without the annotation"


async def test_pick_prints_what_the_picker_says(stack: Stack) -> None:
    code, text = await run(
        "pick", "default/close", "--pools", str(stack.manifests), "--picker-tls", "plaintext",
        "-H", f"test-epp-endpoint-selection: {stack.endpoints[1]}",
    )  # fmt: skip
    assert code == 0, text
    assert stack.endpoints[1] in text
    code, text = await run(
        "pick", "default/close", "--pools", str(stack.manifests), "--picker-tls", "plaintext",
        "-H", "x-picker-dialect: pick-outside",
    )  # fmt: skip
    assert code == 1
    assert "pick_outside_pool" in text


async def test_pick_shows_its_certificate_to_a_picker_that_wants_one(
    stack: Stack, tmp_path: Path
) -> None:
    authority = trustme.CA()
    leaf = authority.issue_cert("mutual.default.svc")
    ca, cert, key, pools = (tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem", "p.yaml"))
    authority.cert_pem.write_to_path(ca)
    leaf.cert_chain_pems[0].write_to_path(cert)
    leaf.private_key_pem.write_to_path(key)
    credentials = tls_credentials(cert, key, ca)
    server, address = await start_picker("127.0.0.1:0", stack.endpoints, credentials)
    port = int(stack.endpoints[0].rpartition(":")[2])
    pods = [pod(f"model-{n}", item.rpartition(":")[0]) for n, item in enumerate(stack.endpoints)]
    pool = inference_pool("mutual", port, "mutual", "FailClose")
    pools.write_text(yaml.safe_dump_all([pool, *pods, *service("mutual", address)]))
    asked = ("pick", "default/mutual", "--pools", str(pools), "--picker-tls", "verified")
    try:
        trusting = (*asked, "--picker-ca", str(ca))
        code, text = await run(
            *trusting, "--picker-cert", str(cert), "--picker-key", str(key),
            "-H", f"test-epp-endpoint-selection: {stack.endpoints[1]}",
        )  # fmt: skip
        assert code == 0, text
        assert stack.endpoints[1] in text
        code, text = await run(*trusting)
        assert code == 1, text
    finally:
        await server.stop(0)


async def test_an_unknown_pool_gets_a_clear_error(stack: Stack) -> None:
    code, text = await run("pick", "default/none", "--pools", str(stack.manifests))
    assert code == 2
    assert "no InferencePool default/none" in text
    assert "Traceback" not in text


async def test_envoy_accepts_the_printed_bootstrap(stack: Stack, tmp_path: Path) -> None:
    for mode in ("override_host", "original_dst"):
        code, text = await run(
            "envoy-config", "--pools", str(stack.manifests), "--upstream-mode", mode
        )
        assert code == 0, text
        file = tmp_path / f"{mode}.yaml"
        file.write_text(text)
        envoy = await Process.start(envoy_binary(), "--mode", "validate", "-c", str(file))
        async with asyncio.timeout(60):
            assert await envoy.exited() == 0, envoy.tail
        await envoy.stop()


async def test_serve_becomes_ready_and_drains_on_sigterm(stack: Stack, tmp_path: Path) -> None:
    process = await Process.start(
        *COMMAND, "serve", "--pools", str(stack.manifests), "--socket", str(tmp_path / "e.sock"),
        "--xds-socket", str(tmp_path / "x.sock"), "--admin", "127.0.0.1:0",
    )  # fmt: skip
    try:
        async with asyncio.timeout(60):
            line = json.loads(await process._first.get())
            while line.get("event") != "serving":
                line = json.loads(await process._first.get())
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{line['admin']}/livez") as answer,
        ):
            assert answer.status == 200
        assert (tmp_path / "e.sock").stat().st_mode & 0o777 == 0o660
        process.signal(signal.SIGTERM)
        # a second one cuts the drain short, and is no failure
        process.signal(signal.SIGTERM)
    finally:
        assert await process.stop() == 0, process.tail


async def test_bad_settings_are_named(stack: Stack) -> None:
    code, text = await run("serve", "--pools", str(stack.manifests), "--pick-timeout=-1")
    assert code == 2
    assert "pick_timeout" in text
