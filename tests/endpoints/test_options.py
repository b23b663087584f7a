"""A pool of options alone: what they make, and what does not go together."""

from typing import Any

import pytest

from epp_client.endpoints.listed import ListedPool, given_endpoints, pool_of, resolve_listed
from epp_client.errors import SettingsError
from epp_client.pool.inference_pool import AppProtocol, FailureMode, PoolName
from epp_client.pool.picker_host import Lookup
from epp_client.pool.settings import PoolSettings
from epp_client.settings import EndpointSettings, serve_settings, valid


def given(**values: Any) -> EndpointSettings:
    return valid(EndpointSettings, values)


DEFAULTS = PoolSettings()


def listed_of(settings: EndpointSettings, defaults: PoolSettings = DEFAULTS) -> ListedPool:
    return pool_of(settings, defaults, given_endpoints(settings))


def test_options_make_one_pool() -> None:
    settings = given(
        endpoint=["10.0.0.8:8001", "[FD00:0::7]:8000", "10.0.0.8:8000"],
        picker="10.0.0.1:9002",
        failure_mode="FailOpen",
        app_protocol="kubernetes.io/h2c",
        pool_name="prod/llama",
    )
    listed = listed_of(settings, PoolSettings(pick_timeout=3.0))
    assert listed.pool.name == PoolName("prod", "llama")
    assert listed.pool.failure_mode is FailureMode.FAIL_OPEN
    assert listed.pool.app_protocol is AppProtocol.H2C
    assert listed.pool.settings.pick_timeout == 3.0
    found = resolve_listed(listed, Lookup(), None, 0.0)
    assert [*found.snapshot.table.by_key] == ["10.0.0.8:8000", "10.0.0.8:8001", "[fd00::7]:8000"]
    assert len(found.snapshot.table.local) == 3
    assert found.snapshot.picker is not None
    assert found.snapshot.picker.addresses == ("10.0.0.1:9002",)
    assert found.problems == ()


def test_a_pool_without_a_picker_has_none() -> None:
    listed = listed_of(given(endpoint=["10.0.0.8:8000"]))
    assert listed.pool.name == PoolName("default", "default")
    assert resolve_listed(listed, Lookup(), None, 0.0).snapshot.picker is None


@pytest.mark.parametrize(
    ("picker", "looked_up", "addresses"),
    [
        ("[fd00::1]:9002", Lookup(), ("[fd00::1]:9002",)),
        ("epp:9002", Lookup(("10.0.0.2", "fd00::2")), ("10.0.0.2:9002", "[fd00::2]:9002")),
        ("epp:9002", Lookup(("10.0.0.2",), "no answer"), ("10.0.0.2:9002",)),
        ("epp:9002", Lookup((), "no answer"), ()),
    ],
)
def test_a_picker_has_the_addresses_of_its_host(
    picker: str, looked_up: Lookup, addresses: tuple[str, ...]
) -> None:
    listed = listed_of(given(endpoint=["10.0.0.8:8000"], picker=picker))
    found = resolve_listed(listed, looked_up, None, 0.0)
    assert found.snapshot.picker is not None
    assert found.snapshot.picker.addresses == addresses
    assert bool(found.problems) == (not addresses)
    if not addresses:
        assert found.snapshot.picker.problem == "host epp has no address: no answer"


