"""The controller's template against what the real kustomize makes of the same files."""

import json
import re
from typing import Any

from epp_client.controller.app import template
from tests.cluster.kustomize import CONFIG, render


def test_the_template_is_what_kustomize_makes_of_the_base() -> None:
    made = {item["kind"]: item for item in render(CONFIG / "base")}
    for kind, data in template().objects.items():
        assert _plain(data["metadata"]["name"]) == _plain(made[kind]["metadata"]["name"])
        for field in data.keys() - {"metadata"}:
            assert _plain(data[field]) == _plain(made[kind][field]), (kind, field)


def _plain(value: Any, key: str = "") -> Any:
    """Without what kustomize adds: digests in names, tags of images, and the order of named items. That of
    init containers decides when they stop."""
    if isinstance(value, dict):
        return {name: _plain(item, name) for name, item in value.items()}
    if isinstance(value, list):
        items = [_plain(item) for item in value]
        if key == "initContainers" or not all(isinstance(item, dict) for item in items):
            return items
        return sorted(items, key=lambda item: json.dumps(item, sort_keys=True))
    if isinstance(value, str) and value.startswith("inference-gateway-envoy-"):
        return "inference-gateway-envoy"
    return re.sub(r"^epp-client:[\d.]+$", "epp-client", value) if key == "image" else value
