"""The command line, a file for each command. A command parses, calls one function of the package and
prints."""

from collections.abc import Iterator, Mapping
from functools import cache
from importlib import import_module
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup

from epp_client.cli.options import SettingsCommand
from epp_client.errors import EppClientError
from epp_client.imports import uncollected

COMMANDS: Final = (
    *("init", "up", "serve", "hold", "status", "top", "tap", "check", "routes", "pick"),
    *("envoy-config", "controller", "standalone"),
)
"""Each is a function of its name in the module of its name."""


@cache
def _command(name: str) -> Any:
    written = name.replace("-", "_")
    with uncollected():
        module = import_module(f"epp_client.cli.{written}")
    alone = typer.Typer(add_completion=False, **_LOOKS)
    context = getattr(module, "CONTEXT", None)
    alone.command(name, cls=SettingsCommand, context_settings=context)(getattr(module, written))
    return typer.main.get_command(alone)


class _Commands(Mapping[str, Any]):
    """The commands by their names. One is imported when it is asked for: to make the options of all of
    them takes longer than most commands run."""

    def __getitem__(self, name: str) -> Any:
        if name not in COMMANDS:
            raise KeyError(name)
        return _command(name)

    def __iter__(self) -> Iterator[str]:
        return iter(COMMANDS)

    def __len__(self) -> int:
        return len(COMMANDS)


class _Group(TyperGroup):
    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.commands = _Commands()  # type: ignore[assignment]

    def list_commands(self, ctx: Any) -> list[str]:
        del ctx
        return list(COMMANDS)


_LOOKS: Final[dict[str, Any]] = {
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "markdown",
}
app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    help="The InferencePool data plane for Envoy: asks the endpoint picker about each request, "
    "checks the answer, and serves on when the picker fails.",
    **_LOOKS,
)


def _version(value: bool) -> None:
    if value:
        from epp_client.version import VERSION

        typer.echo(f"epp-client {VERSION}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Run the command. An error of our own becomes one line on stderr and exit code 2."""
    try:
        app()
    except EppClientError as error:
        typer.echo(f"epp-client: {error}", err=True)
        raise SystemExit(2) from error
