"""Recorder: keeps records of single requests, and the traffic of endpoints, until they are collected.

The records of a time between two collections are bounded, so their cost is bounded too. Failures come
first: the other requests have a small bound of their own.
"""

from collections.abc import Mapping
from typing import Final, final

from epp_client.errors import Reason
from epp_client.ext_proc.identity import TRACE_PARENT, identify
from epp_client.metrics.decisions import Decision, News, Traffic, failed
from epp_client.picker.health import AddressNote
from epp_client.pool.endpoints import quotable
from epp_client.relay.exchange import Exchange
from epp_client.relay.outcome import Outcome
from epp_client.relay.result import Result
from epp_client.time_of_day import unix_time

MAX_FAILURES: Final = 250
"""Failures recorded between two collections, which come about once a second."""
MAX_TRAFFIC: Final = 20_000
"""Endpoints whose requests are counted between two collections."""


# Constants, because a member of an enum that is not compiled costs two look-ups for each request.
_STEERED: Final = Outcome.STEERED
_LOCAL_PICK: Final = Outcome.LOCAL_PICK


@final
class _Tally:
    """The traffic of one endpoint, as compiled code counts it for a tenth of the cost."""

    __slots__ = ("failed", "picked", "served", "unreachable")

    def __init__(self) -> None:
        self.picked = 0
        self.served = 0
        self.failed = 0
        self.unreachable = 0


class Recorder:
    """The records of one process."""

    def __init__(self, samples: int) -> None:
        """`samples`: requests without a failure that are recorded between two collections."""
        self._samples = samples
        self._failures_left = MAX_FAILURES
        self._samples_left = samples
        self._room = MAX_TRAFFIC
        self._decisions: list[Decision] = []
        self._missed = 0
        self._tallies: dict[str, dict[str, _Tally]] = {}

    def take(self, pickers: dict[str, dict[str, AddressNote]]) -> News:
        """The records since the last call, and the notes about `pickers`."""
        traffic = {
            pool: {key: _traffic(tally) for key, tally in tallies.items()}
            for pool, tallies in self._tallies.items()
        }
        news = News(self._decisions, self._missed, traffic, pickers)
        self._decisions, self._missed, self._tallies = [], 0, {}
        self._failures_left, self._samples_left = MAX_FAILURES, self._samples
        self._room = MAX_TRAFFIC
        return news

    def ended(
        self,
        pool: str,
        exchange: Exchange,
        metadata: Mapping[str, str],
        address: str,
        pick_seconds: float | None,
        seconds: float,
    ) -> None:
        """An exchange is over. `metadata`: of Envoy's stream. `address`: of the picker that was asked last,
        empty if none was."""
        result = exchange.result
        outcome = result.outcome
        if result.keys:
            self._count(pool, result)
        if (
            self._samples_left == 0
            and (outcome is _STEERED or outcome is _LOCAL_PICK)
            and result.endpoint_failure is None
        ):
            return
        if failed(outcome or Outcome.CANCELLED, result.reason, result.endpoint_failure):
            if self._failures_left == 0:
                self._missed += 1
                return
            self._failures_left -= 1
        elif self._samples_left:
            self._samples_left -= 1
        else:
            return
        self._decisions.append(_decision(pool, exchange, metadata, address, pick_seconds, seconds))

    def refused(self, pool: str, reason: Reason, request: bytes) -> None:
        """A stream without an exchange was refused. `request` is Envoy's first message, or empty."""
        if self._failures_left == 0:
            self._missed += 1
            return
        self._failures_left -= 1
        identity = identify(request)
        self._decisions.append(
            Decision(
                at=unix_time(),
                pool=pool,
                outcome=Outcome.REFUSED,
                reason=reason,
                request_id=identity.request_id,
                trace_id=identity.trace_id,
                model=identity.model,
            )
        )

    def _count(self, pool: str, result: Result) -> None:
        """Count a request that had destinations."""
        tallies = self._tallies.get(pool)
        if tallies is None:
            tallies = self._tallies[pool] = {}
        first = result.keys[0]
        tally = self._of(tallies, first)
        tally.picked += 1
        served = result.endpoint
        if served is None:
            return
        if served is not first and served != first:
            tally = self._of(tallies, served)
        if result.endpoint_failure is None:
            tally.served += 1
        else:
            tally.failed += 1
        if len(result.keys) > 1 or result.endpoint_failure is not None:
            for key in result.passed_over:
                self._of(tallies, key).unreachable += 1

    def _of(self, tallies: dict[str, _Tally], key: str) -> _Tally:
        tally = tallies.get(key)
        if tally is None:
            tally = _Tally()
            if self._room:
                self._room -= 1
                tallies[key] = tally
        return tally


def _traffic(tally: _Tally) -> Traffic:
    traffic = Traffic()
    traffic.picked, traffic.served = tally.picked, tally.served
    traffic.failed, traffic.unreachable = tally.failed, tally.unreachable
    return traffic


def _decision(
    pool: str,
    exchange: Exchange,
    metadata: Mapping[str, str],
    address: str,
    pick_seconds: float | None,
    seconds: float,
) -> Decision:
    result, said = exchange.result, exchange.said
    identity = identify(said.headers, said.answer, metadata.get(TRACE_PARENT, ""))
    return Decision(
        at=unix_time(),
        pool=pool,
        outcome=result.outcome or Outcome.CANCELLED,
        reason=result.reason,
        request_id=identity.request_id,
        trace_id=identity.trace_id,
        model=identity.model,
        picker=address,
        said=quotable(said.pick),
        picked=result.keys[0] if result.keys else "",
        served=(result.endpoint or "") if result.endpoint_failure is None else "",
        endpoint_failure=result.endpoint_failure,
        passthrough=result.passthrough,
        eviction=result.eviction,
        hint=result.hint,
        retries=exchange.retries,
        passed_over=len(result.passed_over),
        pick_seconds=pick_seconds,
        seconds=seconds,
        request_bytes=exchange.request_bytes,
        response_bytes=exchange.response_bytes,
    )
