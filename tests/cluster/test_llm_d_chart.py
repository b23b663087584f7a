"""The image `standalone` as the proxy of llm-d's chart: the container that helm renders runs with the real
Envoy, a real picker and the chart's rights."""

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import psutil
import pytest
import trustme
import yaml

from testbed.cluster.api import Api, Object
from testbed.cluster.control_plane import ControlPlane
from testbed.cluster.gateway import READY_TIMEOUT
from testbed.cluster.pickers import running_picker
from testbed.container import Container, Running, prepared, python_mounts, unavailable
from testbed.envoy import envoy_binary, running_envoy
from testbed.process import Process
from tests.cluster.conftest import Site
from tests.cluster.llm_d import (
    LABELS,
    NO_POOL,
    POD_NAME,
    REAL,
    RELEASE,
    SERVICE,
    VALUES,
    Proxy,
    proxy_of,
    render,
)
from tests.cluster.load import steady_load

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

ROOT = Path(__file__).parents[2]
RBAC = VALUES.with_name("service-mode-rbac.yaml")


IMAGE = {"PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"}
"""Of the Dockerfile's stage `standalone`. tests/deploy/test_image.py has the rest of it."""
ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
WAIT = 60.0


def programs(folder: Path) -> dict[str, Path]:
    """What the image has on its PATH, made of this checkout: `envoy` is ours."""
    folder.mkdir()
    script = folder / "envoy"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m epp_client standalone "$@"\n')
    script.chmod(0o755)
    return {**python_mounts(ROOT, Path(sys.prefix)), "/opt/bin": folder}


async def identity(plane: ControlPlane, api: Api, proxy: Proxy, namespace: str, at: Path) -> None:
    """The files of the Pod's ServiceAccount."""
    at.mkdir()
    account = await plane.service_account(api, namespace, proxy.account)
    assert account.token is not None
    (at / "token").write_text(account.token)
    (at / "ca.crt").write_bytes(account.ca_file.read_bytes())
    (at / "namespace").write_text(namespace)


def values_of(container: dict[str, Any], namespace: str) -> dict[str, str]:
    """Its environment, as the kubelet fills it in."""
    fields = {"metadata.namespace": namespace, "metadata.name": POD_NAME}
    return {
        item["name"]: item.get("value") or fields[item["valueFrom"]["fieldRef"]["fieldPath"]]
        for item in container["env"]
    }


@dataclass
class Gateway:
    """The proxy, running."""

    running: Running
    url: str = "http://127.0.0.1:8081"

    @property
    def log(self) -> str:
        return self.running.process.tail


@asynccontextmanager
async def running_proxy(site: Site, plane: ControlPlane, proxy: Proxy) -> AsyncIterator[Gateway]:
    """Run the container as its spec says, until its readinessProbe succeeds."""
    if why := unavailable():
        pytest.skip(f"no container can be run here: {why}")
    files, tmp, account = (site.folder / name for name in ("files", "tmp", "account"))
    files.mkdir()
    tmp.mkdir(mode=0o777)
    tmp.chmod(0o777)
    for path, content in proxy.files.items():
        (files / Path(path).name).write_text(content)
    await identity(plane, site.api, proxy, site.namespace, account)
    host, port = plane.admin.server.removeprefix("https://").split(":")
    context = proxy.container.get("securityContext") or {}
    container = Container(
        command=proxy.line,
        environment={
            **IMAGE,
            **values_of(proxy.container, site.namespace),
            "PATH": f"/opt/bin:{Path(sys.executable).parent}:/usr/bin:/bin",
            "EPP_CLIENT_ENVOY": envoy_binary(),
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
        },
        read_only={**programs(site.folder / "bin"), "/etc/envoy": files, ACCOUNT: account},
        writable={"/tmp": tmp},
        user="{}:{}".format(context.get("runAsUser", 65532), context.get("runAsGroup", 65532)),
    )
    with prepared(container) as command:
        process = await Process.start(*command)
        try:
            await until_ready(process, proxy)
            yield Gateway(Running(process))
        finally:
            await process.stop(WAIT)


async def until_ready(process: Process, proxy: Proxy) -> None:
    """Ask as the kubelet does."""
    probe = proxy.container["readinessProbe"]["httpGet"]
    url = f"http://127.0.0.1:{probe['port']}{probe['path']}"
    async with aiohttp.ClientSession() as session:
        try:
            async with asyncio.timeout(READY_TIMEOUT):
                while True:
                    assert process.running, process.tail
                    with contextlib.suppress(aiohttp.ClientError):
                        async with session.get(url) as answer:
                            if answer.status == 200:
                                return
                    await asyncio.sleep(0.1)
        except TimeoutError as error:
            raise AssertionError(process.tail) from error


async def installed(site: Site, *settings: str, values: Path | None = VALUES) -> Proxy:
    """The chart is installed, but for its Pods."""
    port = site.models.ports[0]
    target = f"router.modelServers.targetPorts[0].number={port}"
    made = render(site.namespace, LABELS, target, *settings, values=values)
    kinds = ("ServiceAccount", "Role", "RoleBinding", "InferencePool")
    await site.api.apply([item for item in made if item["kind"] in kinds])
    return proxy_of(made)


