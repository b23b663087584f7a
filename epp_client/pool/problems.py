"""Problem: one fault in a manifest or an object, with its place. Pure."""

from enum import StrEnum
from typing import NamedTuple

Path = tuple[str | int, ...]


class Severity(StrEnum):
    """ERROR: the object cannot be used. WARNING: it is used."""

    ERROR = "error"
    WARNING = "warning"


class Fault(NamedTuple):
    """A fault in one object, without the place of the object."""

    path: Path
    text: str
    severity: Severity = Severity.ERROR


class Problem(NamedTuple):
    """A fault with its place: `pools.yaml:12 InferencePool default/llama spec.x[1].y: text`."""

    severity: Severity
    text: str
    subject: str = ""
    """`InferencePool default/llama`."""
    field: str = ""
    """`spec.targetPorts[1].number`."""
    file: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.file and self.line else self.file
        head = " ".join(part for part in (place, self.subject, self.field) if part)
        return f"{head}: {self.text}" if head else self.text


def dotted(path: Path) -> str:
    """`("spec", "targetPorts", 1, "number")` as `spec.targetPorts[1].number`."""
    out = ""
    for part in path:
        if isinstance(part, int):
            out += f"[{part}]"
        elif "." in part or "/" in part:
            out += f"[{part!r}]"
        else:
            out += f".{part}" if out else part
    return out
