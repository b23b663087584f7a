"""Pods by a selector, in a cluster that has never heard of InferencePools."""

from pathlib import Path

import pytest
import yaml

from testbed.cluster import objects
from testbed.cluster.api import Api, ApiError
from testbed.cluster.control_plane import running_control_plane
from testbed.cluster.gateway import MODEL_HOSTS, Models, running_gateway
from testbed.cluster.network import ADDRESS
from testbed.process import Process
from tests.cluster.load import steady_load

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(240)]

RIGHTS = Path(__file__).parents[2] / "docs" / "getting-started" / "pods-by-selector.yaml"
NAMESPACE, ACCOUNT = "inference", "epp-client"


async def test_the_documented_rights_are_enough_without_the_crd_and_none_too_many(
    models: Models, tmp_path: Path
) -> None:
    roles = list(yaml.safe_load_all(RIGHTS.read_text()))
    [role] = [item for item in roles if item["kind"] == "Role"]
    port = models.ports[0]
    first, *rest = models.endpoints(port)
    picker, ready = await Process.python(
        *("testbed.picker", "--listen", f"{ADDRESS}:0", "--endpoints", ",".join([first, *rest]))
    )
    pods = [
        objects.pod(f"model-{number}", host, namespace=NAMESPACE)
        for number, host in enumerate(MODEL_HOSTS)
    ]
    options = (
        *("--endpoint-selector", "app in (model, other),!canary"),
        *("--endpoint-target-ports", str(port), "--pool-name", f"{NAMESPACE}/llama"),
        *("--picker", f"{NAMESPACE}/picker:{objects.PICKER_PORT}", "--picker-tls", "plaintext"),
        *("--failure-mode", "FailOpen"),
    )
    try:
        async with running_control_plane(with_crds=False) as plane, Api(plane.admin) as api:
            with pytest.raises(ApiError, match="404"):
                await api.call("GET", "/apis/inference.networking.k8s.io/v1")
            await api.create(objects.namespace(NAMESPACE))
            for made in (
                *pods,
                objects.service("picker", namespace=NAMESPACE),
                objects.endpoint_slice("picker-a", "picker", ready["address"], namespace=NAMESPACE),
            ):
                await api.create(made)
            await api.apply(roles)
            identity = await plane.service_account(api, NAMESPACE, ACCOUNT)
            kubeconfig = identity.write(tmp_path / "kubeconfig")
            pool = f"{NAMESPACE}/llama"
            async with (
                running_gateway(tmp_path, kubeconfig, [pool], *options) as gateway,
                steady_load(gateway.pool_url(pool)) as load,
            ):
                await load.until_served_by(first, *rest)
                await api.delete(pods[0], grace=30)
                await load.until_served_by(*rest)
            assert load.failures == []
            asked = plane.asked_by(NAMESPACE, ACCOUNT)
    finally:
        await picker.stop(1)
    assert {request for request in asked if request.status >= 400} == set()
    assert {request[:3] for request in asked} == {
        (verb, group, resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
