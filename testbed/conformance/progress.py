"""Reads the output of a suite as it comes: which tests begin, pass, fail. Pure."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

_ROOT = "TestConformance"
_RESULT = re.compile(r"^\s*--- (PASS|FAIL|SKIP): (\S+) \(([\d.]+)s\)")
_STEP = re.compile(rf"^=== (RUN|PAUSE|CONT)\s+{_ROOT}/([^/\s]+)$")
_MARK = "\x16"
"""Begins each line about a test, with -test.v=test2json."""
_SETUP = re.compile(r"Test Setup: (.*)")
_WAITING = re.compile(r"\dZ: (.* yet)$")
_FAILURE = re.compile(r"^\s+(?:Error|Messages):\s+(?!Received unexpected error)(\S.*)")


@dataclass(frozen=True)
class Result:
    """How a test ended."""

    name: str
    outcome: str
    """`PASS`, `FAIL` or `SKIP`."""
    seconds: float

    @property
    def depth(self) -> int:
        """1 for a test, more for its parts."""
        return self.name.count("/")

    @property
    def short(self) -> str:
        """Its name without that of the whole."""
        return self.name.removeprefix(f"{_ROOT}/")


@dataclass
class Progress:
    """What is known of a run so far."""

    results: list[Result] = field(default_factory=list)
    """Of tests, without their parts."""
    failures: list[str] = field(default_factory=list)
    """What failed assertions said, outside of tests too."""
    finished: bool = False
    """Whether the suite came to its end."""
    running: list[str] = field(default_factory=list)
    """The tests that run now. Those that may run in parallel are paused at first."""
    _waiting: set[str] = field(default_factory=set)

    def count(self, outcome: str) -> int:
        """How many tests ended so."""
        return sum(result.outcome == outcome for result in self.results)

    def read(self, line: str) -> Iterator[str]:
        """Take a line of output; what to show for it."""
        line = line.replace(_MARK, "")
        if match := _SETUP.search(line):
            yield f"set-up: {match[1]}"
        elif match := _STEP.match(line):
            if match[2] in self.running:
                self.running.remove(match[2])
            if match[1] != "PAUSE":
                self.running.append(match[2])
        elif match := _RESULT.match(line):
            yield from self._ended(Result(match[2], match[1], float(match[3])))
        elif (match := _WAITING.search(line)) and match[1] not in self._waiting:
            self._waiting.add(match[1])
            # Only of the set-up: a test that waits says so in its log.
            if not self.results:
                yield f"set-up: {match[1]}"
        elif (match := _FAILURE.match(line)) and match[1] not in self.failures:
            self.failures.append(match[1])

    def _ended(self, result: Result) -> Iterator[str]:
        if result.depth == 0:
            self.finished = True
            if result.outcome == "FAIL" and not self.count("FAIL"):
                yield f"FAIL outside of tests: {'; '.join(self.failures[-3:])}"
        elif result.depth == 1:
            self.results.append(result)
            if result.short in self.running:
                self.running.remove(result.short)
            if result.outcome == "SKIP":
                # For most: it is of a feature that is not declared.
                return
            passed, failed = self.count("PASS"), self.count("FAIL")
            yield (
                f"{result.outcome} {result.short} in {result.seconds:.1f} s "
                f"({passed} passed, {failed} failed)"
            )
        elif result.outcome == "FAIL":
            yield f"  FAIL {result.short}"
