"""Runs the controller from start to exit."""

import asyncio
from importlib.resources import files

import structlog

from epp_client import signals
from epp_client.controller.names import bounded
from epp_client.controller.objects import Defaults, Template, bootstrap, read_template
from epp_client.controller.operator import Identity, Operator
from epp_client.controller.pages import Pages
from epp_client.controller.ports import OwnPorts
from epp_client.controller.settings import ControllerSettings
from epp_client.errors import SettingsError
from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.status.reporting import own_identity, own_namespace
from epp_client.settings import DEFAULT_CONTROLLER
from epp_client.signal_waits import taken

log = structlog.get_logger(__name__)

NAMESPACE = "epp-client-system"
"""The namespace of config/kubernetes/controller."""


async def control(settings: ControllerSettings) -> None:
    """Run until SIGTERM or SIGINT, then release the Lease.

    Raises:
        SettingsError: the API server's configuration is not usable, or the admin address cannot be bound.
    """
    signals.block()
    signals.ignore((*signals.RENEWING, *signals.LOGGING))
    # Now, not while the Lease has to be renewed.
    bootstrap(OwnPorts())
    api = KubernetesApi(Access(settings.kubeconfig, settings.context))
    await api.open()
    try:
        operator = Operator(
            api,
            identity_of(settings),
            template(),
            defaults_of(settings),
            asyncio.get_running_loop().time,
        )
        pages = Pages(settings.admin, operator, settings.admin_hosts)
        try:
            bound = await pages.start()
        except OSError as error:
            raise SettingsError(f"--admin {settings.admin}: {error}") from error
        log.info("started", admin=bound, controller=settings.controller_name)
        running = asyncio.create_task(operator.run())
        ending = asyncio.create_task(taken(signals.ENDING))
        try:
            await asyncio.wait({running, ending}, return_when=asyncio.FIRST_COMPLETED)
            if running.done():
                running.result()
        finally:
            ending.cancel()
            running.cancel()
            await asyncio.wait({running, ending})
            await pages.close()
    finally:
        await api.close()
    log.info("stopped")


def identity_of(settings: ControllerSettings) -> Identity:
    """Who this process is."""
    controller = settings.controller_name
    lease = "epp-client-controller"
    if controller != DEFAULT_CONTROLLER:
        # Two controllers of different names do not share a Lease.
        lease = bounded(f"{lease}-{'-'.join(controller.lower().replace('/', '.').split('.'))}")
    namespace = settings.lease_namespace or own_namespace() or NAMESPACE
    return Identity(controller, namespace, lease, own_identity())


def defaults_of(settings: ControllerSettings) -> Defaults:
    """What data planes have by default."""
    (envoy,) = template().objects["Deployment"]["spec"]["template"]["spec"]["containers"]
    envoy_image = settings.envoy_image or str(envoy["image"])
    return Defaults(settings.image, envoy_image, settings.replicas)


def template() -> Template:
    """The template of this version."""
    return read_template((files("epp_client.controller") / "template.yaml").read_text())
