"""An installation whose Envoy serves the routes of a Gateway. `route_faults` decides about changes."""

from pathlib import Path
from typing import Any

from chaos import subjects
from chaos.installation import Installation
from chaos.routing import Routing
from chaos.source import ApiServer
from chaos.subjects import Object, Port
from epp_client.envoy.bootstrap import gateway_config
from testbed.ports import free_ports
from testbed.stack import ENVOY_HOST


class RoutedInstallation(Installation):
    """`serve --kubernetes --gateway`, with an Envoy that gets everything from it."""

    def __init__(self, folder: Path, *arguments: Any, **settings: Any) -> None:
        super().__init__(folder, *arguments, **settings)
        tls, extra = free_ports(2)
        ports = {Port.PLAIN: self.listener[1], Port.TLS: tls, Port.EXTRA: extra}
        self.routing = Routing(folder, ports, self._write)
        self.routing.at(ENVOY_HOST)

    def serve_command(self) -> list[str]:
        """The command that starts the sidecar."""
        return [
            *super().serve_command(), "--gateway", f"default/{subjects.GATEWAY}",
            "--gateway-listen", ENVOY_HOST, "--gateway-address", ENVOY_HOST,
            "--no-gateway-access-log", "--lease-namespace", "default",
        ]  # fmt: skip

    def bootstrap(self, listener: tuple[str, int], admin: tuple[str, int]) -> str:
        """The bootstrap of an Envoy without listeners and routes of its own."""
        del listener
        return gateway_config(
            admin=admin, ext_proc_sockets=self.sockets, ads_socket=self.ads_socket
        )

    async def start_peers(self) -> None:
        """Start model servers and pickers, and write the objects of the pools and of the Gateway."""
        await super().start_peers()
        await self.routing.open()
        self.routing.models = list(self.models)
        name = self.routing.gateway_class
        gateway = subjects.gateway(self.routing.ports, of_class=name)
        await self.routing.write_first([subjects.gateway_class(name), gateway])

    async def start(self) -> None:
        """Start everything, and wait until every route is served."""
        await super().start()
        await self.routing.settle(*self.routing.subjects)

    async def stop(self) -> None:
        """Stop everything."""
        await self.routing.close()
        await super().stop()

    async def _write(self, items: list[Object]) -> None:
        assert isinstance(self.source, ApiServer)
        await self.source.write_routing(items)
