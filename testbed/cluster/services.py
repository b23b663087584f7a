"""Gives Services their addresses, and forwards TCP connections from them to ready endpoints.

The work of kube-proxy and of a load balancer's controller, as one process in user space:
`python -m testbed.cluster.services --kubeconfig FILE`. ClusterIPs and the addresses of load balancers are
addresses of the bridge, where it listens. The client's address is lost on the way. TCP alone.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from testbed.cluster.api import Api, ApiError, Object, read_kubeconfig
from testbed.cluster.kubelet.sandbox import BRIDGE, NODE, NetworkFailed, run
from testbed.cluster.watch import Changed, Gone, Listed, uid, watch

LOAD_BALANCERS = "198.51.100."
"""The network of load balancers' addresses, above those of ClusterIPs (RFC 5737)."""
_CHUNK = 256 * 1024
_CONNECT_TIMEOUT = 5.0

Key = tuple[str, str]
"""Namespace and name of a Service."""


@dataclass
class Endpoints:
    """The ready endpoints of Services, from all their EndpointSlices. Pure."""

    _slices: dict[str, Object] = field(default_factory=dict)

    def replace(self, slices: Iterable[Object]) -> None:
        """Take these in the place of all."""
        self._slices = {uid(item): item for item in slices}

    def put(self, item: Object) -> None:
        """Take a new or changed EndpointSlice."""
        self._slices[uid(item)] = item

    def remove(self, item: Object) -> None:
        """Forget an EndpointSlice."""
        self._slices.pop(uid(item), None)

    def of(self, service: Key, port: str) -> list[tuple[str, int]]:
        """The addresses and ports that are ready behind a port of a Service, by its name."""
        return list(self._found(service, port))

    def _found(self, service: Key, port: str) -> Iterator[tuple[str, int]]:
        for item in self._slices.values():
            metadata = item["metadata"]
            name = (metadata.get("labels") or {}).get("kubernetes.io/service-name")
            if (metadata["namespace"], name) != service or item["addressType"] != "IPv4":
                continue
            numbers = [p["port"] for p in item.get("ports") or () if (p.get("name") or "") == port]
            for endpoint in item.get("endpoints") or ():
                if (endpoint.get("conditions") or {}).get("ready") is not False:
                    for number in numbers:
                        yield endpoint["addresses"][0], number


@dataclass
class _Served:
    """A Service that is served."""

    item: Object
    balancer: str | None
    servers: dict[tuple[str, int], asyncio.Server] = field(default_factory=dict)


