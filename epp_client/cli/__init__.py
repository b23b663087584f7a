"""The command line, a file for each command. A command parses, calls one function of the package and
prints."""

from typing import Annotated

import typer

from epp_client.cli.check import check
from epp_client.cli.controller import controller
from epp_client.cli.envoy_config import envoy_config
from epp_client.cli.hold import hold
from epp_client.cli.init import init
from epp_client.cli.pick import pick
from epp_client.cli.routes import routes
from epp_client.cli.serve import serve
from epp_client.cli.standalone import CONTEXT, standalone
from epp_client.cli.status import status
from epp_client.cli.tap import tap
from epp_client.cli.top import top
from epp_client.cli.up import up
from epp_client.errors import EppClientError
from epp_client.version import VERSION

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="The InferencePool data plane for Envoy: asks the endpoint picker about each request, "
    "checks the answer, and serves on when the picker fails.",
)
for name, command in {
    "init": init,
    "up": up,
    "serve": serve,
    "hold": hold,
    "status": status,
    "top": top,
    "tap": tap,
    "check": check,
    "routes": routes,
    "pick": pick,
    "envoy-config": envoy_config,
    "controller": controller,
}.items():
    app.command(name)(command)
app.command("standalone", context_settings=CONTEXT)(standalone)


def _version(value: bool) -> None:
    if value:
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
