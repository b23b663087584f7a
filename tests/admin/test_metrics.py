"""The metrics as a scraper sees them: every exposition here goes through a parser."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from epp_client.errors import LeftOut, Reason
from epp_client.metrics.counters import PICK_BUCKETS, Counters, PoolCounters
from epp_client.metrics.registry import Metrics
from epp_client.picker.health import Health
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Eviction, Outcome
from tests.admin.fleet import Followed

LLAMA, QWEN = PoolName("default", "llama"), PoolName("default", "qwen")

FAMILIES = {
    "epp_client_requests": ("counter", {"pool", "outcome"}),
    "epp_client_pick_seconds": ("histogram", {"pool"}),
    "epp_client_exchange_seconds": ("histogram", {"pool"}),
    "epp_client_fail_open": ("counter", {"pool", "reason"}),
    "epp_client_refused": ("counter", {"pool", "reason"}),
    "epp_client_response_passthrough": ("counter", {"pool", "reason"}),
    "epp_client_answers_left_out": ("counter", {"pool", "what"}),
    "epp_client_evictions": ("counter", {"pool", "result"}),
    "epp_client_endpoint_failures": ("counter", {"pool", "reason"}),
    "epp_client_endpoints_passed_over": ("counter", {"pool"}),
    "epp_client_in_flight": ("gauge", {"pool"}),
    "epp_client_endpoints": ("gauge", {"pool", "state"}),
    "epp_client_picker_addresses": ("gauge", {"pool", "state"}),
    "epp_client_picker_retries": ("counter", {"pool"}),
    "epp_client_bodies_not_retained": ("counter", {"pool"}),
    "epp_client_retained_bytes": ("gauge", set()),
    "epp_client_workers": ("gauge", set()),
    "epp_client_worker_restarts": ("counter", set()),
    "epp_client_pools": ("gauge", set()),
    "epp_client_problems": ("gauge", {"severity"}),
    "epp_client_xds_pushes": ("counter", {"type"}),
    "epp_client_xds_nacks": ("counter", {"type"}),
    "epp_client_envoys_connected": ("gauge", set()),
    "epp_client_build_info": ("gauge", {"version", "transport"}),
}
"""The documented names, as the text parser gives them (without `_total`)."""


def samples(text: str) -> Mapping[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }


class Sidecar:
    """The metrics, and the counters of one relay."""

    def __init__(self, store: PoolStore) -> None:
        self.metrics = Metrics(transport="grpcio")
        self.counters = Counters()
        store.subscribe(lambda changed: self.metrics.pools_changed(store, changed))

    def pool(self, name: str) -> PoolCounters:
        return self.counters.pool(name)

    def scrape(self, accept: str = "") -> str:
        scrape = self.metrics.scrape(self.counters, accept)
        for pool in scrape.forgotten:
            del self.counters.pools[pool]
            self.counters.pickers.pop(pool, None)
        return scrape.body.decode()


def value(sidecar: Sidecar, name: str, **labels: str) -> float | None:
    return samples(sidecar.scrape()).get((name, frozenset(labels.items())))


def pools_named(text: str) -> set[str]:
    return {dict(labels)["pool"] for _, labels in samples(text) if "pool" in dict(labels)}


def snapshot(name: PoolName, *, ready: int = 0, draining: int = 0) -> PoolSnapshot:
    members = [
        Endpoint(f"10.0.0.{i}:8000", f"10.0.0.{i}", 8000, f"pod-{i}", ready=i < ready)
        for i in range(ready + draining)
    ]
    table = EndpointTable(
        MappingProxyType({endpoint.key: endpoint for endpoint in members}),
        generation=1,
    )
    pool = InferencePool(name, (("app", "llama"),), (8000,))
    return PoolSnapshot(pool, table, PickerTarget(("10.1.0.1:9002", "10.1.0.2:9002")))


@pytest.fixture
def store() -> PoolStore:
    return PoolStore()


@pytest.fixture
def sidecar(store: PoolStore) -> Sidecar:
    return Sidecar(store)


def use_everything(sidecar: Sidecar, pool: str) -> None:
    series = sidecar.pool(pool)
    series.picked(0.003)
    series.retries = series.not_retained = 1
    sidecar.counters.pickers[pool] = {"10.1.0.1:9002": Health.SERVING}
    for outcome in Outcome:
        series.outcome(outcome)
    for reason in Reason:
        series.fail_open(reason)
        series.refuse(reason)
        series.pass_through(reason)
        series.endpoint_fail(reason)
    for what in LeftOut:
        series.leave_out(what, 1)
    for eviction in Eviction:
        series.evict(eviction)


def test_the_families_are_the_documented_ones(sidecar: Sidecar, store: PoolStore) -> None:
    store.publish({LLAMA: snapshot(LLAMA, ready=1)})
    use_everything(sidecar, "default/llama")
    sidecar.metrics.xds_pushes.labels("eds").inc()
    sidecar.metrics.xds_nacks.labels("eds").inc()
    found = {
        family.name: (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(sidecar.scrape())
        if not family.name.endswith("_created")
    }
    assert found == FAMILIES


API_FAMILIES = {
    "epp_client_api_stale_seconds": ("gauge", set()),
    "epp_client_api_requests": ("counter", {"verb"}),
    "epp_client_api_faults": ("counter", {"fault"}),
    "epp_client_api_events": ("counter", set()),
    "epp_client_status_writes": ("counter", {"result"}),
    "epp_client_status_leader": ("gauge", set()),
}
"""With `--kubernetes`; the last two with `--gateway` alone."""


@pytest.mark.parametrize("reports", [True, False])
def test_an_api_server_has_families_of_its_own(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch, reports: bool
) -> None:
    if not reports:
        monkeypatch.setattr(Followed, "status_writes", lambda _: None)
    before = {family.name for family in text_string_to_metric_families(sidecar.scrape())}
    sidecar.metrics.follow_api(Followed())
    found = {
        family.name: (family.type, {label for sample in family.samples for label in sample.labels})
        for family in text_string_to_metric_families(sidecar.scrape())
        if family.name not in before
    }
    assert found == {k: v for k, v in API_FAMILIES.items() if reports or "status" not in k}
    assert value(sidecar, "epp_client_api_stale_seconds") == 95
    assert value(sidecar, "epp_client_api_requests_total", verb="watch") == 34
    assert value(sidecar, "epp_client_api_faults_total", fault="forbidden") == 1
    assert value(sidecar, "epp_client_api_events_total") == 560


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_counts_once_for_its_pool_alone(
    sidecar: Sidecar, store: PoolStore, outcome: Outcome
) -> None:
    store.publish({LLAMA: snapshot(LLAMA), QWEN: snapshot(QWEN)})
    sidecar.pool("default/qwen")
    sidecar.pool("default/llama").outcome(outcome)
    for other in Outcome:
        for pool in ("default/llama", "default/qwen"):
            expected = 1 if (other, pool) == (outcome, "default/llama") else 0
            assert value(sidecar, "epp_client_requests_total", pool=pool, outcome=other) == expected


@pytest.mark.parametrize(
    ("count", "name"),
    [
        ("fail_open", "epp_client_fail_open_total"),
        ("refuse", "epp_client_refused_total"),
        ("pass_through", "epp_client_response_passthrough_total"),
    ],
)
def test_a_reason_is_the_label(sidecar: Sidecar, count: str, name: str) -> None:
    getattr(sidecar.pool("default/llama"), count)(Reason.PICKER_TIMEOUT)
    assert value(sidecar, name, pool="default/llama", reason="picker_timeout") == 1


def test_pick_buckets_reach_from_half_a_millisecond_to_the_default_deadline(
    sidecar: Sidecar,
) -> None:
    sidecar.pool("default/llama").picked(0.0004)
    name = "epp_client_pick_seconds_bucket"
    assert (PICK_BUCKETS[0], PICK_BUCKETS[-1]) == (0.0005, PoolSettings().pick_timeout)
    assert value(sidecar, name, pool="default/llama", le="0.0005") == 1


def test_gauges_follow_the_store(sidecar: Sidecar, store: PoolStore) -> None:
    store.publish(
        {LLAMA: snapshot(LLAMA, ready=2, draining=1)}, (Problem(Severity.WARNING, "odd"),)
    )
    assert value(sidecar, "epp_client_pools") == 1
    assert value(sidecar, "epp_client_problems", severity="warning") == 1
    assert value(sidecar, "epp_client_problems", severity="error") == 0
    assert value(sidecar, "epp_client_endpoints", pool="default/llama", state="ready") == 2
    assert value(sidecar, "epp_client_endpoints", pool="default/llama", state="draining") == 1


def test_each_address_of_a_picker_counts_once_by_the_worst_opinion(sidecar: Sidecar) -> None:
    one, other = Counters(), Counters()
    good, bad = "10.1.0.1:9002", "10.1.0.2:9002"
    one.pickers = {"default/llama": {good: Health.SERVING, bad: Health.SERVING}}
    other.pickers = {"default/llama": {good: Health.UNKNOWN, bad: Health.SILENT}}
    sidecar.counters.add(one)
    sidecar.counters.add(other)
    seen = {
        state: value(sidecar, "epp_client_picker_addresses", pool="default/llama", state=state)
        for state in Health
    }
    assert {state for state, count in seen.items() if count} == {Health.UNKNOWN, Health.SILENT}
    assert sum(count or 0 for count in seen.values()) == 2
    assert other.settled().pickers == {}


def test_a_deleted_pool_is_scraped_once_more_and_then_gone(
    sidecar: Sidecar, store: PoolStore
) -> None:
    store.publish({LLAMA: snapshot(LLAMA, ready=1), QWEN: snapshot(QWEN)})
    use_everything(sidecar, "default/llama")
    sidecar.pool("default/qwen").outcome(Outcome.STEERED)
    store.publish({QWEN: snapshot(QWEN)})
    last = sidecar.scrape()
    assert pools_named(last) == {"default/llama", "default/qwen"}
    gone = frozenset({("pool", "default/llama"), ("state", "ready")})
    assert ("epp_client_endpoints", gone) not in samples(last)
    after = sidecar.scrape()
    assert pools_named(after) == {"default/qwen"}


def test_a_deleted_pool_stays_until_its_last_request_has_ended(
    sidecar: Sidecar, store: PoolStore
) -> None:
    store.publish({LLAMA: snapshot(LLAMA)})
    sidecar.pool("default/llama").in_flight += 1
    store.publish({})
    for _ in range(2):
        sidecar.scrape()
    assert value(sidecar, "epp_client_in_flight", pool="default/llama") == 1
    sidecar.pool("default/llama").in_flight -= 1
    sidecar.pool("default/llama").outcome(Outcome.STEERED)
    last = sidecar.scrape()
    key = frozenset({("pool", "default/llama"), ("outcome", "steered")})
    assert samples(last)["epp_client_requests_total", key] == 1
    assert pools_named(sidecar.scrape()) == set()


def test_a_deleted_pool_that_a_relay_still_knew_is_forgotten_as_well(
    sidecar: Sidecar, store: PoolStore
) -> None:
    store.publish({LLAMA: snapshot(LLAMA)})
    store.publish({})
    sidecar.scrape()
    # it is told a moment later
    sidecar.pool("default/llama").outcome(Outcome.STEERED)
    assert pools_named(sidecar.scrape()) == {"default/llama"}
    assert pools_named(sidecar.scrape()) == set()


def test_a_pool_that_came_back_keeps_its_counters(sidecar: Sidecar, store: PoolStore) -> None:
    store.publish({LLAMA: snapshot(LLAMA)})
    sidecar.pool("default/llama").outcome(Outcome.STEERED)
    store.publish({})
    store.publish({LLAMA: snapshot(LLAMA, ready=1)})
    for _ in range(2):
        sidecar.scrape()
    name = "epp_client_requests_total"
    assert value(sidecar, name, pool="default/llama", outcome="steered") == 1


def test_refusals_for_unknown_pools_survive_every_change(
    sidecar: Sidecar, store: PoolStore
) -> None:
    sidecar.pool("unknown").refuse(Reason.POOL_UNKNOWN)
    store.publish({LLAMA: snapshot(LLAMA)})
    store.publish({})
    for _ in range(2):
        sidecar.scrape()
    assert value(sidecar, "epp_client_refused_total", pool="unknown", reason="pool_unknown") == 1


def test_relays_add_up() -> None:
    one, other = Counters(retained_bytes=5), Counters(retained_bytes=7)
    for counters in (one, other):
        counters.pool("default/llama").picked(0.003)
        counters.pool("default/llama").outcome(Outcome.STEERED)
        counters.pool("default/llama").in_flight += 2
    other.pool("default/qwen").refuse(Reason.OVERLOADED)
    one.add(other)
    assert one.retained_bytes == 12
    llama = one.pool("default/llama")
    assert (sum(llama.picks), llama.outcomes[Outcome.STEERED], llama.in_flight) == (2, 2, 4)
    assert llama.pick_seconds == pytest.approx(0.006)
    assert one.pool("default/qwen").refused == {Reason.OVERLOADED: 1}
    assert other.pool("default/llama").in_flight == 2


def test_openmetrics_is_given_to_who_asks(sidecar: Sidecar) -> None:
    use_everything(sidecar, "default/llama")
    accept = "application/openmetrics-text;version=1.0.0"
    body, content_type, _ = sidecar.metrics.scrape(sidecar.counters, accept)
    assert content_type.startswith("application/openmetrics-text")
    assert "epp_client_requests" in {f.name for f in openmetrics_families(body.decode())}  # type: ignore[no-untyped-call]
