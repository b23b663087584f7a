"""The controller's template against what the real kustomize makes of the same files."""

from typing import Any

from epp_client.controller.app import template
from tests.cluster.kustomize import CONFIG, render


def test_the_template_is_what_kustomize_makes_of_the_base() -> None:
    made = {item["kind"]: item for item in render(CONFIG / "base")}
    for kind, data in template().objects.items():
        assert _plain(data["metadata"]["name"]) == _plain(made[kind]["metadata"]["name"])
        for field in data.keys() - {"metadata"}:
            assert _plain(data[field]) == _plain(made[kind][field]), (kind, field)


def _plain(value: Any) -> Any:
    """Without what kustomize adds: digests in names, tags of images, the order of named items."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        items = [_plain(item) for item in value]
        return sorted(items, key=str) if all(isinstance(item, dict) for item in items) else items
    if isinstance(value, str) and value.startswith("inference-gateway-envoy-"):
        return "inference-gateway-envoy"
    return "epp-client" if value == "epp-client:0.2.0" else value
