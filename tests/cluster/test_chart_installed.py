"""The Helm chart on a real API server: installed, upgraded, rolled back, removed; its Pod as processes."""

import aiohttp
import pytest

from testbed.cluster import objects
from testbed.cluster.api import Api, ApiError, Object
from testbed.cluster.control_plane import ControlPlane
from testbed.cluster.pod import running_pod
from tests.cluster.chart_values import SOME, merged, nested
from tests.cluster.conftest import Site
from tests.cluster.helm import CHART, by_name, helm, template
from tests.cluster.test_manifests import RESTRICTED, pod_of

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

RELEASE = "edge"
STREAM = {
    "model": "m",
    "messages": [{"role": "user", "content": "hello"}],
    "stream": True,
    "max_tokens": 40,
    "token_interval_ms": 50,
}
"""Takes two seconds."""


class Installation:
    """The release in a namespace."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._access = ("--kubeconfig", str(site.kubeconfig), "--namespace", site.namespace)

    def run(self, *command: str, values: Object | None = None) -> str:
        """A helm command with access to the API server."""
        return helm(*command, *self._access, values=values)

    async def objects(self, made: list[Object]) -> list[Object]:
        """What is there of the objects that a template has."""
        return [await self._site.api.get(item) for item in made]

    def template(self, values: Object) -> list[Object]:
        return template(values, release=RELEASE, namespace=self._site.namespace)


EXCLUDED = {
    # Their CRDs are not installed.
    *("podMonitor.enabled", "prometheusRule.enabled"),
    # Excluded by others.
    *(
        "serveGateway.enabled",
        "allNamespaces",
        "mode",
        "envoy.bootstrap",
        "rbac.create",
        "serviceAccount.create",
    ),
    *("autoscaling.enabled", "networkPolicy.enabled", "podDisruptionBudget.enabled"),
    *("routes", "image.digest", "podMonitor.matchLabels", "fullnameOverride", "namespaces"),
}


async def test_it_is_installed_upgraded_rolled_back_and_removed(site: Site) -> None:
    chart, helm_ = str(CHART), Installation(site)
    one = {"pools": [{"name": "pool"}], "status": {"enabled": True}}
    two = {**one, "pools": [{"name": "pool"}, {"name": "other"}]}
    said = helm_.run("install", RELEASE, chart, values=one)
    assert f"kubectl -n {site.namespace} rollout status deployment/{RELEASE}\n" in said
    made = helm_.template(one)
    first = by_name(await helm_.objects(made))
    assert first.keys() == by_name(made).keys()

    helm_.run("upgrade", RELEASE, chart, values=two)
    second = by_name(await helm_.objects(made))
    pods = [found["Deployment", RELEASE]["spec"]["template"] for found in (first, second)]
    assert pods[0] != pods[1], "a changed route is a rollout"

    helm_.run("rollback", RELEASE, "1")
    back = by_name(await helm_.objects(made))
    assert back["Deployment", RELEASE]["spec"] == first["Deployment", RELEASE]["spec"]

    helm_.run("uninstall", RELEASE)
    for item in made:
        with pytest.raises(ApiError, match=r"^404"):
            await site.api.get(item)


async def test_every_value_makes_objects_that_the_api_server_accepts(site: Site) -> None:
    some = [nested(name, value) for name, value in SOME.items() if name not in EXCLUDED]
    values = merged({"pools": [{"name": "pool"}]}, *some)
    Installation(site).run("install", RELEASE, str(CHART), "--dry-run=server", values=values)
    made = Installation(site).template(values)
    assert len(made) > 10
    await site.api.apply(made, dry_run=True)


async def test_its_pods_pass_the_restricted_pod_security_standard(site: Site) -> None:
    namespace = objects.namespace(f"{site.namespace}-restricted")
    namespace["metadata"]["labels"] = RESTRICTED
    await site.api.create(namespace)
    made = by_name(template({"pools": [{"name": "pool"}]}, release=RELEASE))
    pod = pod_of(made["Deployment", RELEASE])
    assert len(pod["spec"]["initContainers"]) == 3
    pod["metadata"]["namespace"] = namespace["metadata"]["name"]
    await site.api.create(pod, dry_run=True)
    pod["spec"]["initContainers"][0]["securityContext"]["allowPrivilegeEscalation"] = True
    with pytest.raises(ApiError, match="violates PodSecurity"):
        await site.api.create(pod, dry_run=True)


async def test_its_pod_serves_requests_and_ends_without_cutting_one(
    site: Site, plane: ControlPlane, api: Api
) -> None:
    values = {
        "pools": [{"name": "pool"}],
        "envoy": {"drainMinSeconds": 0, "drainMaxSeconds": 60, "concurrency": 1},
        "sidecar": {"workers": 2},
    }
    helm_ = Installation(site)
    helm_.run("install", RELEASE, str(CHART), values=values)
    await api.create(site.pool())
    await site.picker()
    found = by_name(await helm_.objects(helm_.template(values)))
    spec = found["Deployment", RELEASE]["spec"]["template"]["spec"]
    account = await plane.service_account(api, site.namespace, spec["serviceAccountName"])
    host, _, port = account.server.removeprefix("https://").rpartition(":")
    assert account.token is not None
    contents = {
        "envoy": found["ConfigMap", f"{RELEASE}-envoy"]["data"],
        "epp-client-token": {
            "token": account.token,
            "ca.crt": account.ca_file.read_text(),
            "namespace": site.namespace,
        },
    }
    variables = {
        "KUBERNETES_SERVICE_HOST": host,
        "KUBERNETES_SERVICE_PORT": port,
        "metadata.namespace": site.namespace,
    }
    folder = site.folder / "v"
    folder.mkdir()
    async with running_pod(spec, folder, contents, variables) as pod:
        [http] = [p for p in spec["containers"][0]["ports"] if p["name"] == "http"]
        url = f"http://127.0.0.1:{http['containerPort']}/v1/chat/completions"
        for container in (*spec["initContainers"], *spec["containers"]):
            if container["name"] in pod.processes:
                assert await pod.passes(container, "livenessProbe"), container["name"]
        async with (
            aiohttp.ClientSession() as session,
            session.post(url, json=STREAM) as answer,
        ):
            assert answer.status == 200, await answer.text()
            assert "x-inference-fallback" not in answer.headers, "the picker was asked"
            served = answer.headers["x-model-server"]
            assert served in site.models.endpoints(site.models.ports[0])
            codes = await pod.stop()
            assert (await answer.text()).endswith("data: [DONE]\n\n"), "it was cut"
    assert codes == {
        "preStop of envoy": 0,
        "envoy": 0,
        "epp-client": 0,
        "epp-client-hold": 0,
    }
