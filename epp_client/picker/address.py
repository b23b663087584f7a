"""PickerAddress: one address of a picker, with its connection, its health checks and its requests.

It connects and checks the address for as long as the picker has it, and reports every change of its health
to its owner. `health` decides; ext_proc messages never come here.
"""

import asyncio
from collections.abc import Callable
from time import monotonic
from typing import Protocol

import structlog

from epp_client.errors import PeerUnreachable
from epp_client.logs import Repeats
from epp_client.picker.health import (
    JITTER,
    OPEN,
    OUT_INTERVAL,
    AddressHealth,
    AddressNote,
    Health,
    Pace,
)
from epp_client.picker.probe import Probe
from epp_client.time_of_day import unix_time
from epp_client.tls_settings import ClientTls
from epp_client.wire.transport import Connection, Transport

log = structlog.get_logger(__name__)

RETIRE_GRACE = 600.0
"""Seconds that the streams of a retired connection have to end."""
QUIET_CHECKS = 30
"""Checks without any request after which the interval grows by `QUIET_FACTOR`."""
QUIET_FACTOR = 5
RETRY_DELAY = 0.05
"""Seconds between two attempts to connect to a new address that refuses."""
_NOTIFIED_PER_TURN = 64
"""Requests that are notified per turn of the event loop."""


class Waiting(Protocol):
    """A request with an open stream to the address."""

    def address_given_up(self) -> None:
        """The address has failed: do not wait for its pick."""

    def address_silent(self) -> None:
        """The address does not answer anything, health checks included: do not wait for further answers."""


class Owner(Protocol):
    """The picker client that an address belongs to."""

    pool: str
    transport: Transport
    repeats: Repeats
    asked: int
    """Number of requests for a picker so far."""
    out: bool
    """Whether no address is usable."""
    quiet: bool
    """Whether checks are rarer because there were no requests; `wake` the addresses at the next request."""

    def dice(self) -> float:
        """A random number from 0 to 1."""

    def address_changed(self) -> None:
        """The health of an address has changed."""

    def retire(self, connection: Connection) -> None:
        """Close a connection once its streams have ended."""


