"""The chart of config/helm as the real helm renders it, and as it compares with kustomize's output."""

import subprocess
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from testbed.cluster.api import Object
from testbed.cluster.binaries import binary

CHART = Path(__file__).parents[2] / "config" / "helm" / "epp-client"
RELEASE, NAMESPACE = "inference-gateway", "inference"
"""As config/kubernetes names them."""
AS_KUSTOMIZE: Object = {"serviceAccount": {"name": "epp-client"}}
"""What config/kubernetes calls otherwise than the chart by default."""
OWN_LABEL = "app.kubernetes.io/instance"
"""What the chart's selectors have beside kustomize's: two releases in a namespace must not share Pods."""


class Refused(Exception):
    """helm has failed; the text is what it says."""


def helm(*arguments: str, values: Object | None = None) -> str:
    """Run helm with a home of its own; `values` are given as a file. Returns standard output.

    Raises:
        Refused: it failed.
    """
    with tempfile.TemporaryDirectory(prefix="epp-client-helm-") as home:
        homes = {f"HELM_{kind}_HOME": home for kind in ("CACHE", "CONFIG", "DATA")}
        given = []
        if values is not None:
            path = Path(home) / "values.yaml"
            path.write_text(yaml.safe_dump(values))
            given = ["--values", str(path)]
        command = [str(binary("helm")), *arguments, *given]
        done = subprocess.run(
            command,
            env={"PATH": "", "HOME": home, **homes},
            capture_output=True,
            text=True,
            timeout=60,
        )
    if done.returncode:
        raise Refused(done.stdout + done.stderr)
    return done.stdout


def template(values: Object, *, release: str = RELEASE, namespace: str = NAMESPACE) -> list[Object]:
    """The objects of a release.

    Raises:
        Refused: the values are wrong.
    """
    text = helm("template", release, str(CHART), "--namespace", namespace, values=values)
    return [item for item in yaml.safe_load_all(text) if item]


def by_name(objects: list[Object]) -> dict[tuple[str, str], Object]:
    """Each once, by kind and name."""
    found = {(item["kind"], item["metadata"]["name"]): item for item in objects}
    assert len(found) == len(objects)
    return found


def comparable(objects: list[Object], namespace: str = NAMESPACE) -> dict[tuple[str, str], Object]:
    """Without what each tool writes in its own way: labels of objects, hashes, names of cluster-wide roles,
    the order of volumes. `namespace` is that of the release."""
    plain = [_plain(deepcopy(item)) for item in objects]
    for item in plain:
        item["metadata"].pop("labels", None)
        if item["kind"].startswith("ClusterRole"):
            item["metadata"]["name"] = item["metadata"]["name"].removeprefix(f"{namespace}-")
            if "roleRef" in item:
                item["roleRef"]["name"] = item["roleRef"]["name"].removeprefix(f"{namespace}-")
        if item["kind"] == "ConfigMap":
            item["metadata"]["name"] = _without_hash(item["metadata"]["name"])
        if item["kind"] == "Deployment":
            template = item["spec"]["template"]
            if annotations := template["metadata"].pop("annotations", None):
                assert set(annotations) == {"checksum/envoy"}
            for volume in template["spec"].get("volumes", ()):
                if "configMap" in volume:
                    name = volume["configMap"]["name"]
                    volume["configMap"]["name"] = _without_hash(name)
    return by_name(plain)


def _without_hash(name: str) -> str:
    base, _, end = name.rpartition("-")
    return base if base == f"{RELEASE}-envoy" and len(end) == 10 else name


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        value.pop(OWN_LABEL, None)
        for key, inner in value.items():
            value[key] = _plain(inner)
            if key in ("volumes", "volumeMounts"):
                value[key] = sorted(
                    value[key], key=lambda item: item.get("mountPath", item["name"])
                )
    elif isinstance(value, list):
        return [_plain(item) for item in value]
    return value
