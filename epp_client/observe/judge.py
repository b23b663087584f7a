"""The judgement: is anything wrong, since when, and what should a person do. Pure.

It looks at the last minute of requests, and at what would go wrong with the next request.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from epp_client.errors import ADVICE, Reason
from epp_client.ext_proc.replies import describe
from epp_client.metrics.counters import UNKNOWN_POOL
from epp_client.observe.interval import QUIET, Counts, Interval
from epp_client.observe.looks import Look
from epp_client.picker.health import OPEN, USABLE, Health
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.problems import Severity
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.outcome import Outcome

MUCH: Final = 0.01
"""Share of a pool's requests from which trouble is FAILING."""
MAX_FINDINGS: Final = 50
"""Findings of one judgement, the worst first."""
RUNBOOK: Final = "docs/runbook.md"


class Level(IntEnum):
    """How bad it is. `epp-client status` exits with it."""

    OK = 0
    DEGRADED = 1
    """Something is wrong, and requests are served as they should be, or nearly all."""
    FAILING = 2
    """Requests are refused, or served without their picker."""


class Finding(NamedTuple):
    """One trouble."""

    level: Level
    subject: str
    """`namespace/name` of a pool, or empty."""
    kind: str
    """What it is, in one word that does not change. With `subject` it identifies the finding."""
    text: str
    action: str
    """What to do."""
    runbook: str
    """Heading of the runbook, as in a URL."""
    short: str = ""
    """`text` without its numbers, if it has some."""
    since: float = 0.0
    """Unix time in seconds at which it was found first."""


class Judgement(NamedTuple):
    """All that is wrong."""

    level: Level
    headline: str
    findings: tuple[Finding, ...]
    """The worst first."""
    hidden: int = 0
    """Findings that are left out."""


class Judge:
    """Remembers since when each trouble lasts."""

    def __init__(self) -> None:
        self._since: dict[tuple[str, str], float] = {}

    def judge(self, look: Look, before: Look | None, minute: Mapping[str, Interval]) -> Judgement:
        """Judge a look. `before` is a look of about a minute ago. `minute` has the requests since then of
        each pool that had some."""
        found = [*_of_sidecar(look, before)]
        for name in sorted(minute.keys() | look.snapshots.keys()):
            requests, snapshot = minute.get(name, QUIET), look.snapshots.get(name)
            health = look.counters.pickers.get(name, {})
            found += _of_pool(name, snapshot, requests, health)
        since = {}
        for finding in found:
            key = finding.subject, finding.kind
            since[key] = self._since.get(key, look.at)
        self._since = since
        found.sort(key=_rank)
        dated = [f._replace(since=since[f.subject, f.kind]) for f in found]
        level = dated[0].level if dated else Level.OK
        shown = tuple(dated[:MAX_FINDINGS])
        return Judgement(level, _headline(look, dated), shown, len(dated) - len(shown))


_WORST_FIRST: Final = ("refuses", "fails-open", "endpoints-fail")
_VERBS: Final = {"refuses": ("refuses", "refuse"), "fails-open": ("fails open", "fail open")}


def _rank(finding: Finding) -> tuple[int, bool, int]:
    """Those of the sidecar first, then refused requests."""
    kinds = _WORST_FIRST
    kind = kinds.index(finding.kind) if finding.kind in kinds else len(kinds)
    return -finding.level, bool(finding.subject), kind


def _headline(look: Look, findings: Sequence[Finding]) -> str:
    pools = len(look.snapshots)
    if not findings:
        return f"{_some(pools, 'pool')}, nothing to report" if pools else "no pool is served"
    worst = findings[0]
    text = worst.short or worst.text
    if worst.subject:
        text = f"{worst.subject}: {text}"
    if worst.level is Level.FAILING and worst.kind in _VERBS and worst.subject and pools > 1:
        said = {kind: _doing(findings, kind) for kind in _VERBS}
        count, verb = said.pop(worst.kind)
        others = [f"; {other} {does}" for other, does in said.values() if other]
        return f"{count} of {pools} pools {verb}: {text}{''.join(others)}"
    more = len({(finding.subject, finding.kind) for finding in findings}) - 1
    return f"{text}, and {more} more" if more else text


