"""The manifests of `epp-client controller`, as kustomize renders them. Nothing is sent from here."""

import subprocess

import yaml

from testbed.cluster.api import Object
from testbed.cluster.binaries import Unavailable, binary
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
    return [item for item in yaml.safe_load_all(text) if item]
