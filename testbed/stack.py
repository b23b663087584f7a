"""A complete InferencePool installation on loopback: model servers, pickers, sidecar, the real Envoy.

Used by the demo and the end-to-end tests. All its processes end with it.
"""

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from epp_client.envoy.bootstrap import envoy_config
from epp_client.envoy.edge import EDGE, Edge
from epp_client.pool.inference_pool import AppProtocol, PoolName
from epp_client.pool.parse import API_VERSION
from epp_client.pool.settings import Modes, ResponseMode
from epp_client.settings import ServeSettings, serve_settings
from epp_client.sidecar import Sidecar, running
from testbed import yaml_text
from testbed.envoy import Envoy, running_envoy
from testbed.ports import free_ports
from testbed.process import Process

ENVOY_HOST = "127.0.0.10"
HOSTS = ("127.0.0.11", "127.0.0.12", "127.0.0.13")
DEAD_HOST = "127.0.0.14"
"""Address of a Pod that is Ready although nothing listens there."""


@dataclass
class Stack:
    """The running installation."""

    url: str
    """Envoy's listener; pool `name` is at `{url}/default/{name}`."""
    pickers: dict[str, Process] = field(default_factory=dict)
    addresses: dict[str, str] = field(default_factory=dict)
    """Address of each picker."""
    endpoints: tuple[str, ...] = ()
    dead_endpoint: str = ""
    sidecar: Sidecar = field(init=False)
    envoy: Envoy = field(init=False)
    manifests: Path = field(init=False)

    def pool_url(self, name: str) -> str:
        """The URL of a pool for clients."""
        return f"{self.url}/default/{name}"


def pod(name: str, ip: str, *, app: str = "model", ready: bool = True) -> dict[str, Any]:
    """A Pod of a model server, with the label `app` that pools select by."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": app}},
        "status": {
            "podIP": ip,
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }


def service(name: str, address: str) -> list[dict[str, Any]]:
    """A picker's Service and its EndpointSlice."""
    ip, _, port = address.rpartition(":")
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": name, "namespace": "default"},
            "spec": {"ports": [{"name": "grpc", "port": 9002}]},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": f"{name}-1",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": name},
            },
            "ports": [{"name": "grpc", "port": int(port)}],
            "endpoints": [{"addresses": [ip], "conditions": {"ready": True}}],
        },
    ]


def inference_pool(
    name: str, port: int, picker: str | None, failure_mode: str, **more: Any
) -> dict[str, Any]:
    """An InferencePool over all model servers. `more` are fields of the spec, except `annotations`."""
    annotations = more.pop("annotations", {})
    spec: dict[str, Any] = {
        "selector": {"matchLabels": {"app": "model"}},
        "targetPorts": [{"number": port}],
        **more,
    }
    if picker is not None:
        spec["endpointPickerRef"] = {
            "name": picker,
            "port": {"number": 9002},
            "failureMode": failure_mode,
        }
    return {
        "apiVersion": API_VERSION,
        "kind": "InferencePool",
        "metadata": {"name": name, "namespace": "default", "annotations": annotations},
        "spec": spec,
    }


async def _start_models(stack: Stack, owner: AsyncExitStack) -> int:
    # One process for all of them: nobody ends a single one.
    process, ready = await Process.python(
        "testbed.model_server", "--listen", *(f"{host}:0" for host in HOSTS)
    )
    owner.push_async_callback(process.stop, 1)
    stack.endpoints = tuple(ready["addresses"])
    port = int(ready["address"].rpartition(":")[2])
    stack.dead_endpoint = f"{DEAD_HOST}:{port}"
    return port


async def start_picker(stack: Stack, name: str, listen: str = "", *options: str) -> str:
    """Start the picker `name` or start it again; returns its address. `options`: see `testbed.picker`."""
    live = ",".join(stack.endpoints)
    # Not port 0: while it is away, the kernel could give its port to a connection.
    listen = listen or f"127.0.0.1:{free_ports(1)[0]}"
    process, ready = await Process.python(
        "testbed.picker", "--listen", listen, "--endpoints", live, *options
    )
    stack.pickers[name], stack.addresses[name] = process, str(ready["address"])
    return stack.addresses[name]


