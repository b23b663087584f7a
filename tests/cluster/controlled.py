"""The controller in this process, with the rights of its manifests, and Gateways that it runs."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epp_client.controller.app import template
from epp_client.controller.applying import Pace as ApplyPace
from epp_client.controller.objects import Images
from epp_client.controller.operator import Identity, Operator, Paces
from epp_client.kubernetes.client.access import Access
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.follow.reflector import Pace as ReflectorPace
from epp_client.kubernetes.status.lease import Terms
from epp_client.kubernetes.status.report import Pace as StatusPace
from epp_client.settings import DEFAULT_CONTROLLER
from testbed.cluster import objects
from testbed.cluster.api import Api, ApiError, Object
from tests.cluster.pods import until

SYSTEM = "epp-client-system"
ACCOUNT = "epp-client-controller"
NAME = "edge-epp-client"
"""Of the objects of the Gateway `edge`."""
KINDS = {
    "Deployment": "apps/v1",
    "Service": "v1",
    "ServiceAccount": "v1",
    "ConfigMap": "v1",
    "Role": "rbac.authorization.k8s.io/v1",
    "RoleBinding": "rbac.authorization.k8s.io/v1",
    "PodDisruptionBudget": "policy/v1",
    "HorizontalPodAutoscaler": "autoscaling/v2",
}
BINDING: Object = {
    "apiVersion": "rbac.authorization.k8s.io/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "epp-client-gateway"},
}
QUICK = Paces(
    ApplyPace(first=0.1, longest=0.5, between=0.0),
    ReflectorPace(first=0.05, longest=0.3, absent=0.3, settled=0.2),
    StatusPace(settle=0.02, between=0.0, object=0.05, conflict=0.02),
    Terms(duration=3, renewal=0.5),
)
PATIENCE = 30.0


@asynccontextmanager
async def controlling(kubeconfig: Path, name: str = "one") -> AsyncIterator[Operator]:
    """A running replica of the controller."""
    api = KubernetesApi(Access(kubeconfig))
    await api.open()
    identity = Identity(DEFAULT_CONTROLLER, SYSTEM, ACCOUNT, name)
    operator = Operator(
        api,
        identity,
        template(),
        Images("epp-client:test", "envoyproxy/envoy:test"),
        asyncio.get_running_loop().time,
        QUICK,
    )
    task = asyncio.create_task(operator.run())
    try:
        yield operator
    finally:
        task.cancel()
        await asyncio.wait({task})
        await api.close()
    assert task.cancelled(), task.exception()


@dataclass
class World:
    """A namespace with a Gateway `edge`."""

    api: Api
    namespace: str

    def gateway(self, *ports: int, **spec: Any) -> Object:
        """The Gateway with HTTP listeners at these ports."""
        made = objects.gateway("edge", namespace=self.namespace)
        made["spec"]["listeners"] = [
            {"name": f"at-{port}", "port": port, "protocol": "HTTP"} for port in ports or (80,)
        ]
        made["spec"] |= spec
        return made

    def object(self, kind: str, name: str = NAME) -> Object:
        """An object of the Gateway, to ask for it."""
        metadata = {"name": name, "namespace": self.namespace}
        return {"apiVersion": KINDS[kind], "kind": kind, "metadata": metadata}

    async def there(self) -> dict[str, Object]:
        """The objects of the Gateway by kind."""
        found: dict[str, Object] = {}
        for kind in KINDS:
            try:
                found[kind] = await self.api.get(self.object(kind))
            except ApiError as error:
                if error.status != 404:
                    raise
        return found

    async def until_there(self, *kinds: str) -> dict[str, Object]:
        """Wait until exactly these kinds are there."""
        async with asyncio.timeout(PATIENCE):
            while {*(found := await self.there())} != {*kinds}:
                await asyncio.sleep(0.1)
        return found

    async def runs(self) -> None:
        """Say of the Deployment and the Service what a cluster would say."""
        running = {"replicas": 2, "availableReplicas": 2, "readyReplicas": 2}
        await until(self.api, self.object("Service"), bool)
        await self.api.patch(self.object("Deployment"), {"status": running}, "status")
        ingress = {"loadBalancer": {"ingress": [{"ip": "192.0.2.7"}]}}
        await self.api.patch(self.object("Service"), {"status": ingress}, "status")

    async def condition(
        self, kind: str, holds: Callable[[Object], Any], item: Object | None = None
    ) -> Object:
        """Wait for a condition of the Gateway for which `holds` is true."""
        found = await until(
            self.api,
            item or self.gateway(),
            lambda data: any(holds(c) for c in conditions(data) if c["type"] == kind),
        )
        return next(c for c in conditions(found) if c["type"] == kind)


def conditions(data: Object) -> list[Object]:
    """The conditions of an object."""
    return (data.get("status") or {}).get("conditions") or []


BASIC = ("Deployment", "Service", "ServiceAccount", "ConfigMap", "PodDisruptionBudget")
