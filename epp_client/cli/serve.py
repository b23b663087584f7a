"""`epp-client serve`: runs the sidecar."""

import os
from typing import Annotated, Any

import typer
import uvloop

from epp_client.cli.options import settings_as_options
from epp_client.imports import uncollected
from epp_client.settings import ServeSettings, serve_settings


@settings_as_options(given=ServeSettings)
def serve(
    given: dict[str, Any],
    xds: Annotated[
        bool, typer.Option("--xds/--no-xds", help="Send clusters and endpoints to Envoy over ADS.")
    ] = True,
) -> None:
    """Run the sidecar until SIGTERM, then drain."""
    # Set before grpcio is imported: it logs complaints about our child processes otherwise.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    from epp_client.logs import configure
    from epp_client.workers.claims import Claims

    if not xds:
        given["xds_socket"] = None
    settings = serve_settings(given)
    configure(settings.log_format, settings.log_level)
    claims = Claims(settings.sockets)
    if settings.workers:
        # Claim the sockets before the imports, which take most of the start.
        claims.claim()
    with uncollected():
        from epp_client.app import serve as serve_app
    uvloop.run(serve_app(settings, claims))
