"""What `up` tells of the gateway, and the bootstrap that it makes of the sidecar's pools."""

import pytest
import yaml
from structlog.testing import capture_logs

from epp_client.cli.up import Shown, UpSettings
from epp_client.errors import SettingsError
from epp_client.settings import serve_settings
from epp_client.up.admin import Pool

A, B = (Pool("default", name, "relay", "http", 2, "picker: 1 serving") for name in "ab")


def shown(form: str = "console", **settings: object) -> Shown:
    serving = serve_settings({"pools": ".", "admin": "0.0.0.0:9902"})
    return Shown(UpSettings.model_validate(settings), serving, form)


def prefixes(bootstrap: str) -> list[str]:
    [listener] = yaml.safe_load(bootstrap)["static_resources"]["listeners"]
    connections = listener["filter_chains"][0]["filters"][0]["typed_config"]
    [host] = connections["route_config"]["virtual_hosts"]
    return sorted({route["match"]["prefix"] for route in host["routes"]})


def test_one_pool_has_every_path_and_a_line_to_paste(capsys: pytest.CaptureFixture[str]) -> None:
    gateway = shown(listen="0.0.0.0:8080")
    assert prefixes(gateway.bootstrap([A])) == ["/", "/default/a/"]
    gateway.announce([A])
    said = capsys.readouterr().err
    assert "  http://127.0.0.1:8080/  pool default/a: 2 endpoints, picker: 1 serving\n" in said
    assert "curl -si http://127.0.0.1:8080/v1/completions " in said
    assert "http://127.0.0.1:9902" in said
    assert "Note" not in said


def test_several_pools_have_a_prefix_each(capsys: pytest.CaptureFixture[str]) -> None:
    gateway = shown()
    assert prefixes(gateway.bootstrap([A, B])) == ["/default/a/", "/default/b/"]
    gateway.announce([A])
    said = capsys.readouterr().err
    assert "/default/a/  pool default/a: 2 endpoints" in said
    assert "/default/b/  pool default/b: has been removed" in said
    assert "curl -si http://127.0.0.1:8080/default/a/v1/completions " in said
    assert "Note: no pool is at /: use /default/a/, /default/b/" in said


def test_given_routes_count_and_an_unknown_pool_is_named() -> None:
    gateway = shown(routes=["/x/=default/b"])
    assert prefixes(gateway.bootstrap([A, B])) == ["/x/"]
    with pytest.raises(SettingsError, match="unknown pools: default/b"):
        gateway.bootstrap([A])


def test_a_listener_with_tls_has_an_https_url() -> None:
    gateway = shown("json", tls_cert="c.pem", tls_key="k.pem")
    gateway.bootstrap([A])
    with capture_logs() as lines:
        gateway.announce([A])
    [line] = lines
    assert line["url"] == "https://127.0.0.1:8080"
    assert line["routes"] == {"/": "default/a", "/default/a/": "default/a"}
    assert line["pools"] == {"default/a": "2 endpoints, picker: 1 serving"}


def test_only_logs_for_machines_have_an_access_log() -> None:
    assert "access_log" not in shown().bootstrap([A])
    assert "access_log" in shown("json").bootstrap([A])
