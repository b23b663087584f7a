"""What `up` tells of the gateway, and the bootstrap that it makes of the sidecar's pools."""

from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from epp_client.cli.up import Shown, UpSettings
from epp_client.errors import SettingsError
from epp_client.settings import serve_settings
from epp_client.up.admin import Gateway, Listener, Pool, Served

A, B = (Pool("default", name, "relay", "relay", "http", 2, "picker: 1 serving") for name in "ab")


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
    assert prefixes(gateway.bootstrap(Served((A,)))) == ["/", "/default/a/"]
    gateway.announce(Served((A,)))
    said = capsys.readouterr().err
    assert "  http://127.0.0.1:8080/  pool default/a: 2 endpoints, picker: 1 serving\n" in said
    assert "curl -si http://127.0.0.1:8080/v1/completions " in said
    assert "http://127.0.0.1:9902" in said
    assert "Note" not in said


def test_several_pools_have_a_prefix_each(capsys: pytest.CaptureFixture[str]) -> None:
    gateway = shown()
    assert prefixes(gateway.bootstrap(Served((A, B)))) == ["/default/a/", "/default/b/"]
    gateway.announce(Served((A,)))
    said = capsys.readouterr().err
    assert "/default/a/  pool default/a: 2 endpoints" in said
    assert "/default/b/  pool default/b: has been removed" in said
    assert "curl -si http://127.0.0.1:8080/default/a/v1/completions " in said
    assert "Note: no pool is at /: use /default/a/, /default/b/" in said


def test_given_routes_count_and_an_unknown_pool_is_named() -> None:
    gateway = shown(routes=["/x/=default/b"])
    assert prefixes(gateway.bootstrap(Served((A, B)))) == ["/x/"]
    with pytest.raises(SettingsError, match="unknown pools: default/b"):
        gateway.bootstrap(Served((A,)))


def test_a_listener_with_tls_has_an_https_url() -> None:
    gateway = shown("json", tls_cert="c.pem", tls_key="k.pem")
    gateway.bootstrap(Served((A,)))
    with capture_logs() as lines:
        gateway.announce(Served((A,)))
    [line] = lines
    assert line["url"] == "https://127.0.0.1:8080"
    assert line["routes"] == {"/": "default/a", "/default/a/": "default/a"}
    assert line["pools"] == {"default/a": "2 endpoints, picker: 1 serving"}


def test_only_logs_for_machines_have_an_access_log() -> None:
    assert "access_log" not in shown().bootstrap(Served((A,)))
    assert "access_log" in shown("json").bootstrap(Served((A,)))


GATEWAY = Gateway("default/front", (Listener(8080, tls=False), Listener(8443, tls=True)), 6)


def test_a_gateway_has_its_listeners_and_routes_from_the_sidecar(
    capsys: pytest.CaptureFixture[str],
) -> None:
    gateway = shown()
    bootstrap = yaml.safe_load(gateway.bootstrap(Served((A,), GATEWAY)))
    assert "lds_config" in bootstrap["dynamic_resources"]
    assert "listeners" not in bootstrap["static_resources"]
    gateway.announce(Served((A,), GATEWAY))
    said = capsys.readouterr().err
    assert "Gateway default/front serves at http://127.0.0.1:8080, https://127.0.0.1:8443\n" in said
    assert "  pool default/a: 2 endpoints, picker: 1 serving\n" in said
    assert "http://127.0.0.1:9902/gateway (6)" in said


def test_a_gateway_in_the_log() -> None:
    with capture_logs() as lines:
        shown("json").announce(Served((A,), GATEWAY))
    [line] = lines
    assert line["event"] == "the gateway serves"
    assert (line["gateway"], line["routes"]) == ("default/front", 6)


@pytest.mark.parametrize("more", [{"routes": ["/=default/a"]}, {"tls_cert": "c", "tls_key": "k"}])
def test_options_that_a_gateway_has_itself_are_refused(more: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match="Gateway default/front has routes and listeners"):
        shown(**more).bootstrap(Served((A,), GATEWAY))