@pytest.mark.parametrize("image_alone", [False, True], ids=["values", "image-alone"])
async def test_beside_a_real_picker_with_the_rights_of_the_chart(
    site: Site, plane: ControlPlane, image_alone: bool
) -> None:
    proxy = await installed(site, values=None if image_alone else VALUES)
    everywhere = site.models.endpoints(site.models.ports[0])
    picker = running_picker("lwepp", site.kubeconfig, RELEASE, site.namespace, port=9002)
    async with picker as asked, running_proxy(site, plane, proxy) as gateway:
        async with steady_load(gateway.url) as load:
            await load.until_served_by(*everywhere)
            await load.until(lambda seen: all(ANSWERED in a.headers for a in seen))
            await asked.process.kill()
            # FailOpen is the chart's default.
            await load.until(lambda seen: not any(ANSWERED in a.headers for a in seen))
        assert load.failures == []
        await as_a_container(gateway, read_only=not image_alone)
    requests = plane.asked_by(site.namespace, proxy.account)
    assert {request for request in requests if request.status >= 400} == set()
    assert {request.resource for request in requests} == {"pods", "inferencepools"}


ANSWERED = "x-went-into-resp-headers"
"""lwepp has seen the response."""


async def as_a_container(gateway: Gateway, *, read_only: bool) -> None:
    """It is process 1, has no privileges, restarts what dies without leaving a zombie, and drains."""
    init = gateway.running.init
    assert "up" in init.cmdline()
    family = [init, *init.children(recursive=True)]
    assert {uid for process in family for uid in process.uids()} == {65532}
    if read_only:
        mounts = Path(f"/proc/{init.pid}/mountinfo").read_text().splitlines()
        [root] = [line.split() for line in mounts if line.split()[4] == "/"]
        assert root[5].startswith("ro")
    [sidecar] = [child for child in init.children() if "serve" in child.cmdline()]
    sidecar.kill()
    async with asyncio.timeout(WAIT):
        while "the sidecar has exited" not in gateway.log or any(
            child.status() == psutil.STATUS_ZOMBIE for child in init.children()
        ):
            await asyncio.sleep(0.1)
    async with steady_load(gateway.url) as load:
        await load.until(lambda seen: not any(answer.failure for answer in seen))
        init.terminate()
        assert await asyncio.wait_for(gateway.running.process.exited(), WAIT) == 0
    cut = [failure for failure in load.failures if failure.startswith("cut")]
    assert cut == []


async def test_without_an_inference_pool(
    site: Site, plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A simulated picker, as lwepp needs an InferencePool."""
    proxy = await installed(site, NO_POOL)
    everywhere = site.models.endpoints(site.models.ports[0])
    folder = tmp_path_factory.mktemp("tls")
    leaf = trustme.CA().issue_cert("picker.example")
    leaf.private_key_pem.write_to_path(str(folder / "key"))
    leaf.cert_chain_pems[0].write_to_path(str(folder / "crt"))
    picker, _ = await Process.python(
        *("testbed.picker", "--listen", "127.0.0.1:9002", "--endpoints", ",".join(everywhere)),
        *("--tls-cert", str(folder / "crt"), "--tls-key", str(folder / "key")),
    )
    site.owner.push_async_callback(picker.stop, 1)
    async with running_proxy(site, plane, proxy) as gateway:
        async with steady_load(gateway.url) as load:
            await load.until_served_by(*everywhere)
            await load.until(lambda seen: not any(FALLBACK in a.headers for a in seen))
            await picker.kill()
            await load.until(lambda seen: all(FALLBACK in a.headers for a in seen))
        assert load.failures == []
    requests = plane.asked_by(site.namespace, proxy.account)
    assert {request for request in requests if request.status >= 400} == set()
    assert {request.resource for request in requests} == {"pods"}


FALLBACK = "x-inference-fallback"


async def test_as_a_service_of_its_own_it_needs_our_role(site: Site, plane: ControlPlane) -> None:
    proxy = await installed(site, SERVICE)
    assert proxy.account == "default"
    account: Object = {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": {"name": "default"},
    }
    role = list(yaml.safe_load_all(RBAC.read_text()))
    for item in (account, *role):
        item["metadata"]["namespace"] = site.namespace
    await site.api.apply([account, *role])
    # No cluster DNS here: the name of the picker's Service becomes an address.
    settings = proxy.files["/etc/envoy/envoy.yaml"]
    name = f"{RELEASE}-epp.{site.namespace}.svc.cluster.local"
    assert f"picker: {name}:9002" in settings
    proxy.files["/etc/envoy/envoy.yaml"] = settings.replace(name, "127.0.0.1")
    everywhere = site.models.endpoints(site.models.ports[0])
    picker = running_picker("lwepp", site.kubeconfig, RELEASE, site.namespace, port=9002)
    async with picker, running_proxy(site, plane, proxy) as gateway:
        async with steady_load(gateway.url) as load:
            await load.until_served_by(*everywhere)
            await load.until(lambda seen: all(ANSWERED in a.headers for a in seen))
        assert load.failures == []
    requests = plane.asked_by(site.namespace, proxy.account)
    assert {request for request in requests if request.status >= 400} == set()


async def test_the_charts_own_envoy_is_as_the_page_says(site: Site) -> None:
    """Without its picker: there is nothing to fail open to, and a client can name any address."""
    if not REAL:
        pytest.skip("EPP_CLIENT_TEST_LLM_D is not set, to the folder of llm-d's charts")
    proxy = await installed(site, values=None)
    outside = site.models.endpoints(site.models.ports[1])[0]
    chat = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
    bootstrap = proxy.files["/etc/envoy/envoy.yaml"]
    async with (
        running_envoy(bootstrap, ("127.0.0.1", 19000)),
        aiohttp.ClientSession("http://127.0.0.1:8081") as session,
    ):
        async with session.post("/v1/chat/completions", json=chat) as answer:
            assert answer.status == 503
        chosen = {"x-gateway-destination-endpoint": outside}
        async with session.get("/v1/models", headers=chosen) as answer:
            assert answer.headers["x-model-server"] == outside
