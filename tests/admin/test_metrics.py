"""The metrics as a scraper sees them: every exposition here goes through a parser."""

import os
import subprocess
import sys
import time
from bisect import bisect_left
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import MappingProxyType

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as openmetrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from epp_client.errors import LeftOut, Reason
from epp_client.metrics import registry
from epp_client.metrics.certificates import CertificateSource
from epp_client.metrics.counters import PICK_BUCKETS, Counters, PoolCounters, bucket
from epp_client.metrics.processes import ProcessCollector
from epp_client.metrics.registry import Metrics
from epp_client.metrics.requests import MAX_ZEROED
from epp_client.picker.health import Health
from epp_client.pool.endpoints import Endpoint, EndpointTable
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget, PoolSnapshot
from epp_client.pool.store import PoolStore
from epp_client.relay.outcome import Eviction, Outcome
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.version import VERSION
from tests.admin.fleet import Followed
from tests.e2e.tools import split

LLAMA, QWEN = PoolName("default", "llama"), PoolName("default", "qwen")

FAMILIES = {
    "epp_client_requests": ("counter", {"namespace", "pool", "outcome"}),
    "epp_client_pick_seconds": ("histogram", {"namespace", "pool"}),
    "epp_client_exchange_seconds": ("histogram", {"namespace", "pool"}),
    "epp_client_response_gap_seconds": ("histogram", {"namespace", "pool"}),
    "epp_client_fail_open": ("counter", {"namespace", "pool", "reason"}),
    "epp_client_refused": ("counter", {"namespace", "pool", "reason"}),
    "epp_client_response_passthrough": ("counter", {"namespace", "pool", "reason"}),
    "epp_client_answers_left_out": ("counter", {"namespace", "pool", "what"}),
    "epp_client_evictions": ("counter", {"namespace", "pool", "result"}),
    "epp_client_endpoint_failures": ("counter", {"namespace", "pool", "reason"}),
    "epp_client_endpoint_errors": ("counter", {"namespace", "pool"}),
    "epp_client_endpoints_passed_over": ("counter", {"namespace", "pool"}),
    "epp_client_in_flight": ("gauge", {"namespace", "pool"}),
    "epp_client_endpoints": ("gauge", {"namespace", "pool", "state"}),
    "epp_client_picker_addresses": ("gauge", {"namespace", "pool", "state"}),
    "epp_client_picker_retries": ("counter", {"namespace", "pool"}),
    "epp_client_bodies_not_retained": ("counter", {"namespace", "pool"}),
    "epp_client_retained_bytes": ("gauge", set()),
    "epp_client_workers": ("gauge", set()),
    "epp_client_worker_restarts": ("counter", set()),
    "epp_client_pools": ("gauge", set()),
    "epp_client_problems": ("gauge", {"severity"}),
    "epp_client_xds_pushes": ("counter", {"type"}),
    "epp_client_xds_nacks": ("counter", {"type"}),
    "epp_client_envoys_connected": ("gauge", set()),
    "epp_client_build_info": ("gauge", {"version", "transport", "compiled"}),
    "process_cpu_seconds": ("counter", set()),
    "process_resident_memory_bytes": ("gauge", set()),
    "process_virtual_memory_bytes": ("gauge", set()),
    "process_open_fds": ("gauge", set()),
    "process_max_fds": ("gauge", set()),
    "process_start_time_seconds": ("gauge", set()),
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


def value(sidecar: Sidecar, name: str, /, **labels: str) -> float | None:
    return samples(sidecar.scrape()).get((name, frozenset(split(labels).items())))


def pools_named(text: str) -> set[str]:
    """The pools that have a series."""
    found = {
        (dict(labels).get("namespace"), dict(labels).get("pool")) for _, labels in samples(text)
    }
    return {f"{namespace}/{pool}" for namespace, pool in found if namespace}


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


@pytest.mark.parametrize("compiled", [True, False])
def test_build_info_says_whether_the_hot_path_is_compiled(
    compiled: bool, store: PoolStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "hot_path_compiled", lambda: compiled)
    labels = {"version": VERSION, "transport": "grpcio", "compiled": str(compiled).lower()}
    assert value(Sidecar(store), "epp_client_build_info", **labels) == 1


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


@pytest.mark.parametrize("seconds", [0.0, *PICK_BUCKETS, 0.0004, 0.3, 299.9, 300.1, 1e9])
def test_a_time_falls_into_the_first_bucket_that_has_room_for_it(seconds: float) -> None:
    assert bucket(seconds) == bisect_left(PICK_BUCKETS, seconds)


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
    gone = frozenset({("namespace", "default"), ("pool", "llama"), ("state", "ready")})
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
    key = frozenset({("namespace", "default"), ("pool", "llama"), ("outcome", "steered")})
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
    assert (
        value(
            sidecar, "epp_client_refused_total", namespace="", pool="unknown", reason="pool_unknown"
        )
        == 1
    )


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


# --- series that exist from the start ---


def test_a_known_pool_has_its_reasons_from_the_start(sidecar: Sidecar, store: PoolStore) -> None:
    """A counter that begins with 1 has no rate: its first failure would raise no alert."""
    store.publish({LLAMA: snapshot(LLAMA)})
    for name, reason in (
        ("epp_client_refused_total", Reason.NO_READY_ENDPOINT),
        ("epp_client_refused_total", Reason.PICK_OUTSIDE_POOL),
        ("epp_client_fail_open_total", Reason.PICKER_TIMEOUT),
        ("epp_client_response_passthrough_total", Reason.PICKER_CLOSED),
        ("epp_client_endpoint_failures_total", Reason.ENDPOINT_TIMEOUT),
    ):
        assert value(sidecar, name, pool="default/llama", reason=reason) == 0
    assert value(sidecar, "epp_client_requests_total", pool="default/llama", outcome="steered") == 0
    assert value(sidecar, "epp_client_endpoint_errors_total", pool="default/llama") == 0
    # No such pool, so this reason is counted for none that is known.
    labels = {"pool": "default/llama", "reason": "pool_unknown"}
    assert value(sidecar, "epp_client_refused_total", **labels) is None
    nobody = {"namespace": "", "pool": "unknown", "reason": "pool_unknown"}
    assert value(sidecar, "epp_client_refused_total", **nobody) == 0


def test_the_first_rejected_configuration_is_an_increase(sidecar: Sidecar) -> None:
    for kind in ("cds", "eds", "lds", "rds", "sds"):
        assert value(sidecar, "epp_client_xds_nacks_total", type=kind) == 0


def test_the_series_that_exist_from_the_start_are_bounded(
    sidecar: Sidecar, store: PoolStore
) -> None:
    names = [PoolName("default", f"p{number:03}") for number in range(MAX_ZEROED + 5)]
    store.publish({name: snapshot(name) for name in names})
    last = sidecar.pool(str(names[-1]))
    last.refuse(Reason.PICKER_TIMEOUT)
    found = samples(sidecar.scrape())
    refused = [dict(labels) for name, labels in found if name == "epp_client_refused_total"]
    zeroed = {labels["pool"] for labels in refused if labels["namespace"]}
    assert zeroed == {name.name for name in (*names[:MAX_ZEROED], names[-1])}
    assert [labels["reason"] for labels in refused if labels["pool"] == names[-1].name] == [
        "picker_timeout"
    ]


def test_every_reason_that_is_counted_has_a_series(sidecar: Sidecar, store: PoolStore) -> None:
    """Also one that nobody expected of this counter."""
    store.publish({LLAMA: snapshot(LLAMA)})
    sidecar.pool("default/llama").pass_through(Reason.OVERLOADED)
    name = "epp_client_response_passthrough_total"
    assert value(sidecar, name, pool="default/llama", reason="overloaded") == 1


# --- files, certificates, processes ---


def test_a_reload_that_failed_keeps_the_time_of_the_last_good_one(
    sidecar: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok, when = (
        "epp_client_config_last_reload_successful",
        "epp_client_config_last_reload_success_timestamp_seconds",
    )
    assert value(sidecar, ok) is None, "no files"
    monkeypatch.setattr("epp_client.metrics.reloads.unix_time", lambda: 1000.0)
    sidecar.metrics.reloads.reloaded(True)
    monkeypatch.setattr("epp_client.metrics.reloads.unix_time", lambda: 2000.0)
    sidecar.metrics.reloads.reloaded(False)
    assert (value(sidecar, ok), value(sidecar, when)) == (0, 1000)


def certificate(*, days: int) -> bytes:
    """A self-signed certificate that is valid until so many days after 1970 began."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "any")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(1970, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=days))
        .sign(key, hashes.SHA256())
    )
    return made.public_bytes(Encoding.PEM)


def test_each_certificate_says_until_when_it_is_valid(sidecar: Sidecar, tmp_path: Path) -> None:
    client, authorities = tmp_path / "tls.crt", tmp_path / "ca.crt"
    client.write_bytes(certificate(days=2) + certificate(days=1))
    authorities.write_bytes(certificate(days=4) + certificate(days=5))
    served = {("inference", "tls"): certificate(days=3), ("inference", "broken"): b"none"}
    tls = ClientTls(mode=TlsMode.VERIFIED, ca_file=authorities, cert_file=client)
    sidecar.metrics.follow_certificates(
        CertificateSource(lambda: served, lambda: [tls, tls, ClientTls()])
    )
    name = "epp_client_certificate_not_after_seconds"

    def days(**labels: str) -> float:
        return (value(sidecar, name, **labels) or 0) / 86_400

    assert days(use="listener", namespace="inference", name="tls") == 3
    # Of a chain the leaf, of CAs the last one: a bundle may keep an old one.
    assert days(use="picker_client", namespace="", name=str(client)) == 2
    assert days(use="picker_ca", namespace="", name=str(authorities)) == 5
    assert len([1 for found, _ in samples(sidecar.scrape()) if found == name]) == 3
    served["inference", "tls"] = certificate(days=30)
    client.unlink()
    assert days(use="listener", namespace="inference", name="tls") == 30
    assert days(use="picker_client", namespace="", name=str(client)) == 0


def test_the_processes_are_measured_together(sidecar: Sidecar) -> None:
    names = {
        name: value(sidecar, name)
        for name in (
            *("process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"),
            *("process_max_fds", "process_start_time_seconds", "process_virtual_memory_bytes"),
        )
    }
    assert all(names.values()), names
    with subprocess.Popen(
        [sys.executable, "-c", "x = b'1' * 50_000_000; print(flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as child:
        assert child.stdin
        assert child.stdout
        child.stdout.readline()
        more = value(sidecar, "process_resident_memory_bytes")
        assert more is not None
        assert more > (names["process_resident_memory_bytes"] or 0) + 50e6
        before = value(sidecar, "process_cpu_seconds_total") or 0
        child.stdin.close()
        child.wait()
    assert (value(sidecar, "process_cpu_seconds_total") or 0) >= before, "it fell at an exit"
    started = names["process_start_time_seconds"] or 0
    assert abs(time.time() - _age() - started) < 2


def _age() -> float:
    """Seconds since this process started, by `ps`."""
    command = ["ps", "-o", "etimes=", "-p", str(os.getpid())]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)


def test_without_proc_there_are_no_processes(tmp_path: Path) -> None:
    assert list(ProcessCollector(tmp_path).collect()) == []
