"""The dashboard at `/`, and the runbook beside it: self-contained HTML pages, and the
Content-Security-Policy that enforces that.

The sources are in `page/`. They are joined when the server starts: there is no build step.
"""

import base64
import hashlib
import json
import re
from importlib.resources import files
from typing import Final, NamedTuple

from epp_client.errors import Reason
from epp_client.ext_proc.replies import describe

SCRIPTS: Final = ("words", "dom", "plot", "judgement", "pools", "detail", "records", "stream")
"""The parts of the script, in their order."""


class Dashboard(NamedTuple):
    """The page and its response headers."""

    html: str
    headers: dict[str, str]


def load() -> Dashboard:
    """Join the page. The policy allows its script and its style by their hashes, and nothing else."""
    reasons = {str(reason): describe(reason) for reason in Reason}
    script = ['"use strict";', f"const REASONS = {json.dumps(reasons)};"]
    script += [_source(f"{name}.js") for name in SCRIPTS]
    html = _source("page.html")
    html = html.replace("<style></style>", f"<style>\n{_source('page.css')}</style>")
    html = html.replace("<script></script>", "<script>\n" + "\n".join(script) + "</script>")
    return Dashboard(html, headers(html))


def runbook() -> Dashboard:
    """The runbook at `/runbook`, to which findings link."""
    style = f"<style>\n{_source('page.css')}</style>"
    head = '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
    head += '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
    head += '<meta name="color-scheme" content="light dark">\n<link rel="icon" href="data:,">\n'
    body = f'<body>\n<main class="pages">\n{_source("runbook.html")}</main>\n</body>\n</html>\n'
    html = f"{head}<title>epp-client: runbook</title>\n{style}\n</head>\n{body}"
    return Dashboard(html, headers(html))


def headers(html: str) -> dict[str, str]:
    """The headers of a page whose scripts and styles are all in it."""
    policy = [
        "default-src 'none'",
        f"script-src {_hashes(html, 'script')}",
        f"style-src {_hashes(html, 'style')}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ]
    return {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }


def _source(name: str) -> str:
    return files("epp_client.admin").joinpath("page", name).read_text(encoding="utf-8")


def _hashes(html: str, tag: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(block.encode()).digest() for block in blocks)
    return (
        " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests) or "'none'"
    )
