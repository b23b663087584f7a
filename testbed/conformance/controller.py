"""The manifests of `epp-client controller`, as kustomize renders them. Nothing is sent from here."""

import subprocess

import yaml

from testbed.build_cache import Unavailable
from testbed.cluster.api import Object
from testbed.cluster.binaries import binary
from testbed.cluster.kubelet.images import PROJECT

FOLDER = PROJECT / "config" / "kubernetes" / "controller"


def there() -> bool:
    """Whether the project has a controller."""
    return (FOLDER / "kustomization.yaml").exists()


def manifests() -> list[Object]:
    """All objects.

    Raises:
        Unavailable: there are none, or no kustomize.
    """
    if not there():
        raise Unavailable(f"there is no {FOLDER}: nothing to install")
    command = (str(binary("kustomize")), "build", str(FOLDER))
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [_small(item) for item in yaml.safe_load_all(text) if item]


def _small(item: Object) -> Object:
    """One Pod of the controller, and one for each Gateway: a suite has twenty Gateways at once on one
    machine."""
    if item["kind"] == "Deployment":
        item["spec"]["replicas"] = 1
        [container] = item["spec"]["template"]["spec"]["containers"]
        container["args"].append("--replicas=1")
    return item
