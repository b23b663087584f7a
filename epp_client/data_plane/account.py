"""Account: records what happened to the requests of one process, in counters, log lines, and the state that
local picks need.
"""

import asyncio
import random
from collections.abc import Mapping
from typing import Final

import structlog

from epp_client.data_plane.recorder import Recorder
from epp_client.errors import PeerUnreachable, Reason
from epp_client.logs import Repeats
from epp_client.metrics.counters import Counters, PoolCounters, bucket
from epp_client.picker.fallback import InFlight, local_pick
from epp_client.picker.preparation import Subset
from epp_client.picker.unreachable import Unreachable
from epp_client.pool.settings import ANNOTATION_PREFIX
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.exchange import Exchange
from epp_client.relay.outcome import Outcome
from epp_client.relay.uses import Use
from epp_client.wire.status import OK, Status

log = structlog.get_logger(__name__)
# A constant, because a member of an enum that is not compiled costs two look-ups for each request.
_STEERED: Final = Outcome.STEERED


class Account:
    """The account of one process. `counters` has its numbers."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, counters: Counters, recorder: Recorder
    ) -> None:
        self.counters = counters
        self.recorder = recorder
        self.in_flight = InFlight()
        self._loop = loop
        self._unreachable = Unreachable()
        self._repeats = Repeats()

    def local_pick(self, snapshot: PoolSnapshot, subset: Subset | None) -> tuple[str, ...]:
        """Make a local pick: the chosen endpoint, and others to try after it."""
        unreachable = self._unreachable.now(self._loop.time())
        return local_pick(snapshot, subset, self.in_flight, unreachable, random.randrange)

    def served(self, pool: str, counters: PoolCounters, exchange: Exchange) -> None:
        """Envoy has reported the served endpoint. It could not connect to the endpoints before it in the
        list."""
        if passed_over := exchange.result.passed_over:
            self._unreachable.refused(passed_over, self._loop.time())
            counters.passed_over += len(passed_over)
            self._warn("Envoy could not connect to endpoints", pool=pool, endpoint=passed_over[0])
        if exchange.result.endpoint is not None and exchange.result.endpoint_failure is None:
            self._unreachable.served(exchange.result.endpoint)

    def ended(
        self,
        pool: str,
        counters: PoolCounters,
        exchange: Exchange,
        metadata: Mapping[str, str],
        picker: str,
        pick_seconds: float | None,
        seconds: float,
    ) -> None:
        """An exchange is over, after `seconds`. `counters` are those that it started with: a pool that was
        deleted, or created again, does not have them any more. `metadata`: of Envoy's stream. `picker`:
        address of the picker that was asked last, empty if none was."""
        counters.in_flight -= 1
        counters.exchanges[bucket(seconds)] += 1
        counters.exchange_seconds += seconds
        self.recorder.ended(pool, exchange, metadata, picker, pick_seconds, seconds)
        counters.outcome(exchange.result.outcome or Outcome.CANCELLED)
        if pick_seconds is not None and exchange.result.outcome is _STEERED:
            counters.picked(pick_seconds)
            if (use := exchange.response_use) is not None:
                counters.use(use)
            if exchange.result.body_unwanted:
                counters.use(Use.BODY_UNWANTED)
        if exchange.result.reason is not None:
            why = _why(pool, exchange.result.reason, exchange.result.hint, exchange.result.misread)
            if exchange.result.outcome is Outcome.FAILED_OPEN:
                counters.fail_open(exchange.result.reason)
                self._warn("failed open", **why)
            else:
                counters.refuse(exchange.result.reason)
                self._warn("refused a request", **why)
        if exchange.retries:
            counters.retries += exchange.retries
        if exchange.request_lost:
            counters.not_retained += 1
        if exchange.result.passthrough is not None:
            counters.pass_through(exchange.result.passthrough)
            if exchange.result.hint and exchange.result.reason is None:
                why = _why(pool, exchange.result.passthrough, exchange.result.hint)
                self._warn("a response continued without its picker", **why)
        if exchange.result.endpoint_failure is not None:
            reason = exchange.result.endpoint_failure
            counters.endpoint_fail(reason)
            self._warn("Envoy answered instead of an endpoint", pool=pool, reason=str(reason))
        if exchange.result.endpoint_error:
            counters.endpoint_errors += 1
        if exchange.result.eviction is not None:
            counters.evict(exchange.result.eviction)
        for what, (count, name) in exchange.result.left_out.items():
            counters.leave_out(what, count)
            self._warn("left out of a picker's answer", pool=pool, reason=str(what), name=name)

    def refused(self, pool: str, reason: Reason, outcome: Outcome, request: bytes) -> None:
        """A stream that had no exchange is over. `request` is Envoy's first message, empty if none came."""
        counters = self.counters.pool(pool)
        counters.outcome(outcome)
        if outcome is Outcome.REFUSED:
            counters.refuse(reason)
            self.recorder.refused(pool, reason, request)
            self._warn("refused a request", pool=pool, reason=str(reason))

    def picker_unreachable(self, pool: str, error: PeerUnreachable) -> None:
        """No address of the pool's picker could be reached."""
        self._warn("the picker cannot be reached", pool=pool, error=str(error))

    def picker_ended(self, pool: str, status: Status, *, decided: bool) -> None:
        """A picker's stream ended. It is logged if it ended with an error, or before the pick with OK and a
        message. `decided`: there was a pick before."""
        if status != OK and not (decided and status.code == OK.code):
            self._warn(
                "the picker ended a call",
                pool=pool,
                grpc_status=status.code,
                message=status.message[:200],
            )

    def _warn(self, event: str, **fields: str | int) -> None:
        """Log an event that may happen a thousand times a second: the first at once, then with a count."""
        key = (event, fields.get("pool"), fields.get("reason"))
        if (count := self._repeats.due(key)) is not None:
            log.warning(event, times=count, **fields)


def _why(pool: str, reason: Reason, setting: str, said: str = "") -> dict[str, str]:
    """The fields of a log line about a failure. `setting` is the deadline or the bound that was exceeded.
    `said` is the picker's answer, if it could not be used."""
    why = {"pool": pool, "reason": str(reason)}
    if said:
        why["picker_said"] = said
    if setting:
        why["hint"] = f"a setting ended it: raise {ANNOTATION_PREFIX}{setting} if it was too early"
    return why
