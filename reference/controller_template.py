"""Writes the template from which `epp-client controller` makes the objects of a Gateway: the Deployment, its
ServiceAccount and PodDisruptionBudget of config/kubernetes, so that there is one source.

`tests/cluster/test_controller_template.py` compares it with what the real kustomize makes of the same files.
"""

from pathlib import Path
from typing import Any, Final

import yaml

CONFIG: Final = Path(__file__).parents[1] / "config" / "kubernetes"
BASE: Final = ("deployment", "service", "poddisruptionbudget", "horizontalpodautoscaler")
SIDECAR: Final = CONFIG / "components" / "sidecar"
TEMPLATE: Final = Path(__file__).parents[1] / "epp_client" / "controller" / "template.yaml"
DRAIN: Final = "drain.sh"

_HEAD: Final = "# Written by `make reference` from config/kubernetes. Edit the files there.\n"


def controller_template() -> str:
    """The template as YAML: the objects by kind, and the text of drain.sh."""
    objects = [_load(CONFIG / "base" / f"{name}.yaml") for name in BASE]
    objects.append(_load(SIDECAR / "serviceaccount.yaml"))
    found = {data["kind"]: data for data in objects}
    patch = {"spec": _load(SIDECAR / "patch.yaml")["spec"]}
    found["Deployment"] = merged(found["Deployment"], patch)
    drain = (CONFIG / "base" / DRAIN).read_text()
    document = {"objects": found, "drain": drain}
    return _HEAD + yaml.dump(document, Dumper=_Dumper, sort_keys=False, width=100)


def merged(base: Any, patch: Any) -> Any:
    """A strategic merge as `kubectl patch` does it, as far as patch.yaml needs it: objects are merged, lists
    of named items by name, and anything else is replaced."""
    if isinstance(base, dict) and isinstance(patch, dict):
        after = dict(base)
        for key, value in patch.items():
            after[key] = merged(base[key], value) if key in base else value
        return after
    if _named(base) and _named(patch):
        by_name = {item["name"]: item for item in base}
        for item in patch:
            old = by_name.get(item["name"])
            by_name[item["name"]] = item if old is None else merged(old, item)
        return list(by_name.values())
    return patch


def _named(value: Any) -> bool:
    return isinstance(value, list) and all(
        isinstance(item, dict) and "name" in item for item in value
    )


def _load(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text())
    return found


class _Dumper(yaml.SafeDumper):
    """Long texts as blocks, and no anchors."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, data: str) -> yaml.ScalarNode:
    style = "|" if "\n" in data else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_Dumper.add_representer(str, _text)
