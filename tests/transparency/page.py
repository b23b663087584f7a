"""The tables in docs/transparency.md, made from what the suite checks. Pure."""

from pathlib import Path

from chaos.figures import replaced
from tests.transparency.differences import DIFFERENCES
from tests.transparency.kinds import ANSWERS, REQUESTS
from tests.transparency.matrix import ALONE_FAILS, DIALECTS, EVERYTHING, cases

PAGE = Path(__file__).parents[2] / "docs" / "transparency.md"
COMMAND = "python -m tests.transparency"


def generated(page: str) -> str:
    """The page with its tables written anew."""
    for name, text in _tables().items():
        page = replaced(page, name, text, command=COMMAND)
    return page


def _tables() -> dict[str, str]:
    differences = ["| name | where | why |", "|---|---|---|"]
    for entry in DIFFERENCES:
        fields = ", ".join(f"`{field}`" for field in entry.fields)
        differences.append(f"| {entry.name} | {fields} | {entry.why} |")
    failures = ["| picker | request | answer | Envoy alone | why |", "|---|---|---|---|---|"]
    for failure in ALONE_FAILS:
        said = "no answer" if failure.outcome == "silent" else f"{failure.outcome}"
        failures.append(
            f"| {failure.dialect} | {failure.request} | {failure.answer} | {said} | {failure.why} |"
        )
    every = cases()
    whole = [case for case in every if case.modes == EVERYTHING]
    matrix = [
        f"- {len(DIALECTS)} dialects of pickers: {', '.join(DIALECTS)}",
        f"- {len(REQUESTS)} kinds of requests: {', '.join(REQUESTS)}",
        f"- {len(ANSWERS)} kinds of answers: {', '.join(ANSWERS)}",
        "- HTTP/1.1 and h2c to the model servers, `override_host` and ORIGINAL_DST, both transports",
        f"- {len(whole)} cases, in which every two of these meet",
        f"- {len(every) - len(whole)} more in which the picker gets the headers of requests alone "
        "(`request-mode: headers`), in each `response-mode`; Envoy alone then sends it the same",
    ]
    return {
        "matrix": "\n".join(matrix) + "\n",
        "differences": "\n".join(differences) + "\n",
        "failures": "\n".join(failures) + "\n",
    }
