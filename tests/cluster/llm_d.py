"""llm-d's chart `llm-d-router-standalone`, rendered by the real helm with config/llm-d/values.yaml. It
touches no network.

The chart is the stand-in beside this file, or the real one: EPP_CLIENT_TEST_LLM_D is then the folder
`config/charts` of a checkout of llm-d-router.
"""

import os
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from testbed.cluster.api import Object
from testbed.cluster.binaries import binary

VALUES = Path(__file__).parents[2] / "config" / "llm-d" / "values.yaml"
VERSION = "v0.10.0"
"""Of the chart that the stand-in has the shape of."""
CHART = "llm-d-router-standalone"
STAND_IN = Path(__file__).parent / CHART
REAL = os.environ.get("EPP_CLIENT_TEST_LLM_D", "")
RELEASE = "llama"
PROXY = "envoy-proxy"
"""The chart's name of the container."""
POD_NAME = f"{RELEASE}-epp-6d5f8b7c9-abcde"
"""As a Deployment would name a Pod of the picker."""

# Settings of the chart.
LABELS = "router.modelServers.matchLabels.app=model"
NO_POOL = "router.inferencePool.create=false"
SERVICE = "router.proxy.mode=service"


def render(
    namespace: str, *settings: str, values: Path | None = VALUES, real: bool = bool(REAL)
) -> list[Object]:
    """The objects of release `llama` with `--set SETTING` for each of `settings`."""
    helm = str(binary("helm"))
    with tempfile.TemporaryDirectory(prefix="helm-") as folder:
        chart = STAND_IN
        if real:
            charts = Path(folder) / "charts"
            # The dependency of the chart is built into its folder.
            shutil.copytree(REAL, charts)
            chart = charts / CHART
            _run(helm, "dependency", "build", str(chart))
        text = _run(
            *(helm, "template", RELEASE, str(chart), "--namespace", namespace),
            *(("--values", str(values)) if values else ()),
            *(word for setting in settings for word in ("--set", setting)),
        )
    return [item for item in yaml.safe_load_all(text) if item]


def _run(*command: str) -> str:
    with tempfile.TemporaryDirectory(prefix="helm-") as home:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={"HOME": home, "PATH": "/usr/bin:/bin"},
        )
    assert done.returncode == 0, done.stderr
    return done.stdout


@dataclass
class Proxy:
    """The proxy container of a rendered chart, and the Pod that it is in."""

    container: dict[str, Any]
    pod: dict[str, Any]
    account: str
    """Its ServiceAccount."""
    files: dict[str, str]
    """The files that are mounted from ConfigMaps, by path."""

    @property
    def line(self) -> list[str]:
        """Its command and arguments."""
        return [*self.container["command"], *self.container["args"]]


def proxy_of(objects: list[Object]) -> Proxy:
    """The proxy in the rendered Deployments."""
    maps = {o["metadata"]["name"]: o["data"] for o in objects if o["kind"] == "ConfigMap"}
    [(container, pod)] = [
        (container, made["spec"]["template"]["spec"])
        for made in objects
        if made["kind"] == "Deployment"
        for container in made["spec"]["template"]["spec"]["containers"]
        if container["name"] == PROXY
    ]
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    files = {
        f"{mount['mountPath']}/{item['path']}": maps[source["name"]][item["key"]]
        for mount in container["volumeMounts"]
        if (source := volumes[mount["name"]].get("configMap")) is not None
        for item in source["items"]
    }
    return Proxy(container, pod, pod.get("serviceAccountName", "default"), files)