class PickerAddress:
    """One address. The constructor starts its watch, and `close` ends it."""

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
        """A refused connection is retried for `newcomer` seconds: the address is new and may not listen
        yet."""
        self.address = address
        self.health = AddressHealth()
        self.connection: Connection | None = None
        self.connect_timeout = connect_timeout
        self.pace = pace
        self.heard = False
        """Whether anything was received since the last check was sent."""
        self.picks = 0
        """Number of requests that it has answered."""
        self.note = AddressNote()
        """What a person may want to know about it."""
        self.waiting: set[Waiting] = set()
        """Requests that wait for a pick."""
        self.following: set[Waiting] = set()
        """Requests that have a pick and expect further answers."""
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
        """Whether a request may be sent to it now."""
        connection = self.connection
        return connection is not None and connection.usable and self.health.usable

    # --- results of requests ---

    def picked(self, request: Waiting) -> None:
        """The address has answered a request."""
        self.waiting.discard(request)
        self.picks += 1
        if self.health.suspect:
            self._apply(self.health.picked)

    def pick_failed(self, request: Waiting, picks_before: int) -> None:
        """A request got no pick. `picks_before` is the value of `picks` when it was sent."""
        self.waiting.discard(request)
        if self.picks == picks_before:
            self._apply(lambda: self.health.pick_failed(self._loop.time()))
        else:
            self.health.trial_undecided()

    def undecided(self, request: Waiting) -> None:
        """A request stopped waiting for a reason that says nothing about the address."""
        self.waiting.discard(request)
        self.health.trial_undecided()

    def failed(self, error: str) -> None:
        """Note an error for people."""
        self.note = self.note._replace(error=error, error_at=unix_time())

    def _apply(self, event: Callable[[], None], detail: str = "") -> None:
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
            cause = f": {detail}" if detail else ""
            show(
                f"picker {self.address} is {state} (was {before}){cause}",
                pool=owner.pool,
                address=self.address,
                state=str(state),
                was=str(before),
                times=count,
            )
        owner.address_changed()
        self._release()

    def _release(self) -> None:
        """Notify the waiting requests that the address has failed, some per turn as each may be much
        work."""
        if self.health.state not in OPEN:
            return
        for _ in range(min(len(self.waiting), _NOTIFIED_PER_TURN)):
            self.waiting.pop().address_given_up()
        if self.waiting:
            self._loop.call_soon(self._release)

    def _tell_silent(self, told: list[Waiting]) -> None:
        """Notify requests that have a pick that the address is silent, some per turn."""
        for _ in range(min(len(told), _NOTIFIED_PER_TURN)):
            request = told.pop()
            if request in self.following:
                request.address_silent()
        if told and self.health.state is Health.SILENT:
            self._loop.call_soon(self._tell_silent, told)

    # --- connecting ---

    async def connect(self) -> None:
        """Connect and check the health. Concurrent callers share one attempt.

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
            # Mark the exception as retrieved: all waiters may have been cancelled.
            task.exception()

    async def _reach(self) -> None:
        edition = self._owner.transport.tls_edition(self._tls)
        connection = await self._dial()
        try:
            # A standby must be known as one before the first request is sent to it.
            await self._check(connection, min(self.connect_timeout, self.pace.patience))
        except BaseException:
            self._owner.retire(connection)
            raise
        if not connection.usable:
            self._owner.retire(connection)
            broke = f"picker {self.address} broke the connection before it answered a health check"
            self.failed(broke)
            self._apply(self.health.connect_failed, broke)
            raise PeerUnreachable(broke)
        old, self.connection, self._edition = self.connection, connection, edition
        if old is not None:
            self._owner.retire(old)
        self._owner.address_changed()

    async def _dial(self) -> Connection:
        """Connect. A new picker may refuse at first: some have a separate health port, and report that they
        are ready before they listen."""
        while True:
            try:
                return await self._owner.transport.connect(
                    self.address, self._tls, self._server_name, self.connect_timeout
                )
            except PeerUnreachable as error:
                if self._loop.time() >= self._new_until:
                    self.failed(str(error))
                    if self.connection is None or not self.connection.usable:
                        self._apply(self.health.connect_failed, str(error))
                    raise
            await asyncio.sleep(RETRY_DELAY)

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
        """Log that connecting with changed TLS files failed. The old connection stays."""
        key = (self._owner.pool, self.address, "rotated")
        if self._rotated and self.ready and (times := self._owner.repeats.due(key)) is not None:
            log.warning(
                "cannot connect to a picker with the changed TLS files; keeping the old connection",
                pool=self._owner.pool,
                address=self.address,
                error=str(error),
                times=times,
            )

    @property
    def _rotated(self) -> bool:
        """Whether the TLS files have changed since the connection was made."""
        return self._edition != self._owner.transport.tls_edition(self._tls)

    async def _check(self, connection: Connection, patience: float) -> None:
        self.heard = False
        began = monotonic()
        due = self._loop.time() + patience
        try:
            async with asyncio.timeout_at(due):
                said = await self._probe.check(connection)
        except TimeoutError:
            # If this process was stalled itself, the answer may still be in the socket.
            if not self.heard and self._loop.time() - due < patience / 4:
                self.failed(f"it answered nothing for {patience:g} s, health checks included")
                self._apply(lambda: self.health.unanswered(self._loop.time()))
                if self.health.state is Health.SILENT:
                    self._tell_silent(list(self.following))
            return
        self.heard = True
        if said is not None:
            self.note = self.note._replace(check_seconds=monotonic() - began)
            self._apply(lambda: self.health.checked(said, self._loop.time()))

    async def _rest(self) -> None:
        """Wait until the next check is due, or `wake` is called."""
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
        """Check the health now."""
        self._quiet = 0
        self._wake.set()

    # --- the end ---

    def close(self) -> None:
        """Stop watching the address. Open streams go on to their end."""
        self._watching.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
        if self.connection is not None:
            self._owner.retire(self.connection)
            self.connection = None

    async def closed(self) -> None:
        """Wait until its tasks have ended, after `close`."""
        tasks = [self._watching, *([self._attempt] if self._attempt else [])]
        await asyncio.gather(*tasks, return_exceptions=True)