def _doing(findings: Sequence[Finding], kind: str) -> tuple[int, str]:
    """How many pools fail in this way, and that in words."""
    failing = (f for f in findings if f.kind == kind and f.level is Level.FAILING and f.subject)
    count = len({finding.subject for finding in failing})
    return count, _VERBS[kind][count > 1]


# --- one pool ---


def _of_pool(
    name: str, snapshot: PoolSnapshot | None, minute: Interval, health: Mapping[str, Health]
) -> Iterator[Finding]:
    subject = name if name != UNKNOWN_POOL else ""
    yield from _refusing(subject, snapshot, minute)
    yield from _opening(subject, minute)
    yield from _endpoints_failing(subject, minute)
    if snapshot is None or not snapshot.synced:
        return
    if not minute.refused and not snapshot.table.ready:
        yield Finding(
            Level.DEGRADED,
            subject,
            "no-endpoint",
            f"{_no_endpoint(snapshot)}; the next request will be refused",
            ADVICE[Reason.NO_READY_ENDPOINT],
            "no-ready-endpoint",
        )
    yield from _picker(subject, snapshot, health)


def _refusing(subject: str, snapshot: PoolSnapshot | None, minute: Interval) -> Iterator[Finding]:
    if not (refused := minute.outcome(Outcome.REFUSED)):
        return
    reason = _main(minute.refused)
    text = describe(reason) if reason is not None else "the reason is not known"
    if reason is Reason.NO_READY_ENDPOINT and snapshot is not None:
        text = _no_endpoint(snapshot)
    if not subject:
        text = f"requests for unknown pools are refused: {text}"
    yield Finding(
        _level(refused, minute),
        subject,
        "refuses",
        f"{text} ({_share(refused, minute)} refused)",
        ADVICE[reason] if reason is not None else "",
        "no-ready-endpoint" if reason is Reason.NO_READY_ENDPOINT else "requests-are-refused",
        short=text,
    )


def _opening(subject: str, minute: Interval) -> Iterator[Finding]:
    if not (opened := minute.outcome(Outcome.FAILED_OPEN)):
        return
    reason = _main(minute.failed_open)
    text = describe(reason) if reason is not None else "the picker is not used"
    yield Finding(
        _level(opened, minute),
        subject,
        "fails-open",
        f"{text} ({_share(opened, minute)} served without the picker)",
        ADVICE[reason] if reason is not None else "",
        "requests-fail-open",
        short=text,
    )


def _endpoints_failing(subject: str, minute: Interval) -> Iterator[Finding]:
    if not (failed := sum(minute.endpoint_failures.values())):
        return
    reason = _main(minute.endpoint_failures)
    assert reason is not None
    yield Finding(
        _level(failed, minute),
        subject,
        "endpoints-fail",
        f"{describe(reason)} ({_share(failed, minute)})",
        ADVICE[reason],
        "the-endpoint-fails",
        short=describe(reason),
    )


def _picker(
    subject: str, snapshot: PoolSnapshot, health: Mapping[str, Health]
) -> Iterator[Finding]:
    picker = snapshot.picker
    if picker is None:
        return
    closed = snapshot.pool.failure_mode is FailureMode.FAIL_CLOSE
    then = "refused" if closed else "served without it"
    if not picker.addresses:
        text = picker.problem or describe(Reason.PICKER_UNRESOLVED)
        advice = ADVICE[Reason.PICKER_UNRESOLVED]
        usable, bad = False, []
    else:
        states = {one: health.get(one, Health.UNTRIED) for one in picker.addresses}
        bad = [one for one, state in states.items() if state in OPEN or state is Health.TRIAL]
        usable = any(state in USABLE for state in states.values())
        shown = bad[0] if bad else picker.addresses[0]
        text = f"picker {shown} is {str(states[shown]).replace('_', ' ')}"
        text += f", {len(bad)} of {len(states)} addresses" if len(states) > 1 else ""
        advice = ADVICE[Reason.PICKER_UNHEALTHY]
    if not usable:
        text = f"{text}: no picker can be asked, requests are {then}"
    elif not bad:
        return
    yield Finding(Level.DEGRADED, subject, "picker", text, advice, "the-picker-does-not-answer")


