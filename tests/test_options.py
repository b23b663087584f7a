"""The options of `serve` are the fields of its settings: none is missing, each goes where it belongs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import typer
from pydantic import BaseModel
from typer.testing import CliRunner

from epp_client.cli.envoy_config import EnvoySettings
from epp_client.cli.options import as_arguments, settings_as_options
from epp_client.errors import SettingsError
from epp_client.field_docs import field_docs
from epp_client.gateway_settings import GatewaySettings
from epp_client.settings import ServeSettings, serve_settings
from epp_client.tls_settings import TlsMode


def given(*line: str, env: dict[str, str] | None = None) -> dict[str, Any]:
    """What a command with these options is called with.

    Raises:
        SettingsError: options that do not go together.
    """
    called: list[dict[str, Any]] = []

    @settings_as_options(given=ServeSettings)
    def command(given: dict[str, Any]) -> None:
        called.append(given)

    app = typer.Typer(add_completion=False)
    app.command()(command)
    done = CliRunner().invoke(app, list(line), env=env)
    if isinstance(done.exception, SettingsError):
        raise done.exception
    assert done.exit_code == 0, done.output
    [values] = called
    return values


def leaves(model: type[BaseModel]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        kinds = get_args(field.annotation) or (field.annotation,)
        inner = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), None)
        if inner is None:
            assert field_docs(model).get(name), f"{model.__name__}.{name} has no help"
            assert not field.description, "its docstring was read at the import"
            yield name
        else:
            yield from leaves(inner)


def test_what_is_not_given_is_left_to_the_settings() -> None:
    assert given() == {}
    settings = serve_settings({"pools": "."})
    assert settings == ServeSettings(pools=Path())


def test_the_ports_of_a_gateway_have_the_defaults_of_a_printed_listener() -> None:
    printed = EnvoySettings.model_fields
    shared = {
        name: field
        for name, field in GatewaySettings.model_fields.items()
        if name.removeprefix("gateway_") in printed and name != "gateway_listen"
    }
    assert len(shared) == 5
    for name, field in shared.items():
        assert field.default == printed[name.removeprefix("gateway_")].default, name


def test_every_field_has_an_option_with_its_help() -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    @settings_as_options(given=ServeSettings)
    def command(given: dict[str, Any]) -> None:
        del given

    parameters = typer.main.get_command(app).params
    names = {option for parameter in parameters for option in parameter.opts}
    assert len(names - {"--help", "--kubernetes"}) == len(list(leaves(ServeSettings)))
    assert {"--pools", "--namespace", "--pool", "--picker-tls", "--pick-timeout"} <= names


def test_each_goes_where_it_belongs() -> None:
    line = "--kubernetes --namespace a --namespace b --no-status --admin-host x --workers 2"
    line += " --pick-timeout 7 --picker-tls verified --picker-ca ca.pem --strip-headers x-a,x-b"
    values = given(*line.split())
    assert values == {
        "kubernetes": {"namespaces": ["a", "b"], "status": False},
        "admin_hosts": ["x"],
        "workers": 2,
        "pool_defaults": {
            "pick_timeout": 7.0,
            "tls": {"mode": TlsMode.VERIFIED, "ca_file": Path("ca.pem")},
            "strip_headers": "x-a,x-b",
        },
    }
    settings = serve_settings(values)
    assert settings.kubernetes is not None
    assert settings.kubernetes.namespaces == ("a", "b")
    assert settings.pool_defaults.strip_headers == ("x-a", "x-b")


def test_the_environment_stands_for_options() -> None:
    env = {
        "EPP_CLIENT_ADMIN_HOSTS": "a b",
        "EPP_CLIENT_PICK_TIMEOUT": "9",
        "EPP_CLIENT_WORKERS": "3",
    }
    assert given(env=env) == {
        "admin_hosts": ["a", "b"],
        "pool_defaults": {"pick_timeout": 9.0},
        "workers": 3,
    }


@pytest.mark.parametrize("option", ["--namespace a", "--last-known f", "--gateway a/b"])
def test_options_of_what_was_not_asked_for_are_errors(option: str) -> None:
    with pytest.raises(SettingsError, match=f"{option.split()[0]}: needs --kubernetes"):
        given(*option.split())


def test_given_values_become_a_command_line_that_gives_the_same_values() -> None:
    line = "--kubernetes --namespace a --namespace b --no-status --workers 2 --drain-timeout 1.5"
    line += " --picker-tls verified --picker-ca ca.pem --strip-headers x-a,x-b"
    values = given(*line.split())
    assert given(*as_arguments(ServeSettings, values)) == values
    assert serve_settings(given(*as_arguments(ServeSettings, values))) == serve_settings(values)
    assert as_arguments(ServeSettings, {"socket": Path("/run/a.sock")}) == ["--socket=/run/a.sock"]


def test_fields_that_a_command_sets_itself_are_no_options() -> None:
    app = typer.Typer(add_completion=False)

    @app.command()
    @settings_as_options("socket", given=ServeSettings)
    def command(given: dict[str, Any]) -> None:
        del given

    names = {name for parameter in typer.main.get_command(app).params for name in parameter.opts}
    assert "--socket" not in names
    assert "--xds-socket" in names
