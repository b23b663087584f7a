"""Two ways to serve one pool: Envoy with the picker alone, and Envoy with epp-client in between.

Both have the same picker and the same model servers. Each way is started when a case first needs it.
"""

import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from epp_client.envoy.bootstrap import envoy_config
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.settings import Modes
from epp_client.settings import TransportName, UpstreamMode, serve_settings
from epp_client.sidecar import Sidecar, running
from testbed import yaml_text
from testbed.envoy import running_envoy
from testbed.ports import free_ports
from testbed.stack import inference_pool, pod, service
from tests.transparency.alone import bootstrap_alone
from tests.transparency.matrix import EVERYTHING
from tests.transparency.model_server import ModelServer, running_model_server
from tests.transparency.picker import Process, RecordingPicker, recording, simulated

ENVOY_HOST = "127.0.0.80"
HOSTS = ("127.0.0.81", "127.0.0.82")

Address = tuple[str, int]
Start = Callable[[tuple[str, ...]], AbstractAsyncContextManager[Process]]
"""Starts a picker that picks among these endpoints."""


class Setting(NamedTuple):
    """How a pool is served."""

    protocol: AppProtocol
    mode: UpstreamMode
    transport: TransportName | None
    """None: without epp-client."""
    modes: Modes = EVERYTHING
    """What the picker gets."""


@dataclass
class Site:
    """What all cases of a run share."""

    model: ModelServer
    picker: RecordingPicker
    endpoints: tuple[str, ...]
    picker_address: str
    response_timeout: float
    """Seconds for a picker that owes an answer to a response."""
    _owner: AsyncExitStack
    _addresses: dict[Setting, Address]
    sidecars: dict[Setting, Sidecar]

    async def address(self, setting: Setting) -> Address:
        """Where Envoy serves the pool in this way."""
        if setting not in self._addresses:
            (port,) = free_ports(1)
            address = (ENVOY_HOST, port)
            started = _alone if setting.transport is None else _with_us
            await self._owner.enter_async_context(started(self, setting, address))
            self._addresses[setting] = address
        return self._addresses[setting]


@asynccontextmanager
async def running_site(
    start: Start = simulated, *, response_timeout: float = 10.0
) -> AsyncIterator[Site]:
    """The model servers and the picker that `start` starts."""
    async with AsyncExitStack() as owner:
        model = await owner.enter_async_context(running_model_server(HOSTS))
        endpoints = tuple(f"{host}:{model.port}" for host in HOSTS)
        process = await owner.enter_async_context(start(endpoints))
        picker, address = await owner.enter_async_context(recording(process))
        yield Site(model, picker, endpoints, address, response_timeout, owner, {}, {})


@asynccontextmanager
async def _alone(site: Site, setting: Setting, address: Address) -> AsyncIterator[None]:
    bootstrap = bootstrap_alone(
        address, site.picker_address, site.endpoints, setting.protocol, setting.mode, setting.modes
    )
    async with running_envoy(bootstrap):
        yield


@asynccontextmanager
async def _with_us(site: Site, setting: Setting, address: Address) -> AsyncIterator[None]:
    over_ads = setting.mode is UpstreamMode.OVERRIDE_HOST
    name = PoolName("default", "models")
    with tempfile.TemporaryDirectory(prefix="epp-client-") as made:
        folder = Path(made)
        pools = folder / "pools.yaml"
        pools.write_text(yaml_text.write_all(_objects(site, setting)))
        settings = serve_settings(
            {
                "pools": pools,
                "socket": folder / "ext-proc.sock",
                "xds_socket": folder / "xds.sock" if over_ads else None,
                "admin": "127.0.0.1:0",
                "workers": 0,
                "transport": setting.transport,
                "upstream_mode": setting.mode,
                "pool_defaults": {
                    "tls": {"mode": "plaintext"},
                    "response_timeout": site.response_timeout,
                    "request_mode": setting.modes.request,
                    "response_mode": setting.modes.response,
                },
            }
        )
        async with running(settings) as site.sidecars[setting]:
            bootstrap = envoy_config(
                [name],
                listener=address,
                admin=("127.0.0.1", 0),
                ext_proc_sockets=settings.sockets,
                ads_socket=settings.xds_socket,
                upstream_mode=setting.mode,
                app_protocols={name: setting.protocol},
                modes={name: setting.modes},
                access_log=False,
            )
            async with running_envoy(bootstrap):
                yield


def _objects(site: Site, setting: Setting) -> list[dict[str, Any]]:
    pool = inference_pool(
        "models", site.model.port, "picker", "FailClose", appProtocol=setting.protocol.value
    )
    pods = [pod(f"model-{number}", host) for number, host in enumerate(HOSTS)]
    return [pool, *pods, *service("picker", site.picker_address)]
