"""Connections to one pool's endpoint picker: shared by all requests, balanced over its addresses.

Never touches a message. Health and outlier handling build on `_connect`.
"""

import asyncio

import structlog

from epp_client.errors import PickerUnreachable
from epp_client.pool.settings import PickerTlsMode, PoolSettings
from epp_client.pool.snapshot import PickerTarget
from epp_client.wire.transport import Connection, Transport

log = structlog.get_logger(__name__)

RETIRE_GRACE = 600.0
"""Seconds that streams may take to end on a connection that is not wanted any more."""

PROCESS = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"


class PickerClient:
    """The picker of one pool. Connections are made on first use and kept."""

    def __init__(self, pool: str, transport: Transport) -> None:
        self._pool = pool
        self._transport = transport
        self._target = PickerTarget()
        self._settings = PoolSettings()
        self._connections: dict[str, Connection] = {}
        self._connecting: dict[str, asyncio.Task[Connection]] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._turn = 0
        self.trailers_expected = True
        """Learned from its answers: whether it answers trailers at all."""

    def retarget(self, target: PickerTarget, settings: PoolSettings) -> None:
        """Follow a change of the picker's addresses or of the TLS settings.

        Streams on connections that are not wanted any more go on to their end.
        """
        if target == self._target and settings == self._settings:
            return
        if settings.tls.mode is PickerTlsMode.UNVERIFIED and target.addresses:
            log.warning(
                "the picker's certificate is not verified",
                pool=self._pool,
                hint="annotate the pool with epp-client.dev/tls: verified and tls-ca-file",
            )
        tls_changed = settings.tls != self._settings.tls
        self._target, self._settings = target, settings
        self.trailers_expected = True
        for address in list(self._connections):
            if tls_changed or address not in target.addresses:
                self._retire(self._connections.pop(address))
        for address in list(self._connecting):
            if tls_changed or address not in target.addresses:
                self._connecting.pop(address).cancel()

    def ready(self) -> Connection | None:
        """A connection that can take a stream now, addresses in turn; None when there is none."""
        addresses = self._target.addresses
        for _ in addresses:
            self._turn = (self._turn + 1) % len(addresses)
            connection = self._connections.get(addresses[self._turn])
            if connection is not None and connection.usable:
                return connection
        return None

    async def connect(self) -> Connection:
        """Connect to the first address that can be reached, each tried within `connect_timeout`.

        Callers share attempts: a thousand requests make one connection per address.

        Raises:
            PickerUnreachable: no address could be reached; the text says why for the last one.
        """
        error = PickerUnreachable(f"the picker of {self._pool} has no address")
        addresses = self._target.addresses
        start = self._turn
        for step in range(len(addresses)):
            address = addresses[(start + step + 1) % len(addresses)]
            connection = self._connections.get(address)
            if connection is not None and connection.usable:
                return connection
            try:
                return await asyncio.shield(self._attempt(address))
            except PickerUnreachable as failed:
                error = failed
            except asyncio.CancelledError:
                if (task := asyncio.current_task()) is not None and task.cancelling():
                    raise
                error = PickerUnreachable(f"picker {address} was given up: its address changed")
        raise error

    def _attempt(self, address: str) -> asyncio.Task[Connection]:
        task = self._connecting.get(address)
        if task is None:
            task = asyncio.create_task(self._connect(address))
            self._connecting[address] = task
            task.add_done_callback(lambda done: self._attempted(address, done))
        return task

    async def _connect(self, address: str) -> Connection:
        settings = self._settings
        connection = await self._transport.connect(
            address, settings.tls, self._target.server_name, settings.connect_timeout
        )
        if (old := self._connections.get(address)) is not None:
            self._retire(old)
        self._connections[address] = connection
        return connection

    def _attempted(self, address: str, task: asyncio.Task[Connection]) -> None:
        if self._connecting.get(address) is task:
            del self._connecting[address]
        if not task.cancelled():
            task.exception()  # every waiter may have gone; the failure is theirs to report

    def _retire(self, connection: Connection, grace: float = RETIRE_GRACE) -> None:
        task = asyncio.create_task(connection.close(grace))
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)

    async def close(self, grace: float = 0.0) -> None:
        """Close every connection; open streams have `grace` seconds to end."""
        for task in list(self._connecting.values()):
            task.cancel()
        await asyncio.gather(*self._connecting.values(), return_exceptions=True)
        for connection in self._connections.values():
            self._retire(connection, grace)
        self._connections.clear()
        if not grace:
            for closing in self._closing:
                closing.cancel()
        await asyncio.gather(*self._closing, return_exceptions=True)


class PickerClients:
    """The picker clients of all pools, by `namespace/name`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._clients: dict[str, PickerClient] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def __getitem__(self, pool: str) -> PickerClient:
        client = self._clients.get(pool)
        if client is None:
            client = self._clients[pool] = PickerClient(pool, self._transport)
        return client

    def follow(self, pools: dict[str, tuple[PickerTarget | None, PoolSettings]]) -> None:
        """Retarget the clients of known pools, and let go of pools that are gone."""
        for name, (target, settings) in pools.items():
            self[name].retarget(target or PickerTarget(), settings)
        for name in [name for name in self._clients if name not in pools]:
            task = asyncio.create_task(self._clients.pop(name).close(RETIRE_GRACE))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close every connection of every pool."""
        for task in self._leaving:
            task.cancel()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        await asyncio.gather(*(client.close() for client in self._clients.values()))
