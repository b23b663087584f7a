"""docs/reference/metrics.md: the families of a scrape in which every label occurs."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from epp_client.errors import ApiFault, LeftOut, Reason
from epp_client.kubernetes.status.report import WriteResult
from epp_client.metrics.certificates import LABELS as CERTIFICATE
from epp_client.metrics.certificates import CertificateSource
from epp_client.metrics.counters import Counters
from epp_client.metrics.registry import Metrics
from epp_client.metrics.requests import POOL
from epp_client.picker.health import Health
from epp_client.relay.outcome import Eviction, Outcome
from reference.text import code, table, values_table

_VALUES: Final[tuple[tuple[str, str, type[StrEnum]], ...]] = (
    ("epp_client_requests_total", "outcome", Outcome),
    ("epp_client_evictions_total", "result", Eviction),
    ("epp_client_answers_left_out_total", "what", LeftOut),
    ("epp_client_api_faults_total", "fault", ApiFault),
    ("epp_client_status_writes_total", "result", WriteResult),
)
_HEAD = """\
# Metrics

`/metrics` on the admin address (`--admin`, port 9902) has these, in the Prometheus text format or OpenMetrics. Alerts are in
`config/prometheus`, a dashboard is in `config/grafana`; the [runbook](../runbook.md) says what to do. The `epp_client_api_*`
metrics exist with `--kubernetes`, the `epp_client_status_*` metrics with `--gateway`, the `epp_client_config_*` metrics with files of
pools. `namespace` and `pool` are those of the InferencePool; requests for a pool that does not exist have `pool="unknown"` and
no namespace.

Each pool has its series from the start, with 0, for up to 100 pools; others come when something happens. Prometheus must keep our label
`namespace`: set `honor_labels: true`, as the PodMonitor does (`honorLabels`). Otherwise it is renamed to `exported_namespace`.

"""


class _Api:
    """An API source that has one of everything."""

    def stale(self) -> float:
        return 0.0

    def asked(self) -> Mapping[str, int]:
        return {"list": 1, "watch": 1}

    def faults(self) -> Mapping[str, int]:
        return dict.fromkeys(ApiFault, 1)

    def events(self) -> int:
        return 1

    def status_writes(self) -> Mapping[str, int]:
        return dict.fromkeys(WriteResult, 1)

    def status_leader(self) -> bool:
        return True


def metrics() -> str:
    """Every metric, and what the values of its labels mean."""
    sections = [_HEAD + table(["metric", "type", "labels", "meaning"], _rows())]
    for metric, label, kind in _VALUES:
        sections.append(f"## `{label}` of `{metric}`\n\n{values_table(kind)}")
    sections.append(
        "## Other labels\n\n"
        "- `reason`: see [reasons](reasons.md).\n"
        "- `use` of `epp_client_certificate_not_after_seconds`: `listener` (a Secret of a Gateway's listener, with its "
        "namespace and name), `picker_client` and `picker_ca` (the files of `--picker-cert` and `--picker-ca` and of "
        "annotations; `name` is the path).\n"
        "- `state` of `epp_client_picker_addresses`: see [picker states](picker-states.md).\n"
        "- `state` of `epp_client_endpoints`: `ready`, or `draining` (no longer ready, still a valid pick "
        "for `drain-grace`).\n"
        "- `severity` of `epp_client_problems`: `error` or `warning`.\n"
        "- `type` of `epp_client_xds_*`: `cds`, `eds`, and for a Gateway `lds`, `rds` and `sds`.\n"
        "- `verb` of `epp_client_api_requests_total`: `list` or `watch`.\n"
    )
    return "\n".join(sections)


def _rows() -> list[list[str]]:
    shown = Metrics("native")
    shown.follow_api(_Api())
    shown.reloads.reloaded(True)
    shown.follow_certificates(CertificateSource(dict, list))
    shown.endpoints.labels("", "", "ready")
    shown.problems.labels("error")
    shown.xds_pushes.labels("eds")
    shown.xds_nacks.labels("eds")
    counters = Counters()
    numbers = counters.pool("")
    numbers.fail_open(Reason.OVERLOADED)
    numbers.refuse(Reason.OVERLOADED)
    numbers.pass_through(Reason.OVERLOADED)
    numbers.endpoint_fail(Reason.ENDPOINT_TIMEOUT)
    numbers.leave_out(LeftOut.STATUS, 1)
    numbers.evict(Eviction.RESET)
    counters.pickers[""] = {"": Health.SERVING}
    shown.scrape(counters)
    rows = []
    for family in shown.registry.collect():
        labels = {name for sample in family.samples for name in sample.labels} - {"le"}
        if family.name == "epp_client_certificate_not_after_seconds":
            labels = set(CERTIFICATE)
        # The pool first, as in every query.
        ordered = sorted(labels, key=lambda name: (name not in POOL, name))
        name = family.name + ("_total" if family.type == "counter" else "")
        rows.append([code(name), family.type, ", ".join(map(code, ordered)), family.documentation])
    return sorted(rows)
