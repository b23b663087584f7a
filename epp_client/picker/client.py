"""The pickers of the pools: chooses an address for each request, and follows changes of the pools.

`health` decides whether an address is usable, and `address` holds it. ext_proc messages never come here.
"""

import asyncio
import random
from collections.abc import Callable
from typing import Final

import structlog

from epp_client.errors import PeerUnreachable, Reason
from epp_client.logs import Repeats
from epp_client.picker.address import RETIRE_GRACE, PickerAddress
from epp_client.picker.health import AddressNote, Health, pace
from epp_client.pool.inference_pool import FailureMode, InferencePool
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget
from epp_client.tls_settings import TlsMode
from epp_client.wire.transport import Connection, Transport

log = structlog.get_logger(__name__)

PROCESS: Final = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
NEWCOMER: Final = 5.0
"""Seconds that a new address has to start listening under FailClose, or `pick_timeout` if that is shorter.
GAIE's lwepp reports on its health port that it is ready before it has generated its 4096-bit RSA key."""
OVERLAP: Final = 10.0
"""Seconds for which a removed address is still asked while none of the new ones is ready."""


class PickerClient:
    """The picker of one pool. All requests share its connections, balanced over its addresses."""

    def __init__(
        self,
        pool: str,
        transport: Transport,
        repeats: Repeats | None = None,
        dice: Callable[[], float] = random.random,
    ) -> None:
        self.pool = pool
        self.transport = transport
        self.repeats = repeats or Repeats()
        self.asked = 0
        self.out = False
        self.quiet = False
        self._dice = dice
        self._target = PickerTarget()
        self._settings = PoolSettings()
        self._addresses: dict[str, PickerAddress] = {}
        self._outgoing: list[PickerAddress] = []
        self._overlap: asyncio.TimerHandle | None = None
        self._usable: tuple[PickerAddress, ...] = ()
        self._trials: tuple[PickerAddress, ...] = ()
        self._retired: set[asyncio.Task[None]] = set()
        self._leaving: set[asyncio.Task[None]] = set()
        self._turn = 0
        self.trailers_expected = True
        """Whether it answers trailers at all, learned from its answers."""

    def retarget(
        self,
        target: PickerTarget,
        settings: PoolSettings,
        mode: FailureMode = FailureMode.FAIL_CLOSE,
    ) -> None:
        """Follow a change of the picker's addresses or of the pool's settings.

        Streams on retired connections go on to their end. In a rollout the old addresses are asked until a
        new one is ready, unless the TLS settings have changed.
        """
        if target == self._target and settings == self._settings:
            return
        if settings.tls.mode is TlsMode.UNVERIFIED and target.addresses:
            log.warning(
                "the picker's certificate is not verified",
                pool=self.pool,
                hint="annotate the pool with epp-client.dev/tls: verified and tls-ca-file",
            )
        secured = (settings.tls, target.server_name)
        tls_changed = secured != (self._settings.tls, self._target.server_name)
        self._target, self._settings = target, settings
        self.trailers_expected = True
        for name in list(self._addresses):
            if tls_changed or name not in target.addresses:
                self._outgoing.append(self._addresses.pop(name))
        if tls_changed or not target.addresses:
            self._drop_outgoing()
        elif self._outgoing and self._overlap is None:
            self._overlap = asyncio.get_running_loop().call_later(OVERLAP, self._drop_outgoing)
        check_pace = pace(settings.pick_timeout)
        newcomer = settings.connect_timeout
        if mode is FailureMode.FAIL_CLOSE:
            newcomer = max(newcomer, min(settings.pick_timeout, NEWCOMER))
        for name in target.addresses:
            address = self._addresses.get(name)
            if address is None:
                self._addresses[name] = PickerAddress(
                    self, name, *secured, settings.connect_timeout, check_pace, newcomer
                )
            else:
                address.connect_timeout, address.pace = settings.connect_timeout, check_pace
        self.address_changed()

    # --- choosing ---

    def ready(self, exclude: PickerAddress | None = None) -> PickerAddress | None:
        """The next address that can take a request now, in rotation; None when there is none.
        `exclude` has just failed this request, and is returned only if there is no other. An address on
        trial comes first: only a request can show that it works again.
        """
        self.asked += 1
        if self.quiet:
            self._wake()
        if self._trials and exclude is None and (address := self._on_trial()) is not None:
            return address
        usable = self._usable
        for _ in usable:
            self._turn = (self._turn + 1) % len(usable)
            address = usable[self._turn]
            connection = address.connection
            if connection is not None and connection.usable and address is not exclude:
                return address
        for address in self._outgoing:
            if address is not exclude and address.ready:
                return address
        return exclude if exclude is not None and exclude.ready else None

    def has_other(self, exclude: PickerAddress) -> bool:
        """Whether an address other than `exclude` can take a request now."""
        return any(address is not exclude and address.ready for address in self._usable)

    def _on_trial(self) -> PickerAddress | None:
        for address in self._trials:
            connection = address.connection
            if connection is not None and connection.usable and address.health.begin_trial():
                return address
        return None

    def _wake(self) -> None:
        self.quiet = False
        for address in self._addresses.values():
            address.wake()

    @property
    def hopeful(self) -> bool:
        """Whether `connect` has an address to try."""
        return bool(self._usable)

    async def connect(self) -> PickerAddress:
        """Connect to all addresses at once, each within `connect_timeout`; returns the first that is ready.

        Raises:
            PeerUnreachable: none became ready; the text has the cause of the last one.
        """
        why = f"the picker of {self.pool} has no usable address"
        tried: set[PickerAddress] = set()
        attempts: dict[asyncio.Task[None], PickerAddress] = {}
        try:
            while True:
                # The addresses may have changed since the last round.
                for address in self._usable:
                    if address.ready:
                        return address
                    if address not in tried:
                        tried.add(address)
                        attempts[asyncio.create_task(address.connect())] = address
                if not attempts:
                    raise PeerUnreachable(why)
                done, _ = await asyncio.wait(attempts, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    address = attempts.pop(task)
                    # Not `result()`: the error's traceback would refer to this frame, and the frame to the
                    # task with the error, a cycle that keeps the waiting request in memory.
                    if task.cancelled():
                        why = f"{address.address} was removed or its settings changed"
                    elif (failed := task.exception()) is not None:
                        if not isinstance(failed, PeerUnreachable):
                            raise failed
                        why = str(failed)
                    if address.ready:
                        return address
        finally:
            for task in attempts:
                task.cancel()

    @property
    def reason(self) -> Reason:
        """Why no address is usable.
        Standbys are not asked: they would refuse with a 503, which counts as an answer, so FailOpen would
        never apply.
        """
        states = {address.health.state for address in self._addresses.values()}
        return Reason.PICKER_UNHEALTHY if states - _UNREACHED else Reason.PICKER_UNREACHABLE

    @property
    def states(self) -> dict[str, Health]:
        """The state of every address."""
        return {name: address.health.state for name, address in self._addresses.items()}

    @property
    def notes(self) -> dict[str, AddressNote]:
        """The note of every address."""
        return {name: address.note for name, address in self._addresses.items()}

    # --- for addresses ---

    def dice(self) -> float:
        """A random number from 0 to 1."""
        return self._dice()

    def address_changed(self) -> None:
        """The health of an address has changed."""
        addresses = self._addresses.values()
        if self._outgoing and any(address.ready for address in addresses):
            self._drop_outgoing()
        self._usable = tuple(a for a in addresses if a.health.usable)
        self._trials = tuple(a for a in addresses if a.health.state is Health.TRIAL)
        self.out = not self._usable

    def retire(self, connection: Connection, grace: float = RETIRE_GRACE) -> None:
        """Close a connection once its streams have ended, or after `grace` seconds."""
        task = asyncio.create_task(connection.close(grace))
        self._retired.add(task)
        task.add_done_callback(self._retired.discard)

    def _drop_outgoing(self) -> None:
        """Close the removed addresses."""
        if self._overlap is not None:
            self._overlap.cancel()
            self._overlap = None
        outgoing, self._outgoing = self._outgoing, []
        for address in outgoing:
            self._leave(address)

    def _leave(self, address: PickerAddress) -> None:
        address.close()
        task = asyncio.create_task(address.closed())
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)

    # --- the end ---

    async def close(self, grace: float = 0.0) -> None:
        """Close every connection; open streams have `grace` seconds to end."""
        self._drop_outgoing()
        for address in self._addresses.values():
            self._leave(address)
        self._addresses.clear()
        self.address_changed()
        await asyncio.gather(*self._leaving, return_exceptions=True)
        if not grace:
            for closing in self._retired:
                closing.cancel()
        await asyncio.gather(*self._retired, return_exceptions=True)


