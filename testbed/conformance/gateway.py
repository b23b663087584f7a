"""How the gateway under test comes into the cluster. What a suite is run against is decided here alone.

`controller`: `epp-client controller` is installed from `config/kubernetes/controller`, and does the rest.
`pairs`: for each Gateway a Deployment of Envoy and `epp-client serve --kubernetes --gateway`, made here.
`none`: nothing but a GatewayClass, which is accepted: a suite's set-up runs until it waits for Gateways.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

from epp_client.settings import DEFAULT_CONTROLLER
from testbed.cluster.api import Api, ApiError, Object
from testbed.cluster.machine import Machine
from testbed.cluster.watch import Changed, Gone, Listed, watch
from testbed.conformance import controller, pairs
from testbed.conformance.suites import GATEWAY_CLASS

_GATEWAYS = "/apis/gateway.networking.k8s.io/v1/gateways"


def gateway_class() -> Object:
    """The GatewayClass that the suites name."""
    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "GatewayClass",
        "metadata": {"name": GATEWAY_CLASS},
        "spec": {"controllerName": DEFAULT_CONTROLLER},
    }


@asynccontextmanager
async def _nothing(machine: Machine) -> AsyncIterator[None]:
    await _accept(machine.api)
    yield


@asynccontextmanager
async def _pairs(machine: Machine) -> AsyncIterator[None]:
    """Follow Gateways, and make and delete what serves each."""
    await _accept(machine.api)
    following = asyncio.create_task(_follow(machine.api))
    try:
        yield
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)


@asynccontextmanager
async def _controller(machine: Machine) -> AsyncIterator[None]:
    await machine.api.apply(controller.manifests())
    yield


HOW: Mapping[str, Callable[[Machine], contextlib.AbstractAsyncContextManager[None]]] = {
    "controller": _controller,
    "pairs": _pairs,
    "none": _nothing,
}
"""The ways to install the gateway under test."""


@asynccontextmanager
async def installed(machine: Machine, how: str) -> AsyncIterator[None]:
    """Install the gateway under test; `how` is a key of HOW.

    Raises:
        Unavailable: what it needs is not there.
    """
    await machine.api.apply([gateway_class()])
    async with HOW[how](machine):
        yield


async def _accept(api: Api) -> None:
    """Write the status of the GatewayClass, as nobody else does."""
    made = await api.get(gateway_class())
    condition = {
        "type": "Accepted",
        "status": "True",
        "reason": "Accepted",
        "message": "",
        "observedGeneration": made["metadata"]["generation"],
        "lastTransitionTime": made["metadata"]["creationTimestamp"],
    }
    await api.patch(gateway_class(), {"status": {"conditions": [condition]}}, "status")


async def _follow(api: Api) -> None:
    async for event in watch(api, _GATEWAYS):
        match event:
            case Listed(items):
                for item in items:
                    await _serve(api, item)
            case Changed(item):
                await _serve(api, item)
            case Gone():
                # Everything has an ownerReference to the Gateway.
                pass


async def _serve(api: Api, gateway: Object) -> None:
    if gateway["spec"]["gatewayClassName"] != GATEWAY_CLASS:
        return
    if "deletionTimestamp" in gateway["metadata"]:
        return
    try:
        service = pairs.service(gateway)
        await api.apply([service])
        address = await _address(api, service)
        await api.apply(pairs.objects(gateway, address))
    except ApiError as error:
        # 404: it was deleted at the same moment.
        if error.status != 404:
            print(f"pairs: {gateway['metadata']['name']}: {error}", flush=True)


async def _address(api: Api, service: Object) -> str:
    """The load balancer's address of a Service."""
    while True:
        status = (await api.get(service)).get("status") or {}
        if ingress := (status.get("loadBalancer") or {}).get("ingress"):
            return str(ingress[0]["ip"])
        await asyncio.sleep(0.05)
