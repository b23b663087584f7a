"""What tests do to an API server, double or real: create, patch and delete objects, as kubectl would.

Independent of the client under test: it goes through kubernetes_asyncio's own.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_asyncio.client
import pytest
from kubernetes_asyncio.config import new_client_from_config

from epp_client.kubernetes.client.resources import NAMESPACE, POD, Resource
from testbed.kubernetes.double import ApiDouble
from testbed.kubernetes.patches import Object


class Refused(Exception):
    """The server said no."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(f"{status} {text}")
        self.status = status


@dataclass
class ApiServer:
    """An API server and a namespace in it that is the test's own."""

    kubeconfig: Path
    namespace: str
    faulty: ApiDouble | None
    """The double; None when the server is a real one."""
    client: kubernetes_asyncio.client.ApiClient

    @property
    def double(self) -> ApiDouble:
        """The double, for tests that inject faults or count requests; skips where there is none."""
        if self.faulty is None:
            pytest.skip("needs faults, or a request log, which a real API server does not have")
        return self.faulty

    async def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Object:
        headers = {"Content-Type": content_type, "accept": "application/json"}
        configuration = self.client.configuration
        if token := await configuration.get_api_key_with_prefix("BearerToken"):
            headers["authorization"] = token
        url = f"{configuration.host}{path}"
        response = await self.client.rest_client.request(
            method, url, headers=headers, body=body, _preload_content=False
        )
        text = await response.text()
        if response.status >= 300:
            raise Refused(response.status, text)
        found: Object = json.loads(text)
        return found

    async def create(self, resource: Resource, data: Object) -> Object:
        data = {"apiVersion": resource.api_version, "kind": resource.kind, **data}
        return await self.call("POST", resource.path(self.namespace), data)

    async def get(self, resource: Resource, name: str) -> Object:
        return await self.call("GET", resource.path(self.namespace, name))

    async def names(self, resource: Resource) -> list[str]:
        found = await self.call("GET", resource.path(self.namespace))
        return [item["metadata"]["name"] for item in found["items"]]

    async def patch(
        self, resource: Resource, name: str, patch: Object, subresource: str = ""
    ) -> Object:
        path = resource.path(self.namespace, name, subresource)
        return await self.call("PATCH", path, patch, "application/merge-patch+json")

    async def delete(self, resource: Resource, name: str, grace: int | None = None) -> Object:
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        return await self.call("DELETE", resource.path(self.namespace, name), options)

    async def pod(
        self,
        name: str,
        labels: dict[str, str],
        ip: str,
        *,
        ready: bool = True,
        node: str = "",
        annotations: dict[str, str] | None = None,
    ) -> Object:
        """A Pod with an address. With a `node` it is deleted as a running one is: marked first."""
        spec: Object = {"containers": [{"name": "model", "image": "example.com/model"}]}
        if node:
            spec["nodeName"] = node
        metadata = {"name": name, "labels": labels, "annotations": annotations or {}}
        await self.create(POD, {"metadata": metadata, "spec": spec})
        return await self.pod_status(name, ip, ready=ready)

    async def pod_status(self, name: str, ip: str, *, ready: bool) -> Object:
        """What a kubelet says of a Pod."""
        condition = {"type": "Ready", "status": "True" if ready else "False"}
        status = {
            "phase": "Running",
            "podIP": ip,
            "podIPs": [{"ip": ip}],
            "conditions": [condition],
        }
        return await self.patch(POD, name, {"status": status}, "status")


async def connect(kubeconfig: Path, namespace: str, double: ApiDouble | None) -> ApiServer:
    """Open the client; whoever does must close `client`."""
    client = await new_client_from_config(str(kubeconfig), persist_config=False)
    return ApiServer(kubeconfig, namespace, double, client)


async def make_namespace(server: ApiServer) -> None:
    await server.call("POST", NAMESPACE.path(), {"metadata": {"name": server.namespace}})


async def delete_namespace(server: ApiServer) -> None:
    await server.call("DELETE", NAMESPACE.path(name=server.namespace))
