"""Listening: an aiohttp application on one address, within bounds for slow and large requests."""

import asyncio

from aiohttp import web

from epp_client.admin.patience import Door
from epp_client.option_values import host_port

MAX_HEADER_BYTES = 8192


class Listening:
    """Serves `application` at `host:port` from `start` to `close`."""

    def __init__(self, application: web.Application, address: str) -> None:
        self._address = address
        self._listener: asyncio.Server | None = None
        self._runner = web.AppRunner(
            application,
            access_log=None,
            keepalive_timeout=15,
            shutdown_timeout=1,
            lingering_time=1,
            max_line_size=MAX_HEADER_BYTES,
            max_field_size=MAX_HEADER_BYTES,
        )

    async def start(self) -> str:
        """Bind, and return the bound `host:port`.

        Raises:
            OSError: the address cannot be bound.
        """
        host, port = host_port(self._address)
        await self._runner.setup()
        server = self._runner.server
        assert server is not None
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(Door(server), host, port)
        shown = self._address.rpartition(":")[0]
        return f"{shown}:{self._listener.sockets[0].getsockname()[1]}"

    async def close(self) -> None:
        """Stop listening and close open connections."""
        if self._listener is not None:
            self._listener.close()
        await self._runner.cleanup()