_UNREACHED = {Health.UNREACHABLE, Health.UNTRIED}


class PickerClients:
    """The picker clients of all pools, by `namespace/name`."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self._repeats = Repeats()
        self._clients: dict[str, PickerClient] = {}
        self._leaving: set[asyncio.Task[None]] = set()

    def __getitem__(self, pool: str) -> PickerClient:
        client = self._clients.get(pool)
        if client is None:
            client = self._clients[pool] = PickerClient(pool, self._transport, self._repeats)
        return client

    def learn_trailers(self, pool: str, answered: bool) -> None:
        """Note whether a picker answers trailers. Its pool may have been deleted."""
        if (client := self._clients.get(pool)) is not None:
            client.trailers_expected = answered

    def states(self) -> dict[str, dict[str, Health]]:
        """The state of every address of every pool."""
        return {name: client.states for name, client in self._clients.items()}

    def notes(self) -> dict[str, dict[str, AddressNote]]:
        """What a person may want to know about every address of every pool."""
        return {name: client.notes for name, client in self._clients.items()}

    def follow(self, pools: dict[str, tuple[PickerTarget | None, InferencePool]]) -> None:
        """Retarget the clients of `pools`, and close those of deleted pools."""
        for name, (target, pool) in pools.items():
            self[name].retarget(target or PickerTarget(), pool.settings, pool.failure_mode)
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
