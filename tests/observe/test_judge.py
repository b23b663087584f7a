"""What is wrong, how badly, and since when."""

from collections.abc import Mapping
from typing import Any

import pytest

from epp_client.errors import Reason
from epp_client.metrics.counters import UNKNOWN_POOL, Counters, PoolCounters
from epp_client.observe.interval import NOTHING, Interval, Reading, between
from epp_client.observe.judge import MAX_FINDINGS, Judge, Judgement, Level, as_json, subjects
from epp_client.observe.looks import Look
from epp_client.picker.health import Health
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.problems import Problem, Severity
from epp_client.relay.outcome import Outcome
from tests.observe.made import LLAMA, PICKER, QWEN, look, pool

OTHER = "10.9.0.2:9002"


def minute(
    steered: int = 0,
    *,
    refused: Mapping[Reason, int] | None = None,
    opened: Mapping[Reason, int] | None = None,
    broken: int = 0,
) -> Interval:
    """The requests of a minute."""
    counters = PoolCounters()
    counters.outcomes[Outcome.STEERED] = steered
    for reason, count in (refused or {}).items():
        counters.outcomes[Outcome.REFUSED] += count
        counters.refused[reason] = count
    for reason, count in (opened or {}).items():
        counters.outcomes[Outcome.FAILED_OPEN] += count
        counters.failed_open[reason] = count
    if broken:
        counters.endpoint_failures[Reason.ENDPOINT_TIMEOUT] = broken
    return between(NOTHING, Reading.of(counters))


def judged(now: Look, requests: Mapping[str, Interval] | None = None) -> Judgement:
    return Judge().judge(now, None, requests or {})


def kinds(judgement: Judgement) -> list[tuple[Level, str, str]]:
    return [(one.level, one.subject, one.kind) for one in judgement.findings]


def test_nothing_is_wrong() -> None:
    found = judged(look(pool(LLAMA), pool(QWEN)), {LLAMA: minute(100)})
    assert (found.level, found.findings) == (Level.OK, ())
    assert "2 pools" in found.headline


def test_no_pool_is_not_two_pools() -> None:
    assert judged(look()).headline == "no pool is served"


def test_a_pool_refuses_for_want_of_pods_and_its_selector_is_named() -> None:
    now = look(pool(LLAMA), pool(QWEN, ready=()), pool("default/phi"))
    found = judged(now, {QWEN: minute(refused={Reason.NO_READY_ENDPOINT: 9})})
    assert kinds(found) == [(Level.FAILING, QWEN, "refuses")]
    assert "1 of 3 pools refuses" in found.headline
    assert "no ready Pod matches app=qwen" in found.headline
    assert found.findings[0].runbook == "no-ready-endpoint"
    assert found.findings[0].action


def test_several_pools_are_counted() -> None:
    requests = {name: minute(refused={Reason.PICKER_TIMEOUT: 5}) for name in (LLAMA, QWEN)} | {
        "default/phi": minute(10, opened={Reason.PICKER_ERROR: 5})
    }
    found = judged(look(pool(LLAMA), pool(QWEN), pool("default/phi")), requests)
    assert "2 of 3 pools refuse" in found.headline
    assert subjects(found.findings) == dict.fromkeys((LLAMA, QWEN, "default/phi"), Level.FAILING)


def test_refused_requests_come_before_those_served_without_the_picker() -> None:
    requests = {
        LLAMA: minute(opened={Reason.PICKER_TIMEOUT: 5}),
        QWEN: minute(refused={Reason.PICKER_UNREACHABLE: 5}),
    }
    found = judged(look(pool(LLAMA), pool(QWEN)), requests)
    assert [finding.kind for finding in found.findings[:2]] == ["refuses", "fails-open"]
    # The headline is read from afar: how many requests it were is in the finding.
    assert found.headline == (
        f"1 of 2 pools refuses: {QWEN}: the endpoint picker could not be connected to; 1 fails open"
    )
    assert "5 of 5 requests" in found.findings[0].text


@pytest.mark.parametrize(("steered", "level"), [(99, Level.FAILING), (100, Level.DEGRADED)])
@pytest.mark.parametrize("what", ["refused", "opened", "broken"])
def test_one_in_a_hundred_is_much(what: str, steered: int, level: Level) -> None:
    reason = {Reason.PICKER_ERROR: 1}
    requests = {
        "refused": minute(steered, refused=reason),
        "opened": minute(steered, opened=reason),
        # Such a request was steered.
        "broken": minute(steered + 1, broken=1),
    }[what]
    found = judged(look(pool(LLAMA)), {LLAMA: requests})
    assert found.level is level
    assert len(found.findings) == 1