SOURCES = "give exactly one source of pools"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"endpoint": ["model-1:8000"]}, "a host name cannot be used"),
        ({"endpoint": ["10.0.0.7"]}, "is not of the form ip:port"),
        ({"endpoint": ["10.0.0.7:8000", "10.0.0.7:8000"]}, "10.0.0.7:8000 is given twice"),
        ({"endpoint": ["10.0.0.7:8000"], "picker": "epp"}, "is not of the form host:port"),
        ({"endpoint": ["10.0.0.7:8000"], "picker": "http://epp:1"}, "is not of the form host:port"),
        ({"endpoint": ["10.0.0.7:8000"], "picker": "epp:0"}, "is not of the form host:port"),
        ({"endpoint": ["10.0.0.7:8000"], "pool_name": "llama"}, "of the form namespace/name"),
        ({"endpoint": ["10.0.0.7:8000"], "health_check": "http"}, "health_check: "),
        ({"endpoint": ["10.0.0.7:8000"], "health_check": "http:/a b"}, "health_check: "),
        ({"endpoint": ["10.0.0.7:8000"], "unhealthy_threshold": 0}, "unhealthy_threshold: "),
        ({"health_check": "tcp"}, "--health-check: needs --endpoint IP:PORT"),
        ({"endpoint": ["10.0.0.7:8000"], "failure_mode": "Open"}, "failure_mode: "),
        ({"endpoint": ["10.0.0.7:8000"], "endpoints": "f"}, "give --endpoint, --endpoints FILE or"),
        (
            {"endpoint": ["10.0.0.7:8000"], "picker": "a/epp:1"},
            "a Service needs --endpoint-selector",
        ),
        ({"endpoint_target_ports": "8000"}, "--endpoint-target-ports: needs --endpoint-selector"),
        (
            {"endpoint": ["10.0.0.7:8000"], "endpoint_target_ports": "8000"},
            "--endpoint-target-ports: needs --endpoint-selector",
        ),
        ({"picker": "epp:9002"}, "--picker: needs --endpoint IP:PORT"),
        (
            {"endpoint": ["10.0.0.7:8000"], "failure_mode": "FailOpen"},
            "--failure-mode: needs --picker HOST:PORT",
        ),
    ],
)
def test_a_mistake_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        serve_settings({"endpoints": values})
    assert said in str(caught.value)


@pytest.mark.parametrize("other", [{"pools": "."}, {"kubernetes": {}}])
def test_there_is_one_source_of_pools(other: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=SOURCES):
        serve_settings({"endpoints": {"endpoint": ["10.0.0.7:8000"]}, **other})
    with pytest.raises(SettingsError, match=SOURCES):
        serve_settings({"endpoints": {"endpoints": "endpoints.yaml"}, **other})


# --- the Pods of a selector ---

SELECTED = {"endpoint_selector": "app=vllm", "endpoint_target_ports": "8000"}


@pytest.mark.parametrize(
    ("text", "ports"),
    [("8000", (8000,)), ("8000,8001", (8000, 8001)), ("8001, 8000,8001", (8001, 8000))],
)
def test_target_ports_are_a_list_with_commas(text: str, ports: tuple[int, ...]) -> None:
    found = serve_settings(
        {"kubernetes": {}, "endpoints": {**SELECTED, "endpoint_target_ports": text}}
    )
    assert found.endpoints.endpoint_target_ports == ports


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"endpoint_selector": " "}, "endpoint_selector: is empty; write one such as app=vllm"),
        ({"endpoint_selector": "app vllm"}, "'app vllm' is not a label selector"),
        ({"endpoint_target_ports": ""}, "endpoint_target_ports.0: "),
        ({"endpoint_target_ports": "0"}, "endpoint_target_ports.0: "),
        ({"endpoint_target_ports": "1,2,3,4,5,6,7,8,9"}, "9 ports are more than 8"),
        ({"endpoint_target_ports": ()}, "needs --endpoint-target-ports, such as 8000"),
        (
            {"endpoint": ["10.0.0.7:8000"]},
            "give --endpoint, --endpoints FILE or --endpoint-selector",
        ),
        ({"health_check": "tcp"}, "--health-check: is for --endpoint and --endpoints"),
        ({"unhealthy_threshold": 1}, "--unhealthy-threshold: is for --endpoint and --endpoints"),
        ({"picker": "a/b/epp:9002"}, "is not of the form host:port, or namespace/name:port"),
        ({"picker": "a/epp:0"}, "is not of the form host:port, or namespace/name:port"),
        ({"failure_mode": "FailOpen"}, "--failure-mode: needs --picker HOST:PORT"),
    ],
)
def test_a_mistake_in_a_selection_is_named(values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        serve_settings({"kubernetes": {}, "endpoints": {**SELECTED, **values}})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kubernetes", "said"),
    [
        (None, "--endpoint-selector: needs --kubernetes"),
        ({"namespaces": ["a"]}, "--namespace: is about InferencePools"),
        ({"named_pools": ["a/b"]}, "--pool: is about InferencePools"),
        ({"gateway": "a/b"}, "--gateway: is about InferencePools"),
    ],
)
def test_a_selection_takes_the_place_of_inference_pools(kubernetes: Any, said: str) -> None:
    with pytest.raises(SettingsError, match=said):
        serve_settings({"kubernetes": kubernetes, "endpoints": SELECTED})
