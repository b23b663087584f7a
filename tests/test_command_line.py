"""What the commands say of mistakes: one line, exit 2, never a traceback."""

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from epp_client import cli, signals

EXAMPLE = Path(__file__).parents[1] / "config" / "kubernetes" / "example"
POOL = """
apiVersion: inference.networking.k8s.io/v1
kind: InferencePool
metadata: {name: NAME, namespace: default}
spec:
  selector: {matchLabels: {app: llama}}
  targetPorts: [{number: PORT}]
"""


@pytest.fixture(autouse=True)
def _logs() -> Iterator[None]:
    """`pick` and `serve` configure them for the whole process, and `serve` holds signals, which children of
    other tests would inherit."""
    yield
    signals.unblock()
    structlog.contextvars.clear_contextvars()
    structlog.reset_defaults()


def call(monkeypatch: pytest.MonkeyPatch, line: str, *more: str) -> int:
    """The exit code of `epp-client LINE`."""
    monkeypatch.setattr("sys.argv", ["epp-client", *line.split(), *more])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


def test_files_of_endpoints_and_manifests_are_checked_together(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "endpoints.yaml"
    file.write_text("endpoints:\n- {name: a, address: 10.0.0.1, port: '8000'}\n")
    monkeypatch.setattr("sys.argv", ["epp-client", "check", str(file), str(EXAMPLE)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    assert "0 errors, 2 warnings\n2 pools, 1 endpoint, " in capsys.readouterr().out
    file.write_text("endpoints:\n- {name: a, address: 10.0.0.1}\n")
    assert call(monkeypatch, f"check {file}") == 1
    assert f"error: {file}:2 endpoints[0].port: is required" in capsys.readouterr().out
    assert call(monkeypatch, f"pick default/default --endpoints {file}") == 2
    assert "endpoints[0].port: is required" in capsys.readouterr().err


@pytest.mark.parametrize("page", ["pools.yaml", "endpoints.yaml"])
def test_a_pipe_is_checked_and_read_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], page: str
) -> None:
    """As of `epp-client check <(kubectl get ...)`."""
    reader, writer = os.pipe()
    try:
        os.write(writer, (EXAMPLE.parents[2] / "docs" / "getting-started" / page).read_bytes())
        os.close(writer)
        assert call(monkeypatch, f"check /dev/fd/{reader}") == 0
    finally:
        os.close(reader)
    assert "0 errors, 0 warnings\n1 pool, 2 endpoints, " in capsys.readouterr().out


def test_envoy_has_a_route_for_each_pool_by_its_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The same as with their manifests."""
    llama, other = (
        POOL.replace("NAME", name).replace("PORT", "8000") for name in ("llama", "other")
    )
    modes = "epp-client.dev/response-mode: skip, epp-client.dev/request-mode: headers"
    skips = f"{{annotations: {{{modes}}}, name: other"
    file = tmp_path / "pools.yaml"
    file.write_text(f"{llama}---{other.replace('{name: other', skips)}")
    assert call(monkeypatch, f"envoy-config --pools {file}") == 0
    expected = capsys.readouterr().out
    # That of the filter, and those of both routes of the other pool.
    assert expected.count("processing_mode:") == 3
    pools = "--pool default/llama --pool default/other=headers+skip"
    assert call(monkeypatch, f"envoy-config {pools} --output {tmp_path / 'e.yaml'}") == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "e.yaml").read_text() + "\n" == expected


def test_a_bootstrap_for_gateways_has_no_listener_and_no_route(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, "envoy-config --gateway --workers 2 --status-listen 0.0.0.0:9903") == 0
    text = capsys.readouterr().out
    assert "lds_config:" in text
    # that of the status listener
    assert text.count("route_config:") == 1
    assert text.count("/run/epp-client/ext-proc-") == 2


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("--pool llama", "--pool 'llama' is not of the form namespace/name[=MODE]"),
        ("--pool a/b=never", "'never' is no mode; there are relay, observe, skip, none, headers"),
        ("--pool a/b --pools config", "give exactly one source of pools: --pools PATH, --pool"),
        ("--pool a/b --route /=a/c", "routes to unknown pools: a/c"),
        ("--pool a/b --upstream-mode original_dst", "needs the protocols of the pools"),
        ("--pool a/b --output /none/e.yaml", "--output: cannot be written: "),
    ],
)
def test_a_pool_by_its_name_is_checked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, why: str
) -> None:
    monkeypatch.chdir(EXAMPLE.parents[2])
    assert call(monkeypatch, f"envoy-config {line}") == 2
    assert why in capsys.readouterr().err


def test_envoy_has_a_route_for_each_pool_of_a_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = Path(__file__).parents[1] / "docs" / "getting-started" / "two-pools.yaml"
    assert call(monkeypatch, f"envoy-config --endpoints {file}") == 0
    said = capsys.readouterr().out
    assert "/default/llama/" in said
    assert "/default/mistral/" in said
    assert call(monkeypatch, f"envoy-config --endpoints {file} --picker 127.0.0.1:1") == 2
    assert "--picker: " in capsys.readouterr().err


def test_envoy_has_a_route_for_a_pool_of_a_selector(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = "envoy-config --endpoint-selector app=llama --endpoint-target-ports 8000"
    assert call(monkeypatch, f"{line} --pool-name inference/llama") == 0
    assert "inference/llama" in capsys.readouterr().out
    assert call(monkeypatch, f"{line} --pools {EXAMPLE}") == 2
    assert "give exactly one source of pools" in capsys.readouterr().err


def test_what_cannot_be_bound_is_named_and_no_other_sidecar_blamed_for_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = f"serve --pools {EXAMPLE} --admin 127.0.0.1:0 --no-xds --socket {tmp_path}/none/a.sock"
    assert call(monkeypatch, line) == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/none is not a directory" in said
    assert "another sidecar" not in said


def test_a_kubeconfig_that_cannot_be_read_is_no_reason_to_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    line = f"serve --kubernetes --kubeconfig {tmp_path}/none --admin 127.0.0.1:0 --no-xds"
    assert call(monkeypatch, f"{line} --socket {tmp_path}/a.sock") == 2
    assert "no such file" in capsys.readouterr().err


def test_a_port_that_is_taken_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = f"serve --pools {EXAMPLE} --admin 127.0.0.1:{port} --socket {tmp_path}/a.sock"
        assert call(monkeypatch, line) == 2
    said = capsys.readouterr().err
    assert str(port) in said
    assert "is another sidecar running?" in said


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("serve", "exactly one source of pools"),
        (f"serve --pools {EXAMPLE} --admin nonsense", "admin: is not of the form host:port"),
        (f"serve --pools {EXAMPLE} --admin 127.0.0.1:99999", "(got '127.0.0.1:99999')"),
        (f"serve --pools {EXAMPLE} --workers 65", "workers: "),
        (f"serve --pools {EXAMPLE} --hold /h --transport grpcio", "hold: needs --transport native"),
        (f"serve --pools {EXAMPLE} --hold /h --workers 0", "hold: needs --transport native"),
        ("serve --picker 127.0.0.1:9002", "--picker: needs --endpoint IP:PORT"),
        (f"serve --pools {EXAMPLE} --endpoint 127.0.0.1:1", "exactly one source of pools"),
        ("pick a/b --endpoint 127.0.0.1:1", "no InferencePool a/b in the options"),
        ("pick a/b", "exactly one source of pools"),
        ("envoy-config", "exactly one source of pools"),
        ("envoy-config --gateway --listen 0.0.0.0:1", "--gateway: goes with --socket, --workers"),
        ("hold --patience 0", "--patience"),
        (f"serve --pools {EXAMPLE} --log-level loud", "log_level: 'loud'"),
        (
            f"serve --pools {EXAMPLE} --socket a --xds-socket a",
            "xds_socket: 'a' is an ext_proc socket",
        ),
        (
            f"serve --pools {EXAMPLE} --workers 2 --socket a.sock --xds-socket a-1.sock",
            "xds_socket: 'a-1.sock' is an ext_proc socket",
        ),
        (f"pick other/none --pools {EXAMPLE}", "it has: inference/llama"),
        (f"pick inference/llama --pools {EXAMPLE} --body @no-such-file", "No such file"),
        (f"pick inference/llama --pools {EXAMPLE} -H colon", "--header 'colon'"),
        (f"envoy-config --pools {EXAMPLE} --listen 8080", "'8080' is not of the form host:port"),
        (f"envoy-config --pools {EXAMPLE} --listen 0.0.0.0:70000", "'0.0.0.0:70000' is not"),
        (f"envoy-config --pools {EXAMPLE} --route llama", "--route 'llama'"),
        (f"envoy-config --pools {EXAMPLE} --route /=a/b", "unknown pools: a/b"),
        (f"envoy-config --pools {EXAMPLE} --workers 65", "workers"),
    ],
)
def test_a_mistake_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, said: str
) -> None:
    assert call(monkeypatch, line) == 2
    assert said in capsys.readouterr().err


def test_a_picker_without_an_address_is_the_answer_of_pick(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, f"pick inference/llama --pools {EXAMPLE}") == 1
    said = capsys.readouterr()
    assert "picker_unresolved Service inference/llama-epp port 9002 has no ready" in said.out
    assert "problem in a manifest" not in said.out, "what is piped on is the answer alone"


def test_a_pool_that_gets_no_route_is_told_and_the_others_have_theirs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "pools.yaml"
    good = POOL.replace("NAME", "good").replace("PORT", "8000")
    file.write_text(good + "---" + POOL.replace("NAME", "bad").replace("PORT", "70000"))
    assert call(monkeypatch, "envoy-config --pools", str(file)) == 0
    said = capsys.readouterr()
    assert "InferencePool default/bad spec.targetPorts[0].number: 70000 is not" in said.err
    assert "default/good" in said.out
    assert "default/bad" not in said.out


def test_a_file_that_cannot_be_read_says_why_there_are_no_pools(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = tmp_path / "pools.yaml"
    file.write_text("kind: [unclosed")
    assert call(monkeypatch, "envoy-config --pools", str(file)) == 2
    said = capsys.readouterr().err
    assert f"error: {file}" in said
    assert "not YAML" in said
    assert "at least one pool" in said


@pytest.mark.parametrize("command", ["serve", "pick default/llama"])
def test_a_key_without_its_certificate_is_no_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    assert call(monkeypatch, f"{command} --pools {EXAMPLE} --picker-key key.pem") == 2
    assert "--picker-cert" in capsys.readouterr().err
