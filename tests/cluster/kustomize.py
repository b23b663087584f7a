"""config/kubernetes as `kubectl apply -k` would send it, by the real kustomize. It touches no network."""

import subprocess
from pathlib import Path

import yaml

from testbed.cluster.api import Object
from testbed.cluster.binaries import binary

CONFIG = Path(__file__).parents[2] / "config" / "kubernetes"


def render(folder: Path, namespace: str | None = None) -> list[Object]:
    """The objects of a kustomization; with `namespace` all of them are moved there."""
    command = (str(binary("kustomize")), "build", str(folder))
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if namespace is not None:
        # The Lease has the Gateway's namespace in its name, and a Role says so.
        text = text.replace("epp-client.inference.", f"epp-client.{namespace}.")
    objects = [item for item in yaml.safe_load_all(text) if item]
    if namespace is not None:
        for item in objects:
            if not item["kind"].startswith("Cluster"):
                item["metadata"]["namespace"] = namespace
            for subject in item.get("subjects", ()):
                subject["namespace"] = namespace
    return objects


def folders() -> list[str]:
    """Every kustomization that can be applied: components alone cannot."""
    found = (path.parent for path in CONFIG.glob("**/kustomization.yaml"))
    return sorted(str(f.relative_to(CONFIG)) for f in found if "components" not in f.parts)
