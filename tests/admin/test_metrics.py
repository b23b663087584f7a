"""The metrics as a scraper sees them: every exposition here goes through a parser."""

from collections.abc import Mapping
from types import MappingProxyType

import pytest
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from epp_client.errors import Reason
from epp_client.metrics import PICK_BUCKETS, Metrics
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Outcome

LLAMA, QWEN = PoolName("default", "llama"), PoolName("default", "qwen")

FAMILIES = {
    "epp_client_requests": ("counter", {"pool", "outcome"}),
    "epp_client_pick_seconds": ("histogram", {"pool"}),
    "epp_client_fail_open": ("counter", {"pool", "reason"}),
    "epp_client_refused": ("counter", {"pool", "reason"}),
    "epp_client_response_passthrough": ("counter", {"pool", "reason"}),
    "epp_client_in_flight": ("gauge", {"pool"}),
    "epp_client_endpoints": ("gauge", {"pool", "state"}),
    "epp_client_picker_addresses": ("gauge", {"pool"}),
    "epp_client_retained_bytes": ("gauge", set()),
    "epp_client_pools": ("gauge", set()),
    "epp_client_manifest_problems": ("gauge", {"severity"}),
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


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return samples(metrics.exposition().decode()).get((name, frozenset(labels.items())))


def pools_named(text: str) -> set[str]:
    return {dict(labels)["pool"] for _, labels in samples(text) if "pool" in dict(labels)}


def snapshot(name: PoolName, *, ready: int = 0, draining: int = 0) -> PoolSnapshot:
    members = [
        Endpoint(f"10.0.0.{i}:8000", f"10.0.0.{i}", 8000, f"pod-{i}", ready=i < ready)
        for i in range(ready + draining)
    ]
    table = EndpointTable(
        MappingProxyType({endpoint.key: endpoint for endpoint in members}),
        tuple(endpoint for endpoint in members if endpoint.ready),
        generation=1,
    )
    pool = InferencePool(name, (("app", "llama"),), (8000,))
    return PoolSnapshot(pool, table, PickerTarget(("10.1.0.1:9002", "10.1.0.2:9002")))


@pytest.fixture
def store() -> PoolStore:
    return PoolStore()


@pytest.fixture
def metrics(store: PoolStore) -> Metrics:
    metrics = Metrics(transport="grpcio")
    store.subscribe(lambda changed: metrics.pools_changed(store, changed))
    return metrics


def use_everything(metrics: Metrics, pool: str) -> None:
    series = metrics.pool(pool)
    series.pick_seconds.observe(0.003)
    for outcome in Outcome:
        series.outcome(outcome)
    for reason in Reason:
        series.failed_open(reason)
        series.refused(reason)
        series.response_passthrough(reason)


def test_the_families_are_the_documented_ones(metrics: Metrics, store: PoolStore) -> None:
    store.publish({LLAMA: snapshot(LLAMA, ready=1)})
    use_everything(metrics, "default/llama")
    metrics.xds_pushes.labels("eds").inc()
    metrics.xds_nacks.labels("eds").inc()
    found = {
        family.name: (
            family.type,
            {label for sample in family.samples for label in sample.labels} - {"le"},
        )
        for family in text_string_to_metric_families(metrics.exposition().decode())
        if not family.name.endswith("_created")
    }
    assert found == FAMILIES


@pytest.mark.parametrize("outcome", Outcome)
def test_an_outcome_counts_once_for_its_pool_alone(metrics: Metrics, outcome: Outcome) -> None:
    metrics.pool("default/qwen")
    metrics.pool("default/llama").outcome(outcome)
    for other in Outcome:
        for pool in ("default/llama", "default/qwen"):
            expected = 1 if (other, pool) == (outcome, "default/llama") else 0
            assert value(metrics, "epp_client_requests_total", pool=pool, outcome=other) == expected


@pytest.mark.parametrize(
    ("count", "name"),
    [
        ("failed_open", "epp_client_fail_open_total"),
        ("refused", "epp_client_refused_total"),
        ("response_passthrough", "epp_client_response_passthrough_total"),
    ],
)
def test_a_reason_is_the_label(metrics: Metrics, count: str, name: str) -> None:
    getattr(metrics.pool("default/llama"), count)(Reason.PICKER_TIMEOUT)
    assert value(metrics, name, pool="default/llama", reason="picker_timeout") == 1


def test_pick_buckets_reach_from_half_a_millisecond_to_ten_seconds(metrics: Metrics) -> None:
    metrics.pool("default/llama").pick_seconds.observe(0.0004)
    name = "epp_client_pick_seconds_bucket"
    assert (PICK_BUCKETS[0], PICK_BUCKETS[-1]) == (0.0005, 10)
    assert value(metrics, name, pool="default/llama", le="0.0005") == 1


def test_gauges_follow_the_store(metrics: Metrics, store: PoolStore) -> None:
    store.publish(
        {LLAMA: snapshot(LLAMA, ready=2, draining=1)}, (Problem(Severity.WARNING, "odd"),)
    )
    assert value(metrics, "epp_client_pools") == 1
    assert value(metrics, "epp_client_manifest_problems", severity="warning") == 1
    assert value(metrics, "epp_client_manifest_problems", severity="error") == 0
    assert value(metrics, "epp_client_endpoints", pool="default/llama", state="ready") == 2
    assert value(metrics, "epp_client_endpoints", pool="default/llama", state="draining") == 1
    assert value(metrics, "epp_client_picker_addresses", pool="default/llama") == 2


def test_a_deleted_pool_is_scraped_once_more_and_then_gone(
    metrics: Metrics, store: PoolStore
) -> None:
    store.publish({LLAMA: snapshot(LLAMA, ready=1), QWEN: snapshot(QWEN)})
    use_everything(metrics, "default/llama")
    metrics.pool("default/qwen").outcome(Outcome.STEERED)
    store.publish({QWEN: snapshot(QWEN)})
    assert value(metrics, "epp_client_endpoints", pool="default/llama", state="ready") is None
    last, _ = metrics.scrape("")
    assert pools_named(last.decode()) == {"default/llama", "default/qwen"}
    after, _ = metrics.scrape("")
    assert pools_named(after.decode()) == {"default/qwen"}


def test_a_deleted_pool_stays_until_its_last_request_has_ended(
    metrics: Metrics, store: PoolStore
) -> None:
    store.publish({LLAMA: snapshot(LLAMA)})
    metrics.pool("default/llama").in_flight.inc()
    store.publish({})
    for _ in range(2):
        metrics.scrape("")
    assert value(metrics, "epp_client_in_flight", pool="default/llama") == 1
    metrics.pool("default/llama").in_flight.dec()
    metrics.pool("default/llama").outcome(Outcome.STEERED)
    last, _ = metrics.scrape("")
    key = frozenset({("pool", "default/llama"), ("outcome", "steered")})
    assert samples(last.decode())["epp_client_requests_total", key] == 1
    assert pools_named(metrics.exposition().decode()) == set()


def test_a_pool_that_came_back_keeps_its_counters(metrics: Metrics, store: PoolStore) -> None:
    store.publish({LLAMA: snapshot(LLAMA)})
    metrics.pool("default/llama").outcome(Outcome.STEERED)
    store.publish({})
    store.publish({LLAMA: snapshot(LLAMA, ready=1)})
    for _ in range(2):
        metrics.scrape("")
    name = "epp_client_requests_total"
    assert value(metrics, name, pool="default/llama", outcome="steered") == 1


def test_refusals_for_unknown_pools_survive_every_change(
    metrics: Metrics, store: PoolStore
) -> None:
    metrics.pool("unknown").refused(Reason.POOL_UNKNOWN)
    store.publish({LLAMA: snapshot(LLAMA)})
    store.publish({})
    for _ in range(2):
        metrics.scrape("")
    assert value(metrics, "epp_client_refused_total", pool="unknown", reason="pool_unknown") == 1


def test_two_registries_share_nothing() -> None:
    one, other = Metrics("grpcio"), Metrics("grpcio")
    one.pool("default/llama").outcome(Outcome.STEERED)
    assert pools_named(other.exposition().decode()) == set()


def test_openmetrics_is_given_to_who_asks(metrics: Metrics) -> None:
    use_everything(metrics, "default/llama")
    body, content_type = metrics.scrape("application/openmetrics-text;version=1.0.0")
    assert content_type.startswith("application/openmetrics-text")
    assert "epp_client_requests" in {f.name for f in openmetrics_families(body.decode())}  # type: ignore[no-untyped-call]
