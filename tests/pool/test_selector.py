"""Label selectors, as kubectl reads them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from epp_client.pool.selector import parse_selector

LABELS = {"app": "llama", "llm-d.ai/role": "decode", "empty": ""}

SELECTORS = [
    ("", True),
    ("app=llama", True),
    ("app == llama", True),
    ("app=qwen", False),
    ("app!=qwen", True),
    ("app!=llama", False),
    ("absent!=x", True),
    ("llm-d.ai/role in (decode, both)", True),
    ("llm-d.ai/role in (prefill)", False),
    ("llm-d.ai/role notin (prefill,encode)", True),
    ("absent notin (x)", True),
    ("absent in (x)", False),
    ("app", True),
    ("absent", False),
    ("!absent", True),
    ("! app", False),
    ("empty=", True),
    ("app=llama,llm-d.ai/role!=prefill,!absent", True),
    ("app=llama,app=qwen", False),
    ("app in (qwen, llama), empty", True),
]


@pytest.mark.parametrize(
    ("text", "selected"), SELECTORS, ids=[text or "-" for text, _ in SELECTORS]
)
def test_what_is_selected(text: str, selected: bool) -> None:
    assert parse_selector(text).matches(LABELS) is selected


@pytest.mark.parametrize(
    "text", ["=x", "a in x", "a in (x", "a > 1", "a=b c", "a=b=c", "a in (x y)", "a in(x) r", ",a", "é=1"]
)  # fmt: skip
def test_what_is_none_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r"not .*label"):
        parse_selector(text)


@given(st.text("ab=!(),in nt.-/é", max_size=30))
def test_any_text_is_a_selector_or_an_error(text: str) -> None:
    with contextlib.suppress(ValueError):
        parse_selector(text).matches(LABELS)
