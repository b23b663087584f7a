"""From the creation of a Pod object to the answer of a request: real Envoy, sidecar, API double."""

from typing import Any

import httpx
import pytest

from epp_client.kubernetes.client.resources import POD
from testbed.kubernetes.objects import ALL
from testbed.kubernetes.patches import Object
from testbed.stack import running_stack
from tests.e2e.tools import echo, until
from tests.kubernetes.client import ApiServer

BY_KIND = {resource.kind: resource for resource in ALL}


@pytest.mark.timeout(180)
async def test_a_request_follows_the_pods_of_the_cluster(api_server: ApiServer) -> None:
    double = api_server.double
    pods: list[Object] = []

    def install(objects: list[dict[str, Any]]) -> str:
        """All but the Pods; what the stack wants written to a file is of no use here."""
        for found in objects:
            if found["kind"] == "Pod":
                pods.append(found)
            else:
                double.objects.create(BY_KIND[found["kind"]], "default", found)
        return ""

    def run(pod: Object) -> None:
        name = pod["metadata"]["name"]
        double.objects.create(POD, "default", pod)
        double.objects.replace(POD, ("default", name), {"status": pod["status"]}, "status")

    following: Any = {"kubeconfig": api_server.kubeconfig, "namespaces": ("default",)}
    defaults: Any = {"tls": {"mode": "plaintext"}, "pick_timeout": 3.0, "drain_grace": 60}
    async with (
        httpx.AsyncClient(timeout=20) as client,
        running_stack(
            write=install, pools=None, kubernetes=following, pool_defaults=defaults
        ) as stack,
    ):
        first = await until(client, stack, "close", lambda a: "x-inference-error" in a.headers)
        assert first[-1].status_code == 503
        # the last one is dead
        for pod in pods[:3]:
            run(pod)
        answers = await until(client, stack, "close", lambda answer: answer.status_code == 200)
        assert answers[-1].json()["size"] == len(b"hello")
        double.outage()
        for _ in range(10):
            assert (await echo(client, stack, "close")).status_code == 200
        assert [stack.sidecar.readiness.reasons] == [{}]
        double.mend()
        # The port moves away and back: no request is lost on the way.
        [port] = {int(endpoint.rpartition(":")[2]) for endpoint in stack.endpoints}
        key, edit = ("default", "close"), "application/merge-patch+json"
        for number in (port, port + 1, port):
            patch = b'{"spec": {"targetPorts": [{"number": %d}]}}' % number
            double.objects.patch(BY_KIND["InferencePool"], key, edit, patch)
            for _ in range(10):
                assert (await echo(client, stack, "close")).status_code == 200
