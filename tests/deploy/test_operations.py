"""Runbook, alerts and dashboard are complete, and name only metrics, reasons and anchors that exist."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from epp_client.errors import LeftOut, Reason
from epp_client.metrics.certificates import CertificateSource
from epp_client.relay.outcome import Eviction
from tests.admin.fleet import Fleet, Followed
from tests.admin.test_metrics import certificate
from tests.deploy.test_docs import DOCUMENTS

ROOT = Path(__file__).parents[2]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
PROMETHEUS = ROOT / "config" / "prometheus"
RULES = yaml.safe_load((PROMETHEUS / "rules.yaml").read_text())["groups"]
ALERTS = {rule["alert"]: rule for group in RULES for rule in group["rules"] if "alert" in rule}
RECORDS = {rule["record"]: rule for group in RULES for rule in group["rules"] if "record" in rule}
DASHBOARD = json.loads((ROOT / "config" / "grafana" / "epp-client.json").read_text())


def scrape() -> dict[str, tuple[str, set[str]]]:
    """The type and labels of each metric, by the name that a query uses."""
    fleet = Fleet(2)
    fleet.metrics.xds_pushes.labels("cds").inc()
    fleet.metrics.xds_nacks.labels("cds").inc()
    fleet.metrics.follow_api(Followed())
    for reason in Reason:
        numbers = fleet.counters.pool("team-0/model-000")
        numbers.fail_open(reason)
        numbers.refuse(reason)
        numbers.pass_through(reason)
        numbers.endpoint_fail(reason)
    for what in LeftOut:
        numbers.leave_out(what, 1)
    for eviction in Eviction:
        numbers.evict(eviction)
    fleet.metrics.reloads.reloaded(True)
    fleet.metrics.follow_certificates(
        CertificateSource(lambda: {("a", "tls"): certificate(days=1)}, list)
    )
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(
        fleet.metrics.scrape(fleet.counters).body.decode()
    ):
        for sample in family.samples:
            if not sample.name.endswith("_created"):
                labels = found.setdefault(sample.name, (family.type, set()))[1]
                labels.update(sample.labels)
    return found


SCRAPE = scrape()


def anchors(text: str) -> set[str]:
    """The anchors that GitHub makes from headings."""
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", h.lower()).replace(" ", "-") for h in headings}


def sections(text: str) -> dict[str, str]:
    """The sections with a heading of level 2, by anchor."""
    parts = re.split(r"^## (.*)$", text, flags=re.MULTILINE)[1:]
    return {
        anchor: body
        for heading, body in zip(parts[::2], parts[1::2], strict=True)
        for anchor in anchors(f"# {heading}")
    }


def queries() -> list[str]:
    expressions = [rule["expr"] for rule in [*ALERTS.values(), *RECORDS.values()]]
    panels = [t["expr"] for panel in DASHBOARD["panels"] for t in panel.get("targets", [])]
    variables = [
        item["query"]["query"]
        for item in DASHBOARD["templating"]["list"]
        if isinstance(item["query"], dict)
    ]
    return [*expressions, *panels, *variables]


def test_the_reference_has_every_metric_with_its_type_and_labels() -> None:
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    rows = re.findall(
        r"^\| `((?:epp_client|process)_\w+)` \| (\w+) \| ([^|]*) \|", page, re.MULTILINE
    )
    said = {name: (kind, set(re.findall(r"\w+", labels))) for name, kind, labels in rows}
    found: dict[str, tuple[str, set[str]]] = {}
    for name, (kind, labels) in SCRAPE.items():
        family = re.sub(r"_(bucket|count|sum)$", "", name)
        found.setdefault(family, (kind, set()))[1].update(labels - {"le"})
    assert said == found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)<]+)\)", document.read_text()):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (document.parent / file).resolve() if file else document
        # `make bench` writes this folder.
        if "benchmarks/results/" not in target:
            assert there.exists(), target
        if anchor:
            assert anchor in anchors(there.read_text()), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_targets_of_make_exist(document: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    text = document.read_text()
    said = re.findall(r"`make ([a-z0-9-]+)", text)
    for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL):
        said += re.findall(r"^make ([a-z0-9-]+)", block, re.MULTILINE)
    for target in said:
        assert f"\n{target}:" in makefile, target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_tests_and_modules_that_are_named_exist(document: Path) -> None:
    text = document.read_text()
    for path in re.findall(r"`((?:tests|chaos|config|benchmarks|docs)/[\w./-]+)`", text):
        assert (ROOT / path).exists() or "results" in path, path
    for module in re.findall(r"python -m ((?:chaos|tests|benchmarks)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        assert path.is_dir() or path.with_suffix(".py").exists(), module


@pytest.mark.parametrize("name", ALERTS)
def test_an_alert_says_what_and_where_to_read_on(name: str) -> None:
    annotations = ALERTS[name]["annotations"]
    assert annotations["summary"]
    page, _, anchor = annotations["runbook_url"].partition("#")
    # Where `make docs` puts the runbook.
    assert page == "https://epp-client.dev/runbook.html"
    # The section is about this alert, and has what every section has.
    section = sections(RUNBOOK)[anchor]
    assert name in section
    for part in ("**Meaning.**", "**Look.**", "**Do.**"):
        assert part in section, part
    assert ALERTS[name]["labels"]["severity"] in {"critical", "warning", "info"}


QUOTED = {
    (page, words)
    for page in ("runbook.md", "operations.md", "pickers.md", "getting-started/existing-envoy.md")
    for words in re.findall(
        r"`([A-Za-z][a-z']*(?: [A-Za-z']+){2,})`", (ROOT / "docs" / page).read_text()
    )
}


@pytest.mark.parametrize(("page", "words"), sorted(QUOTED))
def test_what_a_page_quotes_is_said_somewhere(page: str, words: str) -> None:
    """Log lines and lines of `/readyz`, word by word."""
    del page
    package = (ROOT / "epp_client").rglob("*.py")
    assert any(words in re.sub(r'"\n\s*f?"', "", path.read_text()) for path in package)


def test_every_alert_in_the_runbook_exists() -> None:
    assert set(re.findall(r"\bEppClient\w+", RUNBOOK)) == ALERTS.keys()


def test_the_operators_rules_are_the_same() -> None:
    wrapped = yaml.safe_load((PROMETHEUS / "prometheusrule.yaml").read_text())
    assert wrapped["kind"] == "PrometheusRule"
    assert wrapped["spec"]["groups"] == RULES


@pytest.mark.parametrize("query", queries())
def test_queries_ask_for_metrics_and_labels_that_exist(query: str) -> None:
    asked = set(re.findall(r"\bepp_client_\w+", re.sub(r"pool:\w+:\w+", "", query)))
    assert asked <= SCRAPE.keys()
    assert set(re.findall(r"\bpool:epp_client_\w+:\w+", query)) <= RECORDS.keys()
    for name, matchers in re.findall(r"\b(epp_client_\w+)\{([^}]*)\}", query):
        assert set(re.findall(r"(\w+)=", matchers)) <= SCRAPE[name][1], query
    for group, inner in re.findall(r"by \(([^)]*)\) \((?:rate\()?(epp_client_\w+)", query):
        assert {label.strip() for label in group.split(",")} <= SCRAPE[inner][1], query


def test_counters_are_never_shown_bare() -> None:
    for query in queries():
        for name in re.findall(r"\bepp_client_\w+", re.sub(r"pool:\w+:\w+", "", query)):
            if SCRAPE[name][0] in ("counter", "histogram"):
                assert re.search(rf"(rate|increase)\({name}\b", query), query


def test_every_reason_in_a_query_exists() -> None:
    for query in queries():
        for pattern in re.findall(r'reason=~?"([^"]*)"', query):
            assert set(pattern.split("|")) <= set(map(str, Reason))


def test_the_dashboard_shows_every_metric() -> None:
    panels = [t["expr"] for panel in DASHBOARD["panels"] for t in panel.get("targets", [])]
    # A record stands for what it is made of.
    made = [RECORDS[name]["expr"] for name in re.findall(r"\bpool:[\w:]+", " ".join(panels))]
    shown = set(re.findall(r"\b(?:epp_client|process)_\w+", " ".join([*panels, *made])))
    hidden = {name for name in SCRAPE if not re.search(r"_(count|sum)$", name)} - shown
    assert hidden == set()


def test_the_dashboards_panels_are_whole() -> None:
    ids: list[Any] = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        area = {(at["x"] + i, at["y"] + k) for i in range(at["w"]) for k in range(at["h"])}
        assert not area & taken, panel["title"]
        assert at["x"] + at["w"] <= 24
        taken |= area
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"


def test_the_dashboards_links_lead_somewhere() -> None:
    for panel in DASHBOARD["panels"]:
        for file, anchor in re.findall(r"(docs/\S+)#(\S+)", panel.get("description", "")):
            assert anchor in anchors((ROOT / file).read_text())


def promtool(*arguments: str) -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("no promtool on PATH (it comes with Prometheus)")
    done = subprocess.run(
        [found, *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_rules() -> None:
    assert f"{len(ALERTS) + len(RECORDS)} rules found" in promtool("check", "rules", "rules.yaml")


def test_the_rules_do_what_their_tests_say() -> None:
    assert "SUCCESS" in promtool("test", "rules", "rules.test.yaml")


def test_every_alert_has_a_test() -> None:
    tested = {
        case["alertname"]
        for test in yaml.safe_load((PROMETHEUS / "rules.test.yaml").read_text())["tests"]
        for case in test.get("alert_rule_test", ())
        if case["exp_alerts"]
    }
    assert tested == ALERTS.keys()
