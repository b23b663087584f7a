"""LeaseHolder: reads one Lease periodically, and takes and renews it as `lease` decides.

If the API server does not answer, we lose the Lease and nothing else: no error leaves the loop.
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
    """One replica that competes for a Lease. `changed` is called when it gains or loses it."""

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
        """Whether we hold the Lease now."""
        return self._until is not None and self._clock() < self._until

    async def run(self) -> None:
        """Compete for the Lease until cancelled, then release it."""
        try:
            while True:
                await self._sleep(await self._turn())
        finally:
            await self._release()

    async def _turn(self) -> float:
        """Read the Lease and act once; returns the seconds until the next time."""
        began = self._clock()
        try:
            async with asyncio.timeout(self._terms.renewal):
                decision = await self._look()
        except (ApiError, TimeoutError) as error:
            # After a conflict the next reading shows who wrote first.
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
        """Read the Lease and carry out the decision."""
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
        # The Lease may have run out since the last renewal.
        first, self._until = not self.holds, until
        if first:
            log.info("this replica reports status", lease="/".join(self._place))
            self._changed()

    def _lost(self, why: str) -> None:
        if self._until is not None:
            self._until = None
            log.warning(
                "this replica has lost the Lease: another may report status",
                reason=why,
            )
            self._changed()

    def _complain(self, error: ApiError | TimeoutError) -> None:
        text = str(error) or "the API server does not answer in time"
        if (count := self._repeats.due(text)) is not None:
            log.warning("the Lease for status cannot be read or written", error=text, count=count)

    async def _release(self) -> None:
        """Release the Lease, so that another replica takes it at once instead of after its duration."""
        held, self._until = self._until is not None, None
        if held:
            self._changed()
        namespace, name = self._place
        try:
            async with asyncio.timeout(self._terms.renewal):
                # Read it again: a cancelled renewal may or may not have been written.
                lease = await self._read()
                if lease and (free := released(lease, self._me, micro_time())):
                    await self._api.replace(LEASE, name, free, namespace)
        except (ApiError, TimeoutError) as error:
            self._complain(error)
