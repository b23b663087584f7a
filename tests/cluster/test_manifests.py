"""config/kubernetes against a real API server: accepted, restricted, and with no right too many."""

from typing import Any

import pytest

from testbed.cluster import objects
from testbed.cluster.api import Api, ApiError
from tests.cluster.kustomize import CONFIG, folders, render

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(90)]

RESTRICTED = {"pod-security.kubernetes.io/enforce": "restricted"}


@pytest.fixture(scope="session")
def applied() -> set[str]:
    """Namespaces that exist already: what a dry run is to be in must."""
    return set()


@pytest.mark.parametrize("folder", folders())
async def test_the_api_server_accepts_it(api: Api, applied: set[str], folder: str) -> None:
    """Server-side apply as a dry run, with no unknown field."""
    made = render(CONFIG / folder)
    for namespace in {item["metadata"].get("namespace", "default") for item in made}:
        if namespace not in applied and namespace != "default":
            # Another test may have it.
            await api.apply([objects.namespace(namespace)])
            applied.add(namespace)
    await api.apply(made, dry_run=True)


@pytest.mark.parametrize(
    "folder", [f for f in folders() if f.startswith(("base", "overlays", "controller"))]
)
async def test_its_pods_pass_the_restricted_pod_security_standard(api: Api, folder: str) -> None:
    namespace = objects.namespace("restricted-" + folder.rpartition("/")[2])
    namespace["metadata"]["labels"] = RESTRICTED
    await api.create(namespace)
    pods = [pod_of(item) for item in render(CONFIG / folder) if item["kind"] == "Deployment"]
    assert pods
    for pod in pods:
        pod["metadata"]["namespace"] = namespace["metadata"]["name"]
        if folder == "overlays/existing-envoy":
            # The Envoy is the user's own; only what we put beside it is ours to restrict.
            ours = pod["spec"].pop("initContainers")
            for container in ours:
                del container["restartPolicy"]
            pod["spec"]["containers"] = ours
        await api.create(pod, dry_run=True)
        pod["spec"]["containers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
        with pytest.raises(ApiError, match="violates PodSecurity"):
            await api.create(pod, dry_run=True)


@pytest.mark.parametrize("folder", [f for f in folders() if f.startswith(("example", "models"))])
async def test_its_pods_pass_the_standard_of_its_namespace(api: Api, folder: str) -> None:
    made = render(CONFIG / folder)
    (namespace,) = [item for item in made if item["kind"] == "Namespace"]
    namespace["metadata"]["name"] = "standard-" + folder.replace("/", "-")
    await api.create(namespace)
    pods = [pod_of(item) for item in made if item["kind"] == "Deployment"]
    assert pods
    for pod in pods:
        pod["metadata"]["namespace"] = namespace["metadata"]["name"]
        await api.create(pod, dry_run=True)
        pod["spec"]["hostNetwork"] = True
        with pytest.raises(ApiError, match="violates PodSecurity"):
            await api.create(pod, dry_run=True)


def pod_of(deployment: dict[str, Any]) -> dict[str, Any]:
    template = deployment["spec"]["template"]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {**template["metadata"], "name": "pod"},
        "spec": template["spec"],
    }
