"""The runbook as HTML, for `/runbook` of the admin page: findings link to its sections."""

import re
from pathlib import Path
from typing import Final

from markdown_it import MarkdownIt
from markdown_it.token import Token

SOURCE: Final = Path(__file__).parents[1] / "docs" / "runbook.md"
RUNBOOK: Final = Path(__file__).parents[1] / "epp_client" / "admin" / "page" / "runbook.html"


def runbook() -> str:
    """The body of the page. Links to other pages become text: the sidecar does not serve them."""
    reader = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = reader.parse(SOURCE.read_text())
    for at, token in enumerate(tokens):
        if token.type == "heading_open":
            token.attrSet("id", anchor(tokens[at + 1].content))
        elif token.children:
            token.children = [*_served(token.children)]
    html: str = reader.renderer.render(tokens, reader.options, {})
    # Wide code scrolls, and so must be reachable by keyboard.
    return html.replace("<pre>", '<pre tabindex="0">')


def anchor(heading: str) -> str:
    """The anchor that GitHub makes from a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _served(tokens: list[Token]) -> list[Token]:
    kept, leads = [], True
    for token in tokens:
        if token.type == "link_open":
            leads = str(token.attrGet("href")).startswith(("#", "http"))
        if leads or token.type not in ("link_open", "link_close"):
            kept.append(token)
    return kept
