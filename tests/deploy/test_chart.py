"""The Helm chart without helm: its files agree with each other. tests/cluster renders it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from epp_client.version import VERSION
from reference.helm_values import documented

ROOT = Path(__file__).parents[2]
CHART = ROOT / "config" / "helm" / "epp-client"
VALUES = (CHART / "values.yaml").read_text()
SCHEMA = json.loads((CHART / "values.schema.json").read_text())
OF_HELM = {"global", "enabled"}
"""Values that helm gives a chart which is a part of another one."""


@pytest.mark.parametrize(
    ("copy", "original"),
    [
        ("drain.sh", "config/kubernetes/base/drain.sh"),
        ("rules.yaml", "config/prometheus/rules.yaml"),
        ("controller-rbac.yaml", "config/kubernetes/controller/rbac.yaml"),
        ("data-planes.yaml", "config/kubernetes/controller/data-planes.yaml"),
        ("gateway-rbac.yaml", "config/kubernetes/components/gateway/rbac.yaml"),
    ],
)
def test_a_file_that_the_chart_repeats_is_the_same(copy: str, original: str) -> None:
    """helm reads no file outside of a chart, and prints a warning for each link."""
    file = CHART / "files" / copy
    why = f"run `cp {original} {file.relative_to(ROOT)}`"
    assert file.read_text() == (ROOT / original).read_text(), why


def test_it_has_the_version_of_the_program() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


def _strict(schema: Any, value: Any, name: str = "") -> Iterator[str]:
    """What a schema does not say of the values. Values that are empty have no structure to compare."""
    if not isinstance(value, dict) or "properties" not in schema:
        return
    if schema.get("additionalProperties") is not False:
        yield f"{name or 'the root'} takes unknown values"
    known = schema["properties"].keys() - (set() if name else OF_HELM)
    yield from (f"{name}{key}" for key in known ^ value.keys())
    for key in known & value.keys():
        yield from _strict(schema["properties"][key], value[key], f"{name}{key}.")


def test_the_schema_has_the_values_and_no_others() -> None:
    values = yaml.safe_load(VALUES)
    assert list(_strict(SCHEMA, values)) == []
    groups = {key for key, value in values.items() if isinstance(value, dict) and value}
    assert {key for key in groups if "properties" in SCHEMA["properties"][key]} == groups


def test_a_value_without_a_comment_is_found() -> None:
    text = "# A comment.\na: 1\nb:\n  c: 2\n  # Described.\n  d:\n    e: 3\n"
    assert [(v.name, v.comment) for v in documented(text)] == [
        ("a", "A comment."),
        ("b.c", ""),
        ("b.d", "Described."),
    ]


def test_every_value_has_a_comment() -> None:
    assert [value.name for value in documented(VALUES) if not value.comment] == []
