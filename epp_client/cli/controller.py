"""`epp-client controller`: runs the data planes of the Gateways of a cluster."""

from typing import Any

import uvloop

from epp_client.cli.options import settings_as_options
from epp_client.controller.settings import ControllerSettings
from epp_client.imports import uncollected
from epp_client.settings import valid


@settings_as_options(given=ControllerSettings)
def controller(given: dict[str, Any]) -> None:
    """Run the data plane of each Gateway of our GatewayClasses, and write the statuses, until SIGTERM."""
    with uncollected():
        from epp_client.controller.app import control
        from epp_client.logs import configure
    settings = valid(ControllerSettings, given)
    configure(settings.log_format, settings.log_level)
    uvloop.run(control(settings))