def test_the_most_frequent_reason_is_named() -> None:
    refused = {Reason.OVERLOADED: 1, Reason.PICK_OUTSIDE_POOL: 5}
    found = judged(look(pool(LLAMA)), {LLAMA: minute(refused=refused)})
    assert "outside the InferencePool" in found.findings[0].text


@pytest.mark.parametrize(
    ("snapshot", "health", "kind"),
    [
        (pool(LLAMA, ready=()), {}, ["no-endpoint"]),
        (pool(LLAMA, ready=(), draining=(1,)), {}, ["no-endpoint"]),
        # Not listed yet: nothing is known about it.
        (pool(LLAMA, ready=(), synced=False), {}, []),
        (pool(LLAMA, pickers=None), {}, []),
        (pool(LLAMA, pickers=(), problem="Service default/epp does not exist"), {}, ["picker"]),
        (pool(LLAMA), {PICKER: Health.UNREACHABLE}, ["picker"]),
        (pool(LLAMA), {PICKER: Health.NOT_SERVING}, ["picker"]),
        # A standby beside a leader is how pickers are meant to run.
        (pool(LLAMA, pickers=(PICKER, OTHER)), {OTHER: Health.NOT_SERVING}, []),
        (pool(LLAMA, pickers=(PICKER, OTHER)), {OTHER: Health.SILENT}, ["picker"]),
    ],
)
def test_what_the_next_request_would_meet(
    snapshot: object, health: Mapping[str, Health], kind: list[str]
) -> None:
    found = judged(look(snapshot, health=health))  # type: ignore[arg-type]
    assert kinds(found) == [(Level.DEGRADED, LLAMA, one) for one in kind]


@pytest.mark.parametrize(
    ("mode", "then"),
    [(FailureMode.FAIL_OPEN, "served without it"), (FailureMode.FAIL_CLOSE, "refused")],
)
def test_what_becomes_of_requests_without_a_picker(mode: FailureMode, then: str) -> None:
    found = judged(look(pool(LLAMA, mode=mode), health={PICKER: Health.UNREACHABLE}))
    assert then in found.findings[0].text


def test_pools_that_do_not_exist() -> None:
    found = judged(look(pool(LLAMA)), {UNKNOWN_POOL: minute(refused={Reason.POOL_UNKNOWN: 3})})
    assert kinds(found) == [(Level.FAILING, "", "refuses")]
    assert "unknown" in found.headline


def test_the_sidecar_itself() -> None:
    counters = Counters()
    counters.restarts = 2
    now = look(
        pool(LLAMA),
        counters=counters,
        reasons={"pools": "not read yet"},
        problems=(Problem(Severity.ERROR, "no ports"), Problem(Severity.WARNING, "old")),
        envoys=0,
        nacks=3,
    )
    before = look(pool(LLAMA), at=40.0, nacks=1)
    found = Judge().judge(now, before, {})
    assert kinds(found) == [
        (Level.FAILING, "", "not-ready-pools"),
        (Level.DEGRADED, "", "no-envoy"),
        (Level.DEGRADED, "", "nacks"),
        (Level.DEGRADED, "", "restarts"),
        (Level.DEGRADED, "", "objects"),
    ]


def test_since_when_and_again_after_a_pause() -> None:
    judge = Judge()
    bad, good = {QWEN: minute(refused={Reason.OVERLOADED: 1})}, {QWEN: minute(5)}
    found = [
        judge.judge(look(pool(QWEN), at=at), None, requests).findings
        for at, requests in [(10.0, bad), (20.0, bad), (30.0, good), (40.0, bad)]
    ]
    assert [[one.since for one in findings] for findings in found] == [[10.0], [10.0], [], [40.0]]


def test_findings_are_bounded_and_the_worst_stay() -> None:
    pools = [pool(f"default/p{number}", ready=()) for number in range(2 * MAX_FINDINGS)]
    worst = "default/p99"
    found = judged(look(*pools), {worst: minute(refused={Reason.OVERLOADED: 1})})
    assert (len(found.findings), found.hidden) == (MAX_FINDINGS, MAX_FINDINGS)
    assert found.findings[0].subject == worst


def test_as_data() -> None:
    found: dict[str, Any] = as_json(judged(look(pool(LLAMA, ready=()))))
    assert found["level"] == "degraded"
    [finding] = found["findings"]
    assert (finding["level"], finding["subject"]) == ("degraded", LLAMA)
    assert "runbook.md#no-ready-endpoint" in finding["runbook"]