class Services:
    """All Services of the cluster."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._endpoints = Endpoints()
        self._served: dict[str, _Served] = {}
        self._free = [f"{LOAD_BALANCERS}{number}" for number in range(130, 255)]
        self._turn = itertools.count()

    async def run(self) -> None:
        """Follow Services and EndpointSlices until it is cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow_endpoints())
            tasks.create_task(self._follow_services())

    async def _follow_endpoints(self) -> None:
        async for event in watch(self._api, "/apis/discovery.k8s.io/v1/endpointslices"):
            match event:
                case Listed(items):
                    self._endpoints.replace(items)
                case Changed(item):
                    self._endpoints.put(item)
                case Gone(item):
                    self._endpoints.remove(item)

    async def _follow_services(self) -> None:
        async for event in watch(self._api, "/api/v1/services"):
            match event:
                case Listed(items):
                    for gone in self._served.keys() - {uid(item) for item in items}:
                        await self._end(gone)
                    for item in items:
                        await self._serve(item)
                case Changed(item):
                    await self._serve(item)
                case Gone(item):
                    await self._end(uid(item))

    async def _serve(self, item: Object) -> None:
        served = self._served.setdefault(uid(item), _Served(item, None))
        served.item = item
        balanced = item["spec"].get("type") == "LoadBalancer"
        if balanced and served.balancer is None:
            served.balancer = self._address_of(item)
            await self._add(served.balancer)
        elif not balanced and served.balancer is not None:
            await self._release(served)
        if balanced:
            await self._publish(item, served.balancer or "")
        wanted = _listeners(item, served.balancer)
        for place in served.servers.keys() - wanted.keys():
            served.servers.pop(place).close()
        for (address, number), port in wanted.items():
            if (address, number) not in served.servers:
                if address not in (served.balancer, NODE):
                    await self._add(address)
                server = await self._listen(served, address, number, port)
                if server is not None:
                    served.servers[address, number] = server

    def _address_of(self, item: Object) -> str:
        """The address that it has already, or a free one."""
        ingress = ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
        known = ingress[0].get("ip")
        address = known if known in self._free else self._free[0]
        self._free.remove(address)
        return address

    async def _add(self, address: str) -> None:
        with contextlib.suppress(NetworkFailed):
            # It may be there: a Service can have several ports.
            await run(f"ip addr add {address}/32 dev {BRIDGE}")

    async def _publish(self, item: Object, address: str) -> None:
        ingress = [{"ip": address, "ipMode": "VIP"}]
        if ((item.get("status") or {}).get("loadBalancer") or {}).get("ingress") != ingress:
            with contextlib.suppress(ApiError, aiohttp.ClientError, TimeoutError):
                await self._api.patch(
                    {"apiVersion": "v1", "kind": "Service", **item},
                    {"status": {"loadBalancer": {"ingress": ingress}}},
                    "status",
                )

    async def _listen(
        self, served: _Served, address: str, number: int, port: str
    ) -> asyncio.Server | None:
        metadata = served.item["metadata"]
        key = (metadata["namespace"], metadata["name"])

        async def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await self._forward(key, port, reader, writer)

        try:
            return await asyncio.start_server(accepted, address, number, limit=_CHUNK, backlog=1024)
        except OSError as error:
            print(f"services: {key}: cannot listen at {address}:{number}: {error}", flush=True)
            return None

    async def _forward(
        self, key: Key, port: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        ready = self._endpoints.of(key, port)
        try:
            if not ready:
                # As kube-proxy does: refused, as near as one comes after accepting.
                writer.transport.abort()
                return
            target = ready[next(self._turn) % len(ready)]
            async with asyncio.timeout(_CONNECT_TIMEOUT):
                there, back = await asyncio.open_connection(*target, limit=_CHUNK)
            await asyncio.gather(_pump(reader, back), _pump(there, writer))
        except (OSError, TimeoutError):
            writer.transport.abort()
        finally:
            writer.close()

    async def _release(self, served: _Served) -> None:
        if served.balancer is not None:
            with contextlib.suppress(NetworkFailed):
                await run(f"ip addr del {served.balancer}/32 dev {BRIDGE}")
            self._free.append(served.balancer)
            served.balancer = None

    async def _end(self, gone: str) -> None:
        served = self._served.pop(gone)
        for server in served.servers.values():
            # Open connections go on, as with kube-proxy.
            server.close()
        await self._release(served)
        for address in {address for address, _ in served.servers}:
            if address != NODE:
                with contextlib.suppress(NetworkFailed):
                    await run(f"ip addr del {address}/32 dev {BRIDGE}")


def _listeners(item: Object, balancer: str | None) -> dict[tuple[str, int], str]:
    """Addresses and ports where a Service is served, with the names of its ports. Pure."""
    spec = item["spec"]
    own = spec.get("clusterIP")
    addresses = [a for a in (own if own != "None" else None, balancer) if a]
    wanted = {}
    for port in spec.get("ports") or ():
        if port.get("protocol", "TCP") != "TCP" or _unmanaged(item):
            continue
        for address in addresses:
            wanted[address, port["port"]] = port.get("name", "")
        if "nodePort" in port:
            wanted[NODE, port["nodePort"]] = port.get("name", "")
    return wanted


def _unmanaged(item: Object) -> bool:
    """Whether it is the API server's own Service, which has no EndpointSlices here, or a DNS name."""
    metadata, kind = item["metadata"], item["spec"].get("type")
    return (metadata["namespace"], metadata["name"]) == (
        "default",
        "kubernetes",
    ) or kind == "ExternalName"


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Copy until the end of the stream, and pass that end on. An error ends both directions."""
    try:
        while data := await reader.read(_CHUNK):
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.transport.abort()
        raise


async def _run(kubeconfig: Path) -> None:
    async with Api(read_kubeconfig(kubeconfig)) as api:
        running = asyncio.create_task(Services(api).run())
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, running.cancel)
        print(json.dumps({"load_balancers": f"{LOAD_BALANCERS}128/25"}), flush=True)
        await asyncio.wait({running})
        if not running.cancelled():
            running.result()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    asyncio.run(_run(parser.parse_args().kubeconfig))
