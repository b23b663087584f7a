"""The generated bootstrap: the examples in `config/envoy/`, and what the real Envoy takes."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from pydantic.dataclasses import is_pydantic_dataclass

from epp_client import cli
from epp_client.envoy.bootstrap import envoy_config, gateway_config
from epp_client.envoy.clusters import pool_cluster
from epp_client.envoy.edge import Edge
from epp_client.envoy.pool_clusters import cluster_name, serialized_cluster
from epp_client.envoy.routes import Route, default_routes, without_root
from epp_client.errors import SettingsError
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from epp_client.settings import UpstreamMode
from testbed.envoy import envoy_binary

EXAMPLES = Path(__file__).parents[2] / "config" / "envoy"
LLAMA, QWEN = PoolName("default", "llama"), PoolName("default", "qwen")
RUN = Path("/run/epp-client")
EXT_PROC, XDS = [RUN / "ext-proc.sock"], RUN / "xds.sock"

RENDERED = {
    "one-pool.yaml": envoy_config([LLAMA], ext_proc_sockets=EXT_PROC, ads_socket=XDS),
    "two-pools.yaml": envoy_config([LLAMA, QWEN], ext_proc_sockets=EXT_PROC, ads_socket=XDS),
    "original-dst.yaml": envoy_config(
        [LLAMA],
        ext_proc_sockets=EXT_PROC,
        ads_socket=None,
        upstream_mode=UpstreamMode.ORIGINAL_DST,
    ),
}


@pytest.mark.parametrize("name", RENDERED)
def test_examples_are_what_the_generator_prints(name: str) -> None:
    assert (EXAMPLES / name).read_text() == RENDERED[name]


@pytest.mark.parametrize("name", RENDERED)
def test_envoy_accepts_the_examples(name: str) -> None:
    command = [envoy_binary(), "--mode", "validate", "-l", "error", "-c", str(EXAMPLES / name)]
    done = subprocess.run(
        [*command, "--use-dynamic-base-id"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr


COMMANDS = {
    "two pools": "--pool a/llama --pool a/qwen=skip --route /a=a/llama --route /=a/qwen",
    "an endpoint": "--endpoint 127.0.0.1:8000 --upstream-mode original_dst --workers 2 --idle-timeout 5",
    "everything": (
        "--pool a/b --tls-cert /c.pem --tls-key /k.pem --otlp-grpc 127.0.0.1:4317 --trace-share 12.5"
        " --status-listen 127.0.0.1:9903 --max-connections 7 --request-timeout 3 --upgrade none"
    ),
    "gateway": "--gateway --workers 3 --status-listen 127.0.0.1:9903",
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_whose_messages_are_plain_dataclasses_print_the_same(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Here pydantic checks each message."""
    assert is_pydantic_dataclass(Cluster)
    arguments = ["envoy-config", *COMMANDS[name].split()]
    done = subprocess.run(
        [sys.executable, "-m", "epp_client", *arguments], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    monkeypatch.setattr("sys.argv", ["epp-client", *arguments])
    with pytest.raises(SystemExit):
        cli.main()
    assert yaml.safe_load(done.stdout) == yaml.safe_load(capsys.readouterr().out)


def _routes(text: str) -> list[dict[str, object]]:
    listener = yaml.safe_load(text)["static_resources"]["listeners"][0]
    manager = listener["filter_chains"][0]["filters"][0]["typed_config"]
    routes: list[dict[str, object]] = manager["route_config"]["virtual_hosts"][0]["routes"]
    return routes


def _asked(text: str) -> dict[object, Any]:
    """The processing mode of each route, None if it is that of the filter."""
    modes: dict[object, Any] = {}
    for route in _routes(text):
        [per_route] = route["typed_per_filter_config"].values()  # type: ignore[attr-defined]
        modes[route["name"]] = per_route["overrides"].get("processing_mode")
    return modes


def test_the_longest_prefix_comes_first() -> None:
    text = envoy_config(
        [LLAMA, QWEN],
        routes=[Route("/", LLAMA), Route("/qwen/", QWEN)],
        ext_proc_sockets=EXT_PROC,
        ads_socket=XDS,
    )
    prefixes = [route["match"]["prefix"] for route in _routes(text)]  # type: ignore[index]
    assert prefixes == ["/qwen/", "/qwen/", "/", "/"], "each once more for requests with trailers"


def test_skip_sends_no_response_body_of_that_pool_to_the_sidecar() -> None:
    text = envoy_config(
        [LLAMA, QWEN],
        ext_proc_sockets=EXT_PROC,
        ads_socket=XDS,
        modes={
            LLAMA: Modes(response=ResponseMode.SKIP),
            QWEN: Modes(response=ResponseMode.OBSERVE),
        },
    )
    modes = _asked(text)
    skip = modes["default/llama"]
    assert skip["response_header_mode"] == "SEND"
    assert skip.get("response_body_mode", "NONE") == "NONE"
    assert skip["response_trailer_mode"] == "SKIP"
    assert skip["request_body_mode"] == "FULL_DUPLEX_STREAMED"
    assert modes == {
        "default/llama": skip,
        "default/llama with trailers": skip,
        "default/qwen": None,
        "default/qwen with trailers": None,
    }


def test_headers_sends_no_request_body_of_that_pool_to_the_sidecar() -> None:
    headers = Modes(request=RequestMode.HEADERS)
    text = envoy_config(
        [LLAMA, QWEN], ext_proc_sockets=EXT_PROC, ads_socket=XDS, modes={LLAMA: headers}
    )
    modes = _asked(text)
    mode = modes["default/llama"]
    assert mode.get("request_body_mode", "NONE") == "NONE"
    assert mode["request_trailer_mode"] == "SKIP"
    assert mode["response_body_mode"] == "FULL_DUPLEX_STREAMED"
    assert mode["response_trailer_mode"] == "SEND"
    assert modes["default/llama with trailers"] == mode
    assert modes["default/qwen"] is None


def test_none_sends_nothing_of_the_response() -> None:
    text = envoy_config(
        [LLAMA],
        ext_proc_sockets=EXT_PROC,
        ads_socket=XDS,
        modes={LLAMA: Modes(response=ResponseMode.NONE)},
    )
    mode = _asked(text)["default/llama"]
    assert (mode["response_header_mode"], mode["response_trailer_mode"]) == ("SKIP", "SKIP")
    assert mode.get("response_body_mode", "NONE") == "NONE"
    assert mode["request_body_mode"] == "FULL_DUPLEX_STREAMED"


@pytest.mark.parametrize(
    ("pools", "routes", "sockets", "ads"),
    [
        ([], None, EXT_PROC, XDS),
        ([LLAMA], [], EXT_PROC, XDS),
        ([LLAMA], [Route("/", QWEN)], EXT_PROC, XDS),
        ([LLAMA], None, [], XDS),
        ([LLAMA], None, EXT_PROC, None),
    ],
    ids=["no pool", "no route", "unknown pool", "no socket", "override_host without ADS"],
)
def test_unusable_arguments_are_refused(
    pools: list[PoolName], routes: list[Route] | None, sockets: list[Path], ads: Path | None
) -> None:
    with pytest.raises(SettingsError, match="envoy-config"):
        envoy_config(pools, routes=routes, ext_proc_sockets=sockets, ads_socket=ads)


def _parts(**more: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """The listeners by name, and the whole document."""
    text = envoy_config([LLAMA], ext_proc_sockets=EXT_PROC, ads_socket=XDS, **more)
    document = yaml.safe_load(text)
    return {item["name"]: item for item in document["static_resources"]["listeners"]}, document


def test_envoy_accepts_a_bootstrap_for_gateways(tmp_path: Path) -> None:
    text = gateway_config(
        ext_proc_sockets=EXT_PROC, ads_socket=XDS, status=("0.0.0.0", 9903), edge=Edge()
    )
    path = tmp_path / "envoy.yaml"
    path.write_text(text)
    command = [envoy_binary(), "--mode", "validate", "-l", "error", "-c", str(path)]
    done = subprocess.run(
        [*command, "--use-dynamic-base-id"], capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    document = yaml.safe_load(text)
    assert "lds_config" in document["dynamic_resources"]
    assert [one["name"] for one in document["static_resources"]["listeners"]] == ["status"]
    assert "overload_manager" in document


def test_clients_may_come_over_tls() -> None:
    listeners, _ = _parts(edge=Edge(tls=(Path("/tls/tls.crt"), Path("/tls/tls.key"))))
    [chain] = listeners["inference"]["filter_chains"]
    context = chain["transport_socket"]["typed_config"]["common_tls_context"]
    [certificate] = context["tls_certificates"]
    assert certificate["certificate_chain"]["filename"] == "/tls/tls.crt"
    assert certificate["private_key"]["filename"] == "/tls/tls.key"
    assert context["alpn_protocols"] == ["h2", "http/1.1"]


@pytest.mark.parametrize(("most", "limited"), [(100, True), (0, False)])
def test_clients_may_be_limited_in_number(most: int, limited: bool) -> None:
    _, document = _parts(edge=Edge(max_connections=most))
    assert ("overload_manager" in document) is limited


def test_other_hosts_see_two_pages_of_envoy_and_no_more() -> None:
    listeners, document = _parts(status=("0.0.0.0", 9903), admin=("127.0.0.1", 9901))
    [chain] = listeners["status"]["filter_chains"]
    [manager] = [item["typed_config"] for item in chain["filters"]]
    [host] = manager["route_config"]["virtual_hosts"]
    paths = {route["match"]["path"] for route in host["routes"]}
    assert paths == {"/ready", "/stats/prometheus"}
    assert listeners["status"]["ignore_global_conn_limit"], "probes are not counted as clients"
    names = [cluster["name"] for cluster in document["static_resources"]["clusters"]]
    assert len(names) == 3


def test_pages_of_the_admin_cannot_be_shown_without_it() -> None:
    with pytest.raises(SettingsError, match="status listener"):
        _parts(status=("0.0.0.0", 9903), admin=None)


def test_a_second_pool_leaves_the_first_ones_prefix_where_it_was() -> None:
    one = {route.prefix: route.pool for route in default_routes([LLAMA])}
    two = {route.prefix: route.pool for route in default_routes([LLAMA, QWEN])}
    assert one == {"/": LLAMA, "/default/llama/": LLAMA}
    assert two == {"/default/llama/": LLAMA, "/default/qwen/": QWEN}
    assert without_root(default_routes([LLAMA])) == ""
    assert "no pool is at /: use /default/llama/, /default/qwen/" in without_root(
        default_routes([LLAMA, QWEN])
    )


@pytest.mark.parametrize("mode", UpstreamMode)
@pytest.mark.parametrize("protocol", AppProtocol)
@pytest.mark.parametrize("pool", [LLAMA, PoolName("n" * 63, "p" * 253)], ids=["short", "long"])
def test_a_serialized_cluster_is_the_one_that_envoys_messages_make(
    pool: PoolName, protocol: AppProtocol, mode: UpstreamMode
) -> None:
    made = pool_cluster(pool, protocol, mode)
    assert Cluster.parse(serialized_cluster(pool, protocol, mode)) == made
    assert made.name == cluster_name(pool)


def test_serving_imports_none_of_envoys_messages() -> None:
    # They cost a third of a second of CPU at every start.
    code = "import epp_client.app, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert "epp_client.app" in done.stdout
    assert "envoy_data_plane" not in done.stdout