def _pools(port: int) -> list[dict[str, Any]]:
    return [
        inference_pool("open", port, "picker-open", "FailOpen"),
        inference_pool("close", port, "picker-close", "FailClose"),
        inference_pool("h2c", port, "picker-open", "FailOpen", appProtocol="kubernetes.io/h2c"),
        inference_pool("nopicker", port, None, ""),
        inference_pool("lost", port, "no-such-service", "FailClose"),
        *(
            inference_pool(
                mode,
                port,
                "picker-close",
                "FailClose",
                annotations={"epp-client.dev/response-mode": mode},
            )
            for mode in ("observe", "skip")
        ),
    ]


@asynccontextmanager
async def running_stack(
    *,
    routes_to: Sequence[str] = (),
    modes: Mapping[str, Modes] = MappingProxyType({}),
    write: Callable[[list[dict[str, Any]]], str] = yaml_text.write_all,
    edit_bootstrap: Callable[[dict[str, Any]], None] = lambda _: None,
    edge: Edge = EDGE,
    envoy: str = "",
    **settings: Any,
) -> AsyncIterator[Stack]:
    """Start everything; `settings` override those of the sidecar.

    `routes_to` are pools with routes in Envoy that are missing in the manifests, `modes` what their
    pickers get. `write` encodes the objects as a manifest. `edge` is for the bootstrap, which
    `edit_bootstrap` changes in place.
    `envoy` is the path of another Envoy than the one of the venv.

    Pools: `open` (FailOpen) and `close` (FailClose) with a picker each, `h2c` (with `open`'s
    picker), `nopicker`, `lost` (FailClose, its Service is missing), `observe` and `skip` (response
    modes, FailClose).
    """
    async with AsyncExitStack() as owner:
        folder = Path(owner.enter_context(tempfile.TemporaryDirectory(prefix="epp-client-")))
        listener, admin = [(ENVOY_HOST, port) for port in free_ports(2)]
        stack = Stack(f"http://{ENVOY_HOST}:{listener[1]}")
        port = await _start_models(stack, owner)
        addresses = {name: await start_picker(stack, name) for name in ("open", "close")}
        owner.push_async_callback(_stop_pickers, stack)
        pools = _pools(port)
        stack.manifests = folder / "manifests"
        stack.manifests.mkdir()
        objects = [
            *pools,
            *(pod(f"model-{i}", host) for i, host in enumerate((*HOSTS, DEAD_HOST))),
            *service("picker-open", addresses["open"]),
            *service("picker-close", addresses["close"]),
        ]
        (stack.manifests / "all.yaml").write_text(write(objects))
        sidecar_settings = _settings(folder, stack.manifests, settings)
        stack.sidecar = await owner.enter_async_context(running(sidecar_settings))
        bootstrap = yaml_text.read(
            envoy_config(
                [
                    *(PoolName("default", p["metadata"]["name"]) for p in pools),
                    *(PoolName("default", name) for name in routes_to),
                ],
                listener=listener,
                edge=edge,
                admin=admin,
                ext_proc_sockets=sidecar_settings.sockets,
                ads_socket=sidecar_settings.xds_socket,
                upstream_mode=sidecar_settings.upstream_mode,
                app_protocols={PoolName("default", "h2c"): AppProtocol.H2C},
                modes={
                    PoolName("default", "skip"): Modes(response=ResponseMode.SKIP),
                    **{PoolName("default", name): mode for name, mode in modes.items()},
                },
                access_log=False,
            )
        )
        edit_bootstrap(bootstrap)
        stack.envoy = await owner.enter_async_context(running_envoy(bootstrap, admin, binary=envoy))
        yield stack


def _settings(folder: Path, manifests: Path, settings: dict[str, Any]) -> ServeSettings:
    return serve_settings(
        {
            "pools": manifests,
            "socket": folder / "ext-proc.sock",
            "xds_socket": folder / "xds.sock",
            "admin": "127.0.0.1:0",
            "workers": 0,
            "pool_defaults": {
                "tls": {"mode": "plaintext"},
                "pick_timeout": 3.0,
                "response_timeout": 1.0,
            },
            **settings,
        }
    )


async def _stop_pickers(stack: Stack) -> None:
    for process in stack.pickers.values():
        await process.stop(1)
