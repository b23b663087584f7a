"""The gateway under test: an API server, a GatewayClass, and what may be assumed. It knows no product."""

import base64
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from testbed.cluster.api import Api, Kubeconfig, Object
from testbed.strict.workloads import GATEWAY_GROUP, Images


class BadKubeconfig(Exception):
    """The file cannot be used; the text tells what to do."""


@dataclass(frozen=True)
class Target:
    """Where the suite runs, and against what."""

    api: Api
    gateway_class: str
    images: Images = field(default_factory=Images)
    patience: float = 60.0
    """Seconds for a change of an object to be served."""
    start: float = 300.0
    """Seconds for Pods and Gateways to be ready."""
    subset_header: str = ""
    """The request header from which the gateway makes the subset hint. Empty: it makes none."""

    async def controller(self) -> str:
        """The controllerName of the GatewayClass."""
        found = await self.api.get(class_object(self.gateway_class))
        return str(found["spec"]["controllerName"])


def class_object(name: str) -> Object:
    """A GatewayClass, to ask for it."""
    version = f"{GATEWAY_GROUP}/v1"
    return {"apiVersion": version, "kind": "GatewayClass", "metadata": {"name": name}}


def read_access(path: Path, folder: Path) -> Kubeconfig:
    """The current context of a kubeconfig. Data within it is written to `folder`, as TLS reads files.

    Raises:
        BadKubeconfig: it needs a program for credentials, or something is missing.
    """
    try:
        text = yaml.safe_load(path.read_text())
        context = _named(text["contexts"], text["current-context"])["context"]
        cluster = _named(text["clusters"], context["cluster"])["cluster"]
        user = _named(text["users"], context["user"])["user"]
    except (OSError, KeyError, TypeError, StopIteration, yaml.YAMLError) as error:
        raise BadKubeconfig(f"{path} is no kubeconfig with a current context: {error!r}") from error
    token = user.get("token")
    if token is None and "tokenFile" in user:
        token = Path(user["tokenFile"]).read_text().strip()
    certificate = _file(user, "client-certificate", path, folder)
    if token is None and certificate is None:
        raise BadKubeconfig(
            f"{path} has no token and no client certificate. If it names a program for credentials, put a "
            "token of `kubectl create token` there instead"
        )
    authority = _file(cluster, "certificate-authority", path, folder)
    if authority is None:
        raise BadKubeconfig(f"{path} has no certificate-authority")
    key = _file(user, "client-key", path, folder)
    return Kubeconfig(cluster["server"], authority, certificate, key, token)


def _named(items: list[Object], name: str) -> Object:
    return next(item for item in items if item["name"] == name)


def _file(item: Object, key: str, beside: Path, folder: Path) -> Path | None:
    if (data := item.get(f"{key}-data")) is not None:
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
            file.write(base64.b64decode(data))
        return Path(file.name)
    # A relative path is relative to the file that names it.
    return beside.parent / item[key] if item.get(key) else None
