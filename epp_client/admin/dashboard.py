"""The dashboard at `/`: one self-contained HTML file, and the Content-Security-Policy that enforces it."""

import base64
import hashlib
import re
from importlib.resources import files
from typing import NamedTuple


class Dashboard(NamedTuple):
    """The page and its response headers."""

    html: str
    headers: dict[str, str]


def load() -> Dashboard:
    """Read the page. The policy allows its script and its style by their hashes, and nothing else."""
    html = files("epp_client.admin").joinpath("dashboard.html").read_text(encoding="utf-8")
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
    headers = {
        "content-security-policy": "; ".join(policy),
        "x-content-type-options": "nosniff",
        "referrer-policy": "no-referrer",
        "cache-control": "no-cache",
    }
    return Dashboard(html, headers)


def _hashes(html: str, tag: str) -> str:
    blocks = re.findall(rf"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
    digests = (hashlib.sha256(block.encode()).digest() for block in blocks)
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
