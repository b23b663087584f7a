"""What all pages share: tables, and the docstrings of enum members. Pure."""

import ast
import inspect
import textwrap
from collections.abc import Iterable, Sequence
from enum import IntEnum, StrEnum


def member_docs(kind: type[StrEnum] | type[IntEnum]) -> dict[str, str]:
    """The docstring under each member of an enum, by its value, or by its name if the value is a number;
    paragraphs are apart by an empty line.

    Raises:
        ValueError: a member has none.
    """
    [definition] = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(definition, ast.ClassDef)
    found: dict[str, str] = {}
    for before, after in zip(definition.body, definition.body[1:], strict=False):
        match before, after:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str() as text)),
            ):
                found[label(kind[name])] = inspect.cleandoc(text)
    missing = [label(member) for member in kind if label(member) not in found]
    if missing:
        raise ValueError(f"{kind.__name__} members without a docstring: {', '.join(missing)}")
    return found


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(map(_cell, line))} |\n" for line in lines)


def label(member: StrEnum | IntEnum) -> str:
    """What a member of an enum is called in the pages."""
    return member.value if isinstance(member, StrEnum) else member.name.lower()


def values_table(kind: type[StrEnum] | type[IntEnum], head: str = "value") -> str:
    """A table of the members of an enum and their docstrings."""
    return table([head, "meaning"], [[code(v), text] for v, text in member_docs(kind).items()])


def code(text: object) -> str:
    """As code, or nothing."""
    return f"`{text}`" if text not in (None, "") else ""


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
