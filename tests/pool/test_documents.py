"""Texts of objects: JSON is read as the YAML reader would read it, with the same lines."""

import json
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from epp_client.documents.from_json import NotPlainJson, read_json
from epp_client.documents.from_yaml import read_yaml
from epp_client.documents.located import Document, Located
from epp_client.documents.read import read
from epp_client.pool.problems import Path, Problem

TEXTS = st.text(st.sampled_from('ab0-[]{},:"\\/ \né😀'), max_size=6)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=20,
)


def paths(value: Any) -> list[Path]:
    """The path of every value, and one that leads nowhere."""
    found: list[Path] = [(), ("nowhere",), (99,)]
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            found += [(key, *path) for path in paths(inner)]
    return found


@given(VALUES, st.sampled_from([None, 0, 2, "\t"]), st.sampled_from(["", "\n \n"]))
def test_json_has_the_same_objects_and_lines_as_the_yaml_reader_finds(
    value: Any, indent: int | str | None, before: str
) -> None:
    text = before + json.dumps(value, indent=indent, ensure_ascii=False)
    ours = read_json(text)
    assert ours.data == value
    theirs = list(read_yaml(text.replace("\t", " ")))
    assert [one.data for one in theirs if isinstance(one, Document)] == [value]
    for path in paths(value):
        assert ours.place.line(path) == theirs[0].place.line(path), path  # type: ignore[union-attr]


def test_a_long_key_moves_its_value_to_the_next_line() -> None:
    document = read_json('{"a":\n {"b"\n:\n\n [1,\n 2]}}')
    lines = [document.place.line(path) for path in [(), ("a",), ("a", "b"), ("a", "b", 1)]]
    assert lines == [1, 1, 2, 6]


LEFT = [
    '{"a": 1, "a": 2}',
    '{"a": 1} {"b": 1}',
    '{"a": NaN}',
    '{"a": 1,}',
    "{a: 1}",
    '{"a": 1} # comment',
    '{"a": "\\ud800"}',
    "[" * 99 + "]",
]


@pytest.mark.parametrize("text", LEFT)
def test_what_is_not_plain_json_is_left_to_the_yaml_reader(text: str) -> None:
    with pytest.raises(NotPlainJson):
        read_json(text)


def test_what_is_nested_too_deeply_is_refused() -> None:
    assert read_json("[" * 100 + "]" * 100).data
    for depth in (101, 100_000):
        with pytest.raises(ValueError, match="nested more than 100 deep"):
            read_json("[" * depth + "]" * depth)


def test_an_emoji_may_be_escaped_and_half_of_one_is_refused() -> None:
    [found] = read('{"kind": "\\ud83d\\ude00"}', "f")
    assert isinstance(found, Located)
    assert found.data == {"kind": "😀"}
    with pytest.raises(yaml.YAMLError):
        list(read('{"kind": "\\ud83d"}', "f"))


def test_every_item_of_a_list_may_have_a_problem() -> None:
    # A search from the beginning for each would take longer than the timeout of a test.
    items = [{"kind": "Pod", "metadata": {"name": str(n)}} for n in range(20_000)]
    found = list(read(json.dumps({"kind": "List", "items": items}, indent=1), "f"))
    lines = [one.line(("metadata", "name")) for one in found if not isinstance(one, Problem)]
    assert lines == [7 + 6 * n for n in range(20_000)]
