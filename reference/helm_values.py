"""docs/reference/helm-values.md: the values of the Helm chart, from the comments in its values.yaml."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from reference.text import code, table

CHART: Final = Path(__file__).parents[1] / "config" / "helm" / "epp-client"
_HEAD: Final = """\
# Values of the Helm chart

The chart is `config/helm/epp-client`; [with Helm](../getting-started/helm.md) has the steps. Unknown values and wrong types are
errors: `values.schema.json` checks them.

"""
_LONGEST: Final = 40
"""Characters of a default that the table shows."""


class Value(NamedTuple):
    """A value of the chart."""

    name: str
    default: Any
    comment: str
    """Empty if there is none above it."""


def documented(text: str) -> list[Value]:
    """Every value of a values.yaml that has a comment above it, and every leaf that has none there and above
    none of the values that it is in."""
    root = yaml.compose(text)
    assert isinstance(root, yaml.MappingNode)
    return list(_values(root, yaml.safe_load(text), text.splitlines(), "", is_described=False))


def _values(
    node: yaml.MappingNode, data: Any, lines: list[str], prefix: str, *, is_described: bool
) -> Iterator[Value]:
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        comment = _above(lines, key.start_mark.line)
        default = data[key.value]
        is_group = isinstance(value, yaml.MappingNode) and bool(value.value)
        if comment or not (is_group or is_described):
            yield Value(name, default, comment)
        if is_group:
            described = is_described or bool(comment)
            yield from _values(value, default, lines, f"{name}.", is_described=described)


def _above(lines: list[str], line: int) -> str:
    found: list[str] = []
    while line and lines[line - 1].lstrip().startswith("#"):
        line -= 1
        found.insert(0, lines[line].lstrip().removeprefix("#").strip())
    return " ".join(found)


def helm_values() -> str:
    """The page."""
    text = (CHART / "values.yaml").read_text()
    rows = [[code(v.name), _default(v.default), v.comment] for v in documented(text)]
    return _HEAD + table(["value", "default", "meaning"], rows)


def _default(value: Any) -> str:
    if value in ("", [], {}):
        return ""
    text = value if isinstance(value, str) else json.dumps(value)
    return code(text) if len(text) <= _LONGEST else "see values.yaml"
