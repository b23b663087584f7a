"""What `standalone` makes of an Envoy's arguments, and of the file that they name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from epp_client.errors import SettingsError
from epp_client.up.standing_in import (
    DEFAULTS,
    Arguments,
    as_options,
    is_bootstrap,
    read_arguments,
    settings_of,
    settings_of_the_chart,
)

CHART = (
    *("--service-node", "envoy-proxy", "--log-level", "warn", "--cpuset-threads"),
    *("--drain-strategy", "immediate", "--drain-time-s", "60", "-c", "/etc/envoy/envoy.yaml"),
)
"""The arguments of the chart's Envoy, 0.9 and 0.10. tests/cluster compares them with the rendered ones."""


def test_of_the_charts_arguments_the_file_is_used() -> None:
    assert read_arguments(CHART) == Arguments(
        Path("/etc/envoy/envoy.yaml"),
        None,
        (
            *("--service-node envoy-proxy", "--log-level warn", "--cpuset-threads"),
            *("--drain-strategy immediate", "--drain-time-s 60"),
        ),
    )


@pytest.mark.parametrize(
    ("line", "file", "concurrency", "ignored"),
    [
        ("", None, None, ()),
        ("-c a.yaml --concurrency 4", "a.yaml", "4", ()),
        ("--config-path a.yaml --concurrency=4", "a.yaml", "4", ()),
        ("--config-path=a.yaml", "a.yaml", None, ()),
        ("-c a.yaml -c b.yaml", "b.yaml", None, ()),
        ("-l warn -c a.yaml", "a.yaml", None, ("-l warn",)),
        ("--cpuset-threads -c a.yaml", "a.yaml", None, ("--cpuset-threads",)),
        ("--component-log-level=http:debug", None, None, ("--component-log-level http:debug",)),
        ("-c", None, None, ("-c",)),
        ("--concurrency", None, None, ("--concurrency",)),
        ("stray -c a.yaml", "a.yaml", None, ("stray",)),
    ],
)
def test_envoys_arguments(
    line: str, file: str | None, concurrency: str | None, ignored: tuple[str, ...]
) -> None:
    expected = Arguments(Path(file) if file else None, concurrency, ignored)
    assert read_arguments(line.split()) == expected


def bootstrap(*, tls: bool = True, host: str = "127.0.0.1") -> dict[str, Any]:
    """What the chart's bootstrap says of its picker."""
    transport = "\n    transport_socket: {name: envoy.transport_sockets.tls}" if tls else ""
    made: dict[str, Any] = yaml.safe_load(f"""
static_resources:
  clusters:
  - name: original_destination_cluster
    type: ORIGINAL_DST
  - name: ext_proc{transport}
    load_assignment:
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: {host}, port_value: 9002}}}}}}
""")
    return made


def environment(pod: str) -> dict[str, str]:
    return {"POD_NAME": pod, "NS_NAME": "inference"}


@pytest.mark.parametrize(
    ("pod", "release"),
    [
        ("llama-epp-6d5f8b7c9-abcde", "llama"),
        ("my-epp-pool-epp-6d5f8b7c9-abcde", "my-epp-pool"),
        ("llama-proxy-77c4b5d6f-x2x2x", "llama"),
    ],
)
def test_the_charts_own_bootstrap_and_pod_tell_the_pool_and_its_picker(
    pod: str, release: str
) -> None:
    assert is_bootstrap(bootstrap())
    assert settings_of_the_chart(bootstrap(), environment(pod)) == {
        "kubernetes": True,
        "pool": f"inference/{release}",
        "picker": "127.0.0.1:9002",
        "picker-tls": "unverified",
    }


def test_a_picker_without_tls_behind_a_service() -> None:
    host = "llama-epp.inference.svc.cluster.local"
    found = settings_of_the_chart(bootstrap(tls=False, host=host), environment("a-epp-1-abcde"))
    assert (found["picker"], found["picker-tls"]) == (f"{host}:9002", "plaintext")


@pytest.mark.parametrize(
    "other",
    [
        {"static_resources": {}},
        {"static_resources": {"clusters": [{"name": "ext_proc"}]}},
        {"static_resources": {"clusters": [{"name": "ext_proc", "load_assignment": {}}]}},
    ],
)
def test_a_bootstrap_without_such_a_picker_leaves_the_default(other: dict[str, Any]) -> None:
    found = settings_of_the_chart(other, environment("a-epp-1-abcde"))
    assert found == {"kubernetes": True, "pool": "inference/a"}


@pytest.mark.parametrize("pod", ["", "llama-epp-0", "other"])
def test_a_pod_that_does_not_tell_its_release_is_an_error_that_says_what_to_do(pod: str) -> None:
    with pytest.raises(SettingsError, match=r"POD_NAME='.*config/llm-d/values\.yaml"):
        settings_of_the_chart(bootstrap(), environment(pod))


def test_our_file_is_a_mapping() -> None:
    assert settings_of(None, "f") == {}
    assert settings_of({"listen": "a:1"}, "f") == {"listen": "a:1"}
    wrongs: list[object] = [[], "text", {1: "a"}]
    for wrong in wrongs:
        assert not is_bootstrap(wrong)
        with pytest.raises(SettingsError, match=r"^f: is not a mapping of options"):
            settings_of(wrong, "f")


def test_settings_become_options() -> None:
    settings = {"kubernetes": True, "status": False, "pool": ["a/b", "a/c"], "drain-timeout": 5}
    assert as_options(settings) == [
        *("--kubernetes", "--no-status", "--pool=a/b", "--pool=a/c", "--drain-timeout=5"),
    ]


def test_the_defaults_are_the_charts_ports() -> None:
    ports = [str(DEFAULTS[name]).rpartition(":")[2] for name in ("listen", "status-listen")]
    assert (*ports, DEFAULTS["picker"]) == ("8081", "19001", "127.0.0.1:9002")
