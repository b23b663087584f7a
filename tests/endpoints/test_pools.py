"""Several pools in one file."""

import json
from pathlib import Path

import pytest

from epp_client.endpoints.health import HealthCheck, Thresholds
from epp_client.endpoints.lint import lint
from epp_client.endpoints.source import EndpointSource, load
from epp_client.errors import SettingsError
from epp_client.pool.inference_pool import AppProtocol, FailureMode
from epp_client.pool.settings import PoolSettings, ResponseMode
from epp_client.pool.store import PoolStore
from epp_client.settings import EndpointSettings
from epp_client.tls_settings import TlsMode
from reference.__main__ import SCHEMA
from reference.endpoints import endpoints_schema

TWO = """\
pools:
- name: llama
  picker: 10.0.0.1:9002
  failureMode: FailOpen
  settings:
    tls: plaintext
    pick-timeout: 30
    max-retained-body: 1Mi
  endpoints:
  - {name: a, address: 10.0.0.2, port: 8000}
- name: mistral
  namespace: prod
  appProtocol: kubernetes.io/h2c
  endpoints:
  - {name: a, address: 10.0.0.2, port: "8000"}
  - {name: b, address: 10.0.0.3, port: 8001}
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "endpoints.yaml"
    path.write_text(text)
    return path


def test_each_pool_has_its_picker_settings_and_endpoints(tmp_path: Path) -> None:
    defaults = PoolSettings(response_mode=ResponseMode.SKIP)
    found = lint(written(tmp_path, TWO), defaults)
    assert found.problems == ()
    by_name = {str(name): snapshot for name, snapshot in found.snapshots.items()}
    llama, mistral = by_name["default/llama"], by_name["prod/mistral"]
    assert llama.picker is not None
    assert llama.picker.addresses == ("10.0.0.1:9002",)
    assert llama.pool.failure_mode is FailureMode.FAIL_OPEN
    settings = llama.pool.settings
    assert (settings.tls.mode, settings.pick_timeout) == (TlsMode.PLAINTEXT, 30.0)
    assert (settings.max_retained_body, settings.response_mode) == (1 << 20, ResponseMode.SKIP)
    assert mistral.picker is None
    assert mistral.pool.app_protocol is AppProtocol.H2C
    assert [*mistral.table.by_key] == ["10.0.0.2:8000", "10.0.0.3:8001"]


def test_a_check_looks_up_no_name(tmp_path: Path) -> None:
    found = lint(
        written(tmp_path, TWO.replace("10.0.0.1:9002", "epp.invalid:9002")), PoolSettings()
    )
    assert str(found) == "2 pools, 3 endpoints, picker epp.invalid:9002, 1 without a picker"


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("name: llama", "name: Llama", "2 pools[0].name: 'Llama' is not a DNS name"),
        ("10.0.0.1:9002", "10.0.0.1", "3 pools[0].picker: is not of the form host:port"),
        ("FailOpen", "Open", "4 pools[0].failureMode: 'Open' is not one of"),
        ("  picker: 10.0.0.1:9002\n", "", "3 pools[0].failureMode: needs a picker"),
        ("plaintext", "none", "6 pools[0].settings.tls: 'none'"),
        ("pick-timeout: 30", "pick-timout: 30", "no such setting; did you mean pick-timeout?"),
        ("1Mi", "[1]", "8 pools[0].settings.max-retained-body: [1] is not a string"),
        (
            "name: mistral\n  namespace: prod",
            "name: llama",
            "pools[1].name: default/llama is a dup",
        ),
        ("kubernetes.io/h2c", "h2", "13 pools[1].appProtocol: 'h2' is not one of"),
        ("name: b, ", "", "16 pools[1].endpoints[1].name: is required"),
        ("name: b", "name: a", "16 pools[1].endpoints[1].name: a is a duplicate"),
        ("pools:", "endpoints: []\npools:", "1 endpoints: cannot be beside `pools`"),
        ("  failureMode", "  healthCheck: http\n  failureMode", "4 pools[0].healthCheck: 'http'"),
        ("  failureMode", "  healthyThreshold: 0\n  failureMode", "4 pools[0].healthyThreshold: 0"),
    ],
)
def test_an_error_is_at_its_line(tmp_path: Path, old: str, new: str, said: str) -> None:
    assert old in TWO
    path = written(tmp_path, TWO.replace(old, new, 1))
    pools, problems = load(EndpointSettings(endpoints=path), PoolSettings())
    assert pools is None
    assert any(said in str(problem) for problem in problems), [*map(str, problems)]


def test_each_pool_has_its_health_check(tmp_path: Path) -> None:
    text = TWO.replace(
        "- name: mistral\n",
        "- name: mistral\n  healthCheck: http:/health\n  unhealthyThreshold: 1\n",
    )
    path = written(tmp_path, text)
    default = HealthCheck("tcp")
    for options, first in (({}, default), ({"health_check": "off"}, None)):
        settings = EndpointSettings.model_validate({"endpoints": path, **options})
        pools, problems = load(settings, PoolSettings())
        assert problems == ()
        assert pools is not None
        second = HealthCheck("http:/health", thresholds=Thresholds(unhealthy=1))
        assert [pool.check for pool in pools] == [first, second]


def test_a_field_without_effect_is_a_warning(tmp_path: Path) -> None:
    text = TWO.replace(
        "- name: mistral\n", "- name: mistral\n  healthCheck: off\n  healthCheckTimeout: 1\n"
    )
    [problem] = lint(written(tmp_path, text), PoolSettings()).problems
    assert "13 pools[1].healthCheckTimeout: has no effect: healthCheck is off" in str(problem)


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"picker": "10.0.0.1:9002"}, "--picker"),
        ({"pool_name": "a/b"}, "--pool-name"),
        ({"app_protocol": "http"}, "--app-protocol"),
    ],
)
async def test_options_of_one_pool_do_not_go_with_several(
    tmp_path: Path, values: dict[str, str], option: str
) -> None:
    settings = EndpointSettings.model_validate({"endpoints": written(tmp_path, TWO), **values})
    source = EndpointSource(settings, PoolStore(), PoolSettings(), lambda: 0.0)
    with pytest.raises(SettingsError, match=f"{option}: .* has `pools`"):
        await source.reload()


async def test_an_edit_to_several_pools_does_not_end_a_sidecar_with_options(tmp_path: Path) -> None:
    path = written(tmp_path, "endpoints:\n- {name: a, address: 10.0.0.2, port: 8000}\n")
    settings = EndpointSettings(endpoints=path, picker="10.0.0.1:9002")
    store = PoolStore()
    source = EndpointSource(settings, store, PoolSettings(), lambda: 0.0)
    await source.reload()
    path.write_text(TWO)
    await source.reload()
    assert [*store.snapshots] == ["default/default"]
    assert "has `pools`" in str(store.problems[0])


async def test_a_pool_that_leaves_the_file_goes(tmp_path: Path) -> None:
    path = written(tmp_path, TWO)
    store = PoolStore()
    source = EndpointSource(EndpointSettings(endpoints=path), store, PoolSettings(), lambda: 0.0)
    await source.reload()
    assert sorted(store.snapshots) == ["default/llama", "prod/mistral"]
    path.write_text(TWO[: TWO.index("- name: mistral")])
    await source.reload()
    assert sorted(store.snapshots) == ["default/llama"]


def test_the_published_schema_is_that_of_the_code() -> None:
    text = SCHEMA.read_text()
    assert text == endpoints_schema(), "run `make reference`"
    schema = json.loads(text)
    assert schema["properties"].keys() == {"endpoints", "pools"}
    for shape in schema["$defs"].values():
        if "properties" in shape:
            assert all(field.get("description") for field in shape["properties"].values())
