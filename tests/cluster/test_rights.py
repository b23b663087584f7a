"""The sidecar under exactly the Roles of config/kubernetes: enough of them, and none too many."""

import asyncio
import json
import os
import re
from collections.abc import AsyncIterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import yaml

from testbed.cluster import objects
from testbed.cluster.api import Object
from testbed.cluster.control_plane import ControlPlane
from testbed.cluster.gateway import READY_TIMEOUT, running_sidecar
from tests.cluster.conftest import Site
from tests.cluster.kustomize import CONFIG, render
from tests.cluster.load import steady_load
from tests.kubernetes.test_gateway_parts import key_pair, secret

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

ACCOUNT = "epp-client"
GATEWAY = "inference-gateway"
"""As config/kubernetes names it."""
PAGE = Path(__file__).parents[2] / "docs" / "kubernetes.md"
ON_CONFLICT = ("get", "inference.networking.k8s.io", "inferencepools")
"""Asked for only when another controller has written the status at the same moment."""


KINDS = ("ServiceAccount", "Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding")


def _roles(overlay: str | Path, namespace: str) -> list[Object]:
    return [item for item in render(CONFIG / overlay, namespace) if item["kind"] in KINDS]


def _granted(roles: list[Object]) -> set[tuple[str, str, str]]:
    return {
        (verb, group, resource)
        for role in roles
        if role["kind"] in ("Role", "ClusterRole")
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


async def _account(site: Site, plane: ControlPlane, roles: list[Object]) -> Path:
    """Apply the Roles; the kubeconfig of the ServiceAccount."""
    await site.api.apply(roles)
    identity = await plane.service_account(site.api, site.namespace, ACCOUNT)
    return identity.write(site.folder / "kubeconfig")


async def test_the_gateway_needs_its_role_and_no_more(site: Site, plane: ControlPlane) -> None:
    roles = _roles("base", site.namespace)
    site.kubeconfig, admin = await _account(site, plane, roles), site.kubeconfig
    gateway = await site.gateway()
    await site.api.create(site.pool())
    site.kubeconfig = admin
    await site.picker()
    first, *rest = site.models.endpoints(site.models.ports[0])
    async with steady_load(gateway.pool_url(f"{site.namespace}/pool")) as load:
        await load.until_served_by(first, *rest)
        await site.api.delete(site.pods[0], grace=30)
        await load.until_served_by(*rest)
    asked = plane.asked_by(site.namespace, ACCOUNT)
    assert {request for request in asked if request.status >= 400} == set()
    assert {request[:3] for request in asked} == _granted(roles)


async def test_reporting_status_needs_its_role_and_no_more(site: Site, plane: ControlPlane) -> None:
    roles = _roles("overlays/status", site.namespace)
    kubeconfig = await _account(site, plane, roles)
    await site.api.create(site.pool())
    await site.api.create(
        objects.http_route("r", namespace=site.namespace, gateway=GATEWAY, pool="pool")
    )
    arguments = ("--namespace", site.namespace, "--lease-namespace", site.namespace)
    gateway = ("--gateway", f"{site.namespace}/{GATEWAY}", "--no-serve-gateway")
    async with (
        running_sidecar(site.folder, kubeconfig, *arguments, *gateway),
        asyncio.timeout(READY_TIMEOUT),
    ):
        wanted = _granted(roles) - {ON_CONFLICT}
        while True:
            asked = plane.asked_by(site.namespace, ACCOUNT)
            if wanted <= {request[:3] for request in asked}:
                break
            await asyncio.sleep(0.2)
    assert (await site.api.get(site.pool()))["status"]["parents"]
    refused = {r for r in plane.asked_by(site.namespace, ACCOUNT) if r.status in (401, 403)}
    assert refused == set()
    assert {request[:3] for request in asked} | {ON_CONFLICT} == _granted(roles)


def _with_component(folder: Path, component: str) -> Path:
    """A kustomization of the base and a component."""
    folder.mkdir()
    to = os.path.relpath(CONFIG, folder)
    kustomization = {
        "apiVersion": "kustomize.config.k8s.io/v1beta1",
        "kind": "Kustomization",
        "namespace": "inference",
        "resources": [f"{to}/base"],
        "components": [f"{to}/components/{component}"],
    }
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(kustomization))
    return folder


def _documented(part: str) -> Any:
    """The YAML block of the page that has this text."""
    blocks = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (block,) = [block for block in blocks if part in block]
    return yaml.safe_load(block)