def _no_endpoint(snapshot: PoolSnapshot) -> str:
    pool, table = snapshot.pool, snapshot.table
    selector = pool.selector or ",".join(f"{key}={value}" for key, value in pool.match_labels)
    if table.by_key:
        return f"all {_some(len(table.by_key), 'endpoint')} drain"
    return f"no ready Pod matches {selector}" if selector else "no endpoint is ready"


# --- the sidecar ---


def _of_sidecar(look: Look, before: Look | None) -> Iterator[Finding]:
    for condition, reason in look.reasons.items():
        yield Finding(
            Level.FAILING,
            "",
            f"not-ready-{condition}",
            f"the sidecar is not ready: {reason}",
            "Read its log, and /readyz.",
            "first-look",
        )
    if look.serves_xds and not look.envoys:
        yield Finding(
            Level.DEGRADED,
            "",
            "no-envoy",
            "no Envoy is connected for its configuration",
            "Is Envoy running, with a bootstrap of this version?",
            "no-envoy-is-connected",
        )
    if before is not None and (nacks := look.nacks - before.nacks) > 0:
        yield Finding(
            Level.DEGRADED,
            "",
            "nacks",
            f"Envoy rejected {_some(nacks, 'configuration')} in the last minute",
            "The log has Envoy's reason.",
            "envoy-rejects-a-configuration",
        )
    if before is not None and (died := look.counters.restarts - before.counters.restarts) > 0:
        yield Finding(
            Level.DEGRADED,
            "",
            "restarts",
            f"{_some(died, 'relay worker')} crashed in the last minute",
            "The log has the exit code.",
            "workers-restart",
        )
    errors = [problem for problem in look.problems if problem.severity is Severity.ERROR]
    if errors:
        yield Finding(
            Level.DEGRADED,
            "",
            "objects",
            f"{_some(len(errors), 'error')} in objects: {errors[0]}",
            "Mend the object; /pools lists all.",
            "the-pools-are-not-what-you-applied",
        )


# --- words ---


def _main(counts: Counts) -> Reason | None:
    """The most frequent reason."""
    return max(counts, key=lambda reason: counts[reason], default=None)


def _level(count: int, minute: Interval) -> Level:
    return Level.FAILING if count >= MUCH * minute.requests else Level.DEGRADED


def _share(count: int, minute: Interval) -> str:
    return f"{count:,} of {_some(minute.requests, 'request')} in the last minute"


def _some(count: int, word: str) -> str:
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def as_json(judgement: Judgement) -> dict[str, object]:
    """For the page and `epp-client status`."""
    return {
        "level": judgement.level.name.lower(),
        "headline": judgement.headline,
        "findings": [_finding(finding) for finding in judgement.findings],
        "hidden": judgement.hidden,
    }


def _finding(finding: Finding) -> dict[str, object]:
    return {
        **finding._asdict(),
        "level": finding.level.name.lower(),
        "runbook": f"{RUNBOOK}#{finding.runbook}",
    }


def subjects(findings: Iterable[Finding]) -> dict[str, Level]:
    """The worst level of each pool that has a finding."""
    levels: dict[str, Level] = {}
    for finding in findings:
        if finding.subject:
            levels[finding.subject] = max(finding.level, levels.get(finding.subject, Level.OK))
    return levels
