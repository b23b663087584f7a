"""What came of each check: a line while it runs, and a report in YAML. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import yaml

PASS, FAIL, SKIP = "PASS", "FAIL", "SKIP"


@dataclass(frozen=True)
class Result:
    """How a check ended."""

    name: str
    sentence: str
    outcome: str
    """PASS, FAIL or SKIP."""
    seconds: float
    text: str = ""
    """Why it failed or was skipped."""

    @property
    def line(self) -> str:
        """For the terminal."""
        said = f": {self.text}" if self.text else ""
        return f"{self.outcome} {self.name:<22} {self.seconds:6.1f} s{said}"


def passed(results: Sequence[Result]) -> bool:
    """Whether some check passed, and none failed."""
    outcomes = {result.outcome for result in results}
    return PASS in outcomes and FAIL not in outcomes


def summary(results: Sequence[Result]) -> str:
    """How many checks ended in which way."""
    counts = {o: sum(r.outcome == o for r in results) for o in (PASS, FAIL, SKIP)}
    return f"{counts[PASS]} passed, {counts[FAIL]} failed, {counts[SKIP]} skipped"


def report(gateway_class: str, controller: str, results: Sequence[Result]) -> str:
    """The report as YAML."""
    checks: list[dict[str, Any]] = []
    for result in results:
        checks.append(
            {
                "name": result.name,
                "asks": result.sentence,
                "result": result.outcome,
                "seconds": round(result.seconds, 1),
                **({"said": result.text} if result.text else {}),
            }
        )
    whole = {
        "suite": "strict",
        "gatewayClass": gateway_class,
        "controllerName": controller,
        "summary": summary(results),
        "checks": checks,
    }
    return str(yaml.safe_dump(whole, sort_keys=False, width=120))
