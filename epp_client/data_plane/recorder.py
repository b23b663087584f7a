"""Recorder: keeps records of single requests, and the traffic of endpoints, until they are collected.

The records of a time between two collections are bounded, so their cost is bounded too. Failures come
first: the other requests have a small bound of their own.
"""

import time
from typing import Final

from epp_client.errors import Reason
from epp_client.ext_proc.identity import identify
from epp_client.metrics.decisions import Decision, News, Traffic, failed
from epp_client.picker.health import AddressNote
from epp_client.pool.endpoints import quotable
from epp_client.relay.exchange import Exchange
from epp_client.relay.outcome import Outcome

MAX_FAILURES: Final = 250
"""Failures recorded between two collections, which come about once a second."""
MAX_TRAFFIC: Final = 20_000
"""Endpoints whose requests are counted between two collections."""


class Recorder:
    """The records of one process."""

    def __init__(self, samples: int) -> None:
        """`samples`: requests without a failure that are recorded between two collections."""
        self._samples = samples
        self._failures_left = MAX_FAILURES
        self._samples_left = samples
        self._traffic_left = MAX_TRAFFIC
        self._decisions: list[Decision] = []
        self._missed = 0
        self._traffic: dict[str, dict[str, Traffic]] = {}

    def take(self, pickers: dict[str, dict[str, AddressNote]]) -> News:
        """The records since the last call, and the notes about `pickers`."""
        news = News(self._decisions, self._missed, self._traffic, pickers)
        self._decisions, self._missed, self._traffic = [], 0, {}
        self._failures_left, self._samples_left = MAX_FAILURES, self._samples
        self._traffic_left = MAX_TRAFFIC
        return news

    def ended(
        self,
        pool: str,
        exchange: Exchange,
        address: str,
        pick_seconds: float | None,
        seconds: float,
    ) -> None:
        """An exchange is over. `address`: of the picker that was asked last, empty if none was."""
        result = exchange.result
        if result.keys:
            self._count(pool, exchange)
        if failed(result.outcome or Outcome.CANCELLED, result.reason, result.endpoint_failure):
            if not self._failures_left:
                self._missed += 1
                return
            self._failures_left -= 1
        elif self._samples_left:
            self._samples_left -= 1
        else:
            return
        self._decisions.append(_decision(pool, exchange, address, pick_seconds, seconds))

    def refused(self, pool: str, reason: Reason, request: bytes) -> None:
        """A stream without an exchange was refused. `request` is Envoy's first message, or empty."""
        if not self._failures_left:
            self._missed += 1
            return
        self._failures_left -= 1
        identity = identify(request)
        self._decisions.append(
            Decision(
                at=time.time(),
                pool=pool,
                outcome=Outcome.REFUSED,
                reason=reason,
                request_id=identity.request_id,
                trace_id=identity.trace_id,
                model=identity.model,
            )
        )

    def _count(self, pool: str, exchange: Exchange) -> None:
        """Count a request that had destinations."""
        result = exchange.result
        endpoints = self._traffic.get(pool)
        if endpoints is None:
            endpoints = self._traffic[pool] = {}
        first = result.keys[0]
        traffic = endpoints.get(first)
        if traffic is None:
            traffic = self._of(endpoints, first)
        traffic.picked += 1
        served = result.endpoint
        if served is None:
            return
        if served is not first and served != first:
            traffic = self._of(endpoints, served)
            for key in result.passed_over:
                self._of(endpoints, key).unreachable += 1
        if result.endpoint_failure is None:
            traffic.served += 1
        else:
            traffic.failed += 1

    def _of(self, endpoints: dict[str, Traffic], key: str) -> Traffic:
        traffic = endpoints.get(key)
        if traffic is None:
            traffic = Traffic()
            if self._traffic_left:
                self._traffic_left -= 1
                endpoints[key] = traffic
        return traffic


def _decision(
    pool: str,
    exchange: Exchange,
    address: str,
    pick_seconds: float | None,
    seconds: float,
) -> Decision:
    result, said = exchange.result, exchange.said
    identity = identify(said.headers, said.answer)
    return Decision(
        at=time.time(),
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
