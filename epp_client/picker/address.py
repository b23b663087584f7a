"""PickerAddress: one address of a picker, its connection, its health checks, who waits for its pick.

The shell around `health`: it watches the address for as long as the picker has it, and tells its owner
of every change. Never touches a message.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

import structlog

from epp_client.errors import PeerUnreachable
from epp_client.logs import Repeats
from epp_client.picker.health import JITTER, OPEN, OUT_INTERVAL, AddressHealth, Health, Pace
from epp_client.picker.probe import Probe
from epp_client.tls_settings import ClientTls
from epp_client.wire.transport import Connection, Transport

log = structlog.get_logger(__name__)

RETIRE_GRACE = 600.0
"""Seconds that streams may take to end on a connection that is not wanted any more."""
QUIET_CHECKS = 30
"""Checks without a request, new or waiting, after which they become rarer by `QUIET_FACTOR`."""
QUIET_FACTOR = 5
REFUSED_AGAIN = 0.05
"""Seconds between two attempts at a new address that refuses."""
_RELEASED_AT_ONCE = 64
"""Waiting requests that are told in one turn of the event loop that the address is out."""


class Waiting(Protocol):
    """A request with an open stream to the address."""

    def address_given_up(self) -> None:
        """The address is out: there will be no pick from it."""

    def address_silent(self) -> None:
        """The address answers nothing for now, health checks included: what it owes does not come."""


class Owner(Protocol):
    """The picker client that an address belongs to."""

    pool: str
    transport: Transport
    repeats: Repeats
    asked: int
    """Requests that wanted a picker so far."""
    out: bool
    """No address is worth asking."""
    quiet: bool
    """Nobody has asked for so long that checks are rarer; to be woken when somebody does."""

    def dice(self) -> float:
        """A random number from 0 to 1."""

    def address_changed(self) -> None:
        """An address is in another state."""

    def retire(self, connection: Connection) -> None:
        """Close a connection once its streams have ended."""


class PickerAddress:
    """One address. Made with its watch running; `close` ends it."""

    def __init__(
        self,
        owner: Owner,
        address: str,
        tls: ClientTls,
        server_name: str,
        connect_timeout: float,
        pace: Pace,
        newcomer: float,
    ) -> None:
        """It may refuse connections for `newcomer` seconds: it has just come."""
        self.address = address
        self.health = AddressHealth()
        self.connection: Connection | None = None
        self.connect_timeout = connect_timeout
        self.pace = pace
        self.heard = False
        """Something came from it since the last check was sent."""
        self.picks = 0
        """Requests that it has answered."""
        self.waiting: set[Waiting] = set()
        """Who waits for a pick."""
        self.following: set[Waiting] = set()
        """Who has got one, and still has answers to expect."""
        self._owner = owner
        self._tls = tls
        self._server_name = server_name
        self._edition = 0
        self._probe = Probe()
        self._attempt: asyncio.Task[None] | None = None
        self._wake = asyncio.Event()
        self._quiet = 0
        self._asked = 0
        self._loop = asyncio.get_running_loop()
        self._new_until = self._loop.time() + newcomer
        self._watching = self._loop.create_task(self._watch())

    @property
    def ready(self) -> bool:
        """Whether a request may be sent there now."""
        connection = self.connection
        return connection is not None and connection.usable and self.health.usable

    # --- what became of the requests ---

    def picked(self, request: Waiting) -> None:
        """A request has been answered from here."""
        self.waiting.discard(request)
        self.picks += 1
        if self.health.suspect:
            self._told(self.health.picked)

    def pick_failed(self, request: Waiting, picks_before: int) -> None:
        """A request got no pick; it was sent when there had been so many."""
        self.waiting.discard(request)
        if self.picks == picks_before:
            self._told(lambda: self.health.pick_failed(self._loop.time()))
        else:
            self.health.trial_undecided()

    def undecided(self, request: Waiting) -> None:
        """A request waits no longer, and that says nothing about the address."""
        self.waiting.discard(request)
        self.health.trial_undecided()

    def _told(self, event: Callable[[], None], detail: str = "") -> None:
        before = self.health.state
        event()
        state = self.health.state
        if state is before:
            return
        owner = self._owner
        key = (owner.pool, self.address, state)
        expected = before is Health.UNTRIED and self.health.usable
        if not expected and (count := owner.repeats.due(key)) is not None:
            show = log.info if self.health.usable else log.warning
            fields = {"detail": detail} if detail else {}
            show(
                "a picker's address is in another state",
                pool=owner.pool,
                address=self.address,
                state=str(state),
                was=str(before),
                times=count,
                **fields,
            )
        owner.address_changed()
        self._release()

    def _release(self) -> None:
        """Let go of those who wait for an address that is out; some per turn, each may be much work."""
        if self.health.state not in OPEN:
            return
        for _ in range(min(len(self.waiting), _RELEASED_AT_ONCE)):
            self.waiting.pop().address_given_up()
        if self.waiting:
            self._loop.call_soon(self._release)

    def _tell_silent(self, told: list[Waiting]) -> None:
        """Tell those who had their pick, some per turn, that the address is silent."""
        for _ in range(min(len(told), _RELEASED_AT_ONCE)):
            request = told.pop()
            if request in self.following:
                request.address_silent()
        if told and self.health.state is Health.SILENT:
            self._loop.call_soon(self._tell_silent, told)

    # --- connecting ---

    async def connect(self) -> None:
        """Have a connection that has been checked. Callers share attempts: a thousand requests make one.

        Raises:
            PeerUnreachable: the text says why.
        """
        if self._attempt is None:
            self._attempt = self._loop.create_task(self._reach())
            self._attempt.add_done_callback(self._attempted)
        await asyncio.shield(self._attempt)

    def _attempted(self, task: asyncio.Task[None]) -> None:
        self._attempt = None
        if not task.cancelled():
            # every waiter may have gone; the failure is theirs to report
            task.exception()

    async def _reach(self) -> None:
        edition = self._owner.transport.tls_edition(self._tls)
        connection = await self._dial()
        try:
            # A standby has to be known for one before the first request goes there.
            await self._check(connection, min(self.connect_timeout, self.pace.patience))
        except BaseException:
            self._owner.retire(connection)
            raise
        if not connection.usable:
            self._owner.retire(connection)
            broke = f"picker {self.address} broke the connection before it answered a health check"
            self._told(self.health.connect_failed, broke)
            raise PeerUnreachable(broke)
        old, self.connection, self._edition = self.connection, connection, edition
        if old is not None:
            self._owner.retire(old)
        self._owner.address_changed()

    async def _dial(self) -> Connection:
        """A connection. Pickers can be ready, by a port for health, before they listen."""
        while True:
            try:
                return await self._owner.transport.connect(
                    self.address, self._tls, self._server_name, self.connect_timeout
                )
            except PeerUnreachable as error:
                if self._loop.time() >= self._new_until:
                    if self.connection is None or not self.connection.usable:
                        self._told(self.health.connect_failed, str(error))
                    raise
            await asyncio.sleep(REFUSED_AGAIN)

    # --- watching ---

    async def _watch(self) -> None:
        while True:
            connection = self.connection
            if connection is None or not connection.usable or self._rotated:
                try:
                    await self.connect()
                except PeerUnreachable as error:
                    self._complain(error)
            if connection is not None and connection is self.connection and connection.usable:
                await self._check(connection, self.pace.patience)
            await self._rest()

    def _complain(self, error: PeerUnreachable) -> None:
        """A connection that works stays when the TLS files have changed and a new one fails."""
        key = (self._owner.pool, self.address, "rotated")
        if self._rotated and self.ready and (times := self._owner.repeats.due(key)) is not None:
            log.warning(
                "no connection with the changed TLS files; the old one stays",
                pool=self._owner.pool,
                address=self.address,
                error=str(error),
                times=times,
            )

    @property
    def _rotated(self) -> bool:
        """Whether the TLS files are not those that the connection was made with."""
        return self._edition != self._owner.transport.tls_edition(self._tls)

    async def _check(self, connection: Connection, patience: float) -> None:
        self.heard = False
        due = self._loop.time() + patience
        try:
            async with asyncio.timeout_at(due):
                said = await self._probe.check(connection)
        except TimeoutError:
            # A stall of our own proves nothing: the answer may be in the socket.
            if not self.heard and self._loop.time() - due < patience / 4:
                self._told(lambda: self.health.unanswered(self._loop.time()))
                if self.health.state is Health.SILENT:
                    self._tell_silent(list(self.following))
            return
        self.heard = True
        if said is not None:
            self._told(lambda: self.health.checked(said, self._loop.time()))

    async def _rest(self) -> None:
        """Until the next check is due, or somebody asks after a quiet time."""
        owner = self._owner
        used = owner.asked != self._asked or self.waiting or self.following
        self._quiet = 0 if used else self._quiet + 1
        self._asked = owner.asked
        seconds = self.health.retry_after
        if not seconds:
            seconds = self.pace.interval
            if owner.out:
                seconds = min(seconds, OUT_INTERVAL)
            elif self._quiet > QUIET_CHECKS:
                owner.quiet = True
                seconds *= QUIET_FACTOR
        try:
            async with asyncio.timeout(seconds * (1 + JITTER * (2 * owner.dice() - 1))):
                await self._wake.wait()
        except TimeoutError:
            return
        self._wake.clear()

    def wake(self) -> None:
        """Check now."""
        self._quiet = 0
        self._wake.set()

    # --- the end ---

    def close(self) -> None:
        """The picker has this address no more. Streams that are open go on to their end."""
        self._watching.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self.connection is not None:
            self._owner.retire(self.connection)
            self.connection = None

    async def closed(self) -> None:
        """Wait until nothing of it runs, after `close`."""
        tasks = [self._watching, *([self._attempt] if self._attempt else [])]
        await asyncio.gather(*tasks, return_exceptions=True)
