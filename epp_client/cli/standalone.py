"""`epp-client standalone`: becomes `epp-client up`, with what it is given as the proxy of llm-d's chart."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from epp_client.errors import SettingsError

CONTEXT = {"ignore_unknown_options": True, "allow_extra_args": True}
"""Of the command: Envoy's options are no options of ours."""


def standalone(
    context: typer.Context,
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[ENVOY'S ARGUMENTS]",
            help="Arguments of an Envoy. `-c FILE` and `--concurrency` are used, the others are ignored.",
        ),
    ] = None,
) -> None:
    """Run `epp-client up` as the proxy of llm-d's chart `llm-d-router-standalone`, on its ports. Takes the
    arguments of the Envoy that it replaces. FILE has options of `up` without the dashes, as YAML;
    environment variables override them. If FILE is the chart's bootstrap for Envoy, the pool is the
    InferencePool of the release."""
    import structlog

    from epp_client.logs import configure
    from epp_client.up.standing_in import DEFAULTS, as_options, read_arguments

    configure(
        os.environ.get("EPP_CLIENT_LOG_FORMAT", "auto"),
        os.environ.get("EPP_CLIENT_LOG_LEVEL", "info"),
    )
    given = read_arguments(arguments or ())
    variables = _variables(context)
    settings: dict[str, Any] = dict(DEFAULTS)
    if given.config is not None:
        settings |= _read(given.config, variables)
    if given.concurrency is not None:
        settings.setdefault("concurrency", given.concurrency)
    # Typer prefers options to variables; here a variable is the nearer one.
    options = as_options(
        {name: value for name, value in settings.items() if variables.get(name) not in os.environ}
    )
    structlog.get_logger(__name__).info(
        "in the place of Envoy", options=options, ignored=list(given.ignored)
    )
    sys.stderr.flush()
    os.execv(sys.executable, [sys.executable, "-m", "epp_client", "up", *options])


def _variables(context: typer.Context) -> Mapping[str, str]:
    """The environment variable of each option of `up`."""
    assert context.parent is not None
    # A group, which typer exports no class of.
    group: Any = context.parent.command
    return {
        option.opts[0].removeprefix("--"): option.envvar
        for option in group.commands["up"].params
        if option.envvar
    }


def _read(path: Path, known: Mapping[str, str]) -> dict[str, Any]:
    import yaml

    from epp_client.up.standing_in import is_bootstrap, settings_of, settings_of_the_chart

    try:
        document = yaml.safe_load(path.read_bytes())
    except (OSError, yaml.YAMLError) as error:
        raise SettingsError(f"{path}: {error}") from error
    if is_bootstrap(document):
        return settings_of_the_chart(document, os.environ)
    settings = settings_of(document, str(path))
    if unknown := sorted(settings.keys() - known.keys()):
        raise SettingsError(
            f"{path}: {unknown[0]}: no such setting; the settings are the options of `epp-client up`,"
            " without the dashes"
        )
    return settings
