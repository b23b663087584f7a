"""LeaseHolder: looks at one Lease again and again, and holds it when it may. The shell of `lease`.

An API server that does not answer costs us the Lease, never more: no error leaves this loop.
"""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime

import structlog

from epp_client.errors import ApiError, ApiFault
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import LEASE
from epp_client.kubernetes.status.lease import (
    Create,
    Decision,
    Lease,
    Seen,
    Terms,
    Wait,
    decide,
    observe,
    released,
)
from epp_client.logs import Repeats

log = structlog.get_logger(__name__)

TERMS = Terms()


def micro_time() -> str:
    """The time of day as Kubernetes writes a MicroTime."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


class LeaseHolder:
    """One replica's claim to a Lease. `changed` is called when it has gained or lost it."""

    def __init__(
        self,
        api: KubernetesApi,
        namespace: str,
        name: str,
        identity: str,
        changed: Callable[[], None],
        terms: Terms = TERMS,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._api = api
        self._place = namespace, name
        self._me = identity
        self._changed = changed
        self._terms = terms
        self._clock = clock
        self._sleep = sleep
        self._seen: Seen | None = None
        self._until: float | None = None
        self._repeats = Repeats(60.0)

    @property
    def holds(self) -> bool:
        """Whether the Lease is ours at this moment."""
        return self._until is not None and self._clock() < self._until

    async def run(self) -> None:
        """Look, and hold or wait, until cancelled; then let go of the Lease."""
        try:
            while True:
                await self._sleep(await self._turn())
        finally:
            await self._release()

    async def _turn(self) -> float:
        """One look; seconds to the next."""
        began = self._clock()
        try:
            async with asyncio.timeout(self._terms.renewal):
                decision = await self._look()
        except (ApiError, TimeoutError) as error:
            # A conflict: another has written first, and the next look says who.
            if not (isinstance(error, ApiError) and error.fault is ApiFault.CONFLICT):
                self._complain(error)
            decision = None
        if isinstance(decision, Wait):
            self._lost(f"{decision.holder} holds it")
            return decision.seconds * random.uniform(1.0, 1.1)
        if decision is not None:
            self._gained(began + self._terms.deadline)
        elif not self.holds:
            self._lost("it could not be renewed in time")
        return self._terms.renewal * random.uniform(0.8, 1.0)

    async def _read(self) -> Lease | None:
        namespace, name = self._place
        try:
            return await self._api.get(LEASE, name, namespace)
        except ApiError as error:
            if error.fault is ApiFault.NOT_FOUND:
                return None
            raise

    async def _look(self) -> Decision:
        """Read the Lease and carry out what follows."""
        namespace, name = self._place
        lease = await self._read()
        now = self._clock()
        self._seen = observe(lease, self._seen, now)
        decision = decide(lease, self._seen, self._me, self._terms, self._place, now, micro_time())
        if isinstance(decision, Wait):
            return decision
        if isinstance(decision, Create):
            await self._api.create(LEASE, decision.lease, namespace)
        else:
            await self._api.replace(LEASE, name, decision.lease, namespace)
        return decision

    def _gained(self, until: float) -> None:
        # between two looks, it may have run out
        first, self._until = not self.holds, until
        if first:
            log.info("this replica writes the status of pools", lease="/".join(self._place))
            self._changed()

    def _lost(self, why: str) -> None:
        if self._until is not None:
            self._until = None
            log.warning("another replica writes the status of pools from now on", reason=why)
            self._changed()

    def _complain(self, error: ApiError | TimeoutError) -> None:
        text = str(error) or "the API server does not answer in time"
        if (count := self._repeats.due(text)) is not None:
            log.warning("the Lease for pool status is out of reach", error=text, count=count)

    async def _release(self) -> None:
        """Let the next replica begin at once. Best effort: without it, it begins when we are stale."""
        held, self._until = self._until is not None, None
        if held:
            self._changed()
        namespace, name = self._place
        try:
            async with asyncio.timeout(self._terms.renewal):
                # Read anew: a renewal may have been cut short, and nobody knows how far it came.
                lease = await self._read()
                if lease and (free := released(lease, self._me, micro_time())):
                    await self._api.replace(LEASE, name, free, namespace)
        except (ApiError, TimeoutError) as error:
            self._complain(error)