async def test_serving_a_gateway_needs_its_roles_and_no_more(
    site: Site, plane: ControlPlane, tmp_path: Path
) -> None:
    roles = _roles(_with_component(tmp_path / "rights", "gateway"), site.namespace)
    (role,) = [
        r for r in roles if r["kind"] == "Role" and r["metadata"]["name"].endswith("gateway")
    ]
    role["rules"] += _documented("resources: [secrets]")
    kubeconfig = await _account(site, plane, roles)
    of_class = f"class-{site.namespace}"
    made = _documented("kind: GatewayClass")
    made["metadata"]["name"] = of_class
    await site.api.create(made)
    gateway = objects.gateway(GATEWAY, namespace=site.namespace, of_class=of_class)
    tls = {"certificateRefs": [{"name": "tls"}]}
    https = {"name": "https", "port": 443, "protocol": "HTTPS", "tls": tls}
    gateway["spec"]["listeners"].append(https)
    for name in ("tls", "other"):
        metadata = {"name": name, "namespace": site.namespace}
        made = {"apiVersion": "v1", "kind": "Secret", **secret(*key_pair()), "metadata": metadata}
        await site.api.create(made)
    await site.api.create(gateway)
    await site.api.create(site.pool())
    route = objects.http_route("r", namespace=site.namespace, gateway=GATEWAY, pool="pool")
    await site.api.create(route)
    arguments = ("--namespace", site.namespace, "--lease-namespace", site.namespace)
    conflicts = {
        ON_CONFLICT,
        *(
            ("get", "gateway.networking.k8s.io", kind)
            for kind in ("gateways", "httproutes", "gatewayclasses")
        ),
    }
    async with (
        running_sidecar(
            site.folder, kubeconfig, *arguments, "--gateway", f"{site.namespace}/{GATEWAY}"
        ) as sidecar,
        asyncio.timeout(READY_TIMEOUT),
    ):
        wanted = _granted(roles) - conflicts
        while not wanted <= {r[:3] for r in plane.asked_by(site.namespace, ACCOUNT)}:
            await asyncio.sleep(0.2)
        status, page = await sidecar.page("/gateway")
        assert status == 200
        table = json.loads(page)
        assert [listener["port"] for listener in table["listeners"]] == [80, 443]
        found = await site.api.get(gateway)
        while [entry["attachedRoutes"] for entry in found["status"].get("listeners", ())] != [1, 1]:
            await asyncio.sleep(0.2)
            found = await site.api.get(gateway)
    for data in (gateway, route, objects.gateway_class(of_class, "")):
        found = (await site.api.get(data))["status"]
        said = found.get("conditions") or found["parents"][0]["conditions"]
        assert {c["type"]: c["status"] for c in said}["Accepted"] == "True"
        assert {c["observedGeneration"] for c in said} == {1}
    refused = {r for r in plane.asked_by(site.namespace, ACCOUNT) if r.status in (401, 403)}
    assert refused == set()
    asked = {r[:3] for r in plane.asked_by(site.namespace, ACCOUNT)}
    assert asked | conflicts == _granted(roles)


@pytest_asyncio.fixture(loop_scope="session")
async def served(site: Site) -> AsyncIterator[Site]:
    await site.api.create(site.pool())
    yield site


@pytest.mark.parametrize("resource", ["inferencepools", "pods", "services", "endpointslices"])
@pytest.mark.parametrize("verb", ["list", "watch"])
async def test_without_a_right_it_says_which_is_missing(
    served: Site, plane: ControlPlane, resource: str, verb: str
) -> None:
    roles = deepcopy(_roles("base", served.namespace))
    (role,) = [item for item in roles if item["kind"] == "Role"]
    role["rules"] = [
        {
            **rule,
            "resources": [name],
            "verbs": [v for v in rule["verbs"] if (name, v) != (resource, verb)],
        }
        for rule in role["rules"]
        for name in rule["resources"]
    ]
    kubeconfig = await _account(served, plane, roles)
    arguments = ("--namespace", served.namespace)
    running = running_sidecar(served.folder, kubeconfig, *arguments, wait=False)
    async with running as sidecar, asyncio.timeout(READY_TIMEOUT):
        missing = f'needs the RBAC verb "{verb}" on "{resource}"'
        while missing not in sidecar.process.tail.replace('\\"', '"'):
            assert sidecar.process.running, sidecar.process.tail
            await asyncio.sleep(0.1)
