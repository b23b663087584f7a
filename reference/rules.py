"""Copies of config/prometheus/rules.yaml: for the Prometheus operator, and in the Helm chart."""

from pathlib import Path
from typing import Final

_ROOT: Final = Path(__file__).parents[1]
_RULES: Final = _ROOT / "config" / "prometheus" / "rules.yaml"
OPERATOR: Final = _RULES.with_name("prometheusrule.yaml")
OF_CHART: Final = _ROOT / "config" / "helm" / "epp-client" / "files" / "rules.yaml"
_HEAD: Final = """\
# Written by `make reference` from rules.yaml, for the Prometheus operator. Edit that file.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: epp-client
spec:
"""


def operators_rules() -> str:
    """The PrometheusRule."""
    lines = _RULES.read_text().splitlines()
    start = lines.index("groups:")
    return _HEAD + "".join(f"  {line}\n" if line else "\n" for line in lines[start:])


def charts_rules() -> str:
    """The file of the chart: helm reads none outside of it."""
    return _RULES.read_text()
