"""What is read from the output of the official suites, and how they are told what to run."""

from pathlib import Path

from testbed.cluster.api import Object
from testbed.conformance.pairs import name_of, objects, service
from testbed.conformance.progress import Progress
from testbed.conformance.suites import SUITES

OUTPUT = """\
\x16=== RUN   TestConformance
    conformance.go:388: 2026-11-29T20:46:00.1Z: Test Setup: Applying base manifests
    helpers.go:283: 2026-11-29T20:46:01.1Z: infra/a Gateway not Accepted yet
    helpers.go:283: 2026-11-29T20:46:02.1Z: infra/a Gateway not Accepted yet
=== RUN   TestConformance/One
=== RUN   TestConformance/One/0_request
\x16    --- PASS: TestConformance/One (1.50s)
        --- PASS: TestConformance/One/0_request (0.50s)
=== RUN   TestConformance/Two
    two.go:1:
        \tError:      \tReceived unexpected error:
        \tMessages:   \tno answer came
        --- FAIL: TestConformance/Two/0_request (2.00s)
    --- FAIL: TestConformance/Two (2.10s)
=== RUN   TestConformance/Three
    --- SKIP: TestConformance/Three (0.00s)
"""


def _shown(progress: Progress, output: str) -> list[str]:
    return [text for line in output.splitlines() for text in progress.read(line)]


def test_each_test_that_is_not_skipped_has_a_line_when_it_ends() -> None:
    progress = Progress()
    assert _shown(progress, OUTPUT) == [
        "set-up: Applying base manifests",
        "set-up: infra/a Gateway not Accepted yet",
        "PASS One in 1.5 s (1 passed, 0 failed)",
        "  FAIL Two/0_request",
        "FAIL Two in 2.1 s (1 passed, 1 failed)",
    ]
    assert [progress.count(outcome) for outcome in ("PASS", "FAIL", "SKIP")] == [1, 1, 1]
    assert progress.failures == ["no answer came"]
    assert not progress.finished
    assert _shown(progress, "--- FAIL: TestConformance (9.00s)") == []
    assert progress.finished


def test_a_test_that_is_paused_does_not_run() -> None:
    progress = Progress()
    steps = ("RUN   A", "PAUSE A", "RUN   B", "CONT  A", "RUN   A/part")
    seen = []
    for step in steps:
        _shown(progress, f"=== {step[:6]}TestConformance/{step[6:]}")
        seen.append(list(progress.running))
    assert seen == [["A"], [], ["B"], ["B", "A"], ["B", "A"]]
    _shown(progress, "    --- PASS: TestConformance/B (1.00s)")
    assert progress.running == ["A"]


def test_a_failure_of_the_set_up_is_shown_with_what_it_said() -> None:
    progress = Progress()
    said = "        \tMessages:   \tnamespaces are not ready\n--- FAIL: TestConformance (9.00s)"
    assert _shown(progress, said) == ["FAIL outside of tests: namespaces are not ready"]


def test_a_suite_is_told_its_class_its_report_and_one_test() -> None:
    for suite in SUITES:
        flags = suite.flags(report=Path("/r.yaml"), run="One", more=["-debug"])
        assert {"-gateway-class=epp-client", "-report-output=/r.yaml", "-run-test=One"} < set(flags)
        assert f"-conformance-profiles={suite.profile}" in flags
        assert flags[-1] == "-debug"
        assert not [f for f in suite.flags() if f.startswith(("-run-test", "-report-output"))]


def test_a_pair_has_the_ports_of_the_listeners_and_goes_with_its_gateway() -> None:
    gateway: Object = {
        "metadata": {"name": "g", "namespace": "n", "uid": "u"},
        "spec": {"listeners": [{"port": 443}, {"port": 80}, {"port": 443}]},
    }
    assert [port["port"] for port in service(gateway)["spec"]["ports"]] == [80, 443]
    long = {**gateway, "metadata": {**gateway["metadata"], "name": "g" * 60}}
    assert len(name_of(long)) == len(service(long)["metadata"]["name"]) == 63
    assert name_of({"metadata": {"name": "g" * 61}}) != name_of(long)
    owned = [
        item for item in objects(gateway, "198.51.100.130") if item["kind"] != "ClusterRoleBinding"
    ]
    assert {item["metadata"]["ownerReferences"][0]["uid"] for item in owned} == {"u"}
