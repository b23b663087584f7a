"""etcd and kube-apiserver as child processes, with RBAC, without anonymous access, in a temporary
directory.

By default there is no kubelet, scheduler or controller: tests write the status of Pods. With
`workloads`, kube-controller-manager runs, so that Deployments get Pods and Services get EndpointSlices.
"""

import asyncio
import contextlib
import json
import signal
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import aiohttp
import trustme
import yaml

from testbed.cluster.api import Api, Kubeconfig, Object
from testbed.cluster.binaries import binary, crds
from testbed.ports import free_ports
from testbed.process import Process

HOST = "127.0.0.20"
START_TIMEOUT = 90.0
"""Seconds from the start of kube-apiserver to its readiness, on a busy machine."""
CLUSTER_IPS = "198.51.100.0/25"
"""Addresses of Services (RFC 5737)."""
ADMIN_GROUP = "system:masters"
AUDIT = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Metadata", "userGroups": ["system:serviceaccounts"]},
        {"level": "None"},
    ],
}
"""Logs requests of ServiceAccounts and their results; watches also when they begin."""
CONTROLLERS = (
    "deployment-controller", "replicaset-controller", "disruption-controller",
    "endpointslice-controller", "serviceaccount-controller", "namespace-controller",
    "garbage-collector-controller", "root-ca-certificate-publisher-controller",
)  # fmt: skip
"""What Deployments, Services and ServiceAccounts need of kube-controller-manager."""


class Asked(NamedTuple):
    """A kind of request that an identity has made."""

    verb: str
    group: str
    resource: str
    """With its subresource: `inferencepools/status`."""
    status: int


@dataclass
class ControlPlane:
    """A ready API server that can be killed and started again."""

    folder: Path
    admin: Kubeconfig
    etcd: Process
    command: tuple[str, ...]
    server: Process

    async def kill(self) -> None:
        """SIGKILL the API server; etcd stays."""
        await self.server.kill()

    async def start(self) -> None:
        """Start the API server again, at the same address.

        Raises:
            ProcessFailed: it did not become ready.
        """
        self.server = await Process.start(*self.command)
        await _ready(self.server, self.admin)

    def signal(self, number: signal.Signals) -> None:
        """Signal the API server."""
        self.server.signal(number)

    async def service_account(self, api: Api, namespace: str, name: str) -> Kubeconfig:
        """The identity of a ServiceAccount, by a token from TokenRequest."""
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{name}/token"
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
        token = (await api.call("POST", path, request))["status"]["token"]
        return Kubeconfig(self.admin.server, self.admin.ca_file, token=token)

    def asked_by(self, namespace: str, service_account: str) -> set[Asked]:
        """All requests of a ServiceAccount so far, from the audit log."""
        user = f"system:serviceaccount:{namespace}:{service_account}"
        asked = set()
        for line in (self.folder / "audit.log").read_text().splitlines():
            event = json.loads(line)
            if event["user"]["username"] == user and "responseStatus" in event:
                about = event.get("objectRef", {})
                names = (about.get("resource", event["requestURI"]), about.get("subresource"))
                resource = "/".join(filter(None, names))
                status = event["responseStatus"]["code"]
                asked.add(Asked(event["verb"], about.get("apiGroup", ""), resource, status))
        return asked


@asynccontextmanager
async def running_control_plane(
    *, with_crds: bool = True, host: str = HOST, workloads: bool = False
) -> AsyncIterator[ControlPlane]:
    """etcd and kube-apiserver at `host`, by default with the CRDs established. With `workloads` also
    kube-controller-manager, and every Pod has a ServiceAccount; CRDs are those of the conformance suites.

    Raises:
        Unavailable: the programs are missing.
        ProcessFailed: one did not become ready; the text has the end of its log.
    """
    with tempfile.TemporaryDirectory(prefix="epp-client-cluster-") as name:
        folder = Path(name)
        (port,) = free_ports(1)
        (etcd_port,) = free_ports(1)
        admin = _certificates(folder, host, f"https://{host}:{port}")
        (folder / "audit.yaml").write_text(yaml.safe_dump(AUDIT))
        command = _api_server(folder, host, port, etcd_port, workloads=workloads)
        async with AsyncExitStack() as owner:
            etcd = await _start_etcd(folder, etcd_port)
            owner.push_async_callback(etcd.kill)
            plane = ControlPlane(folder, admin, etcd, command, await Process.start(*command))
            # The server may be another one by then.
            owner.push_async_callback(plane.kill)
            await _ready(plane.server, admin)
            if with_crds:
                async with Api(admin) as api:
                    await _install_crds(api, crds(of_epp=not workloads))
            if workloads:
                controllers = await _start_controllers(folder, admin)
                owner.push_async_callback(controllers.kill)
            yield plane


def _certificates(folder: Path, host: str, server: str) -> Kubeconfig:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.crt"))
    leafs = {
        "server": authority.issue_cert(host),
        "admin": authority.issue_cert("admin", common_name="admin", organization_name=ADMIN_GROUP),
    }
    for name, leaf in leafs.items():
        leaf.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        leaf.cert_chain_pems[0].write_to_path(str(folder / f"{name}.crt"))
    return Kubeconfig(server, folder / "ca.crt", folder / "admin.crt", folder / "admin.key")


async def _start_etcd(folder: Path, port: int) -> Process:
    client = f"http://{HOST}:{port}"
    # No peer ever connects.
    peer = f"http://{HOST}:0"
    return await Process.start(
        str(binary("etcd")),
        "--name=test",
        f"--data-dir={folder}/etcd",
        "--unsafe-no-fsync",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=test={peer}",
        "--log-level=warn",
    )


async def _start_controllers(folder: Path, admin: Kubeconfig) -> Process:
    return await Process.start(
        str(binary("kube-controller-manager")),
        f"--kubeconfig={admin.write(folder / 'controllers.kubeconfig')}",
        f"--controllers={','.join(CONTROLLERS)}",
        f"--service-account-private-key-file={folder}/server.key",
        f"--root-ca-file={folder}/ca.crt",
        f"--cert-dir={folder}/controllers",
        "--leader-elect=false",
        # Nobody asks it anything.
        "--secure-port=0",
        # A Deployment of many Pods is ready sooner.
        "--kube-api-qps=200",
        "--kube-api-burst=400",
        "--v=0",
    )


def _api_server(
    folder: Path, host: str, port: int, etcd_port: int, *, workloads: bool
) -> tuple[str, ...]:
    # Without controllers nobody creates the `default` ServiceAccounts that every Pod would need.
    without = () if workloads else ("--disable-admission-plugins=ServiceAccount",)
    return (
        str(binary("kube-apiserver")),
        f"--etcd-servers=http://{HOST}:{etcd_port}",
        f"--bind-address={host}",
        f"--advertise-address={host}",
        f"--secure-port={port}",
        f"--client-ca-file={folder}/ca.crt",
        f"--tls-cert-file={folder}/server.crt",
        f"--tls-private-key-file={folder}/server.key",
        # The kubelet has the server's certificate: it listens at the same address.
        f"--kubelet-certificate-authority={folder}/ca.crt",
        f"--kubelet-client-certificate={folder}/admin.crt",
        f"--kubelet-client-key={folder}/admin.key",
        "--authorization-mode=RBAC",
        "--anonymous-auth=false",
        f"--service-account-key-file={folder}/server.key",
        f"--service-account-signing-key-file={folder}/server.key",
        "--service-account-issuer=https://kubernetes.default.svc",
        f"--service-cluster-ip-range={CLUSTER_IPS}",
        *without,
        f"--audit-policy-file={folder}/audit.yaml",
        f"--audit-log-path={folder}/audit.log",
        "--endpoint-reconciler-type=none",
        "--v=0",
    )


async def _ready(server: Process, admin: Kubeconfig) -> None:
    """Wait until the API server is ready, after all its start-up hooks."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(START_TIMEOUT), aiohttp.ClientSession() as session:
            tls = admin.tls()
            while server.running:
                with contextlib.suppress(aiohttp.ClientError):
                    async with session.get(f"{admin.server}/readyz", ssl=tls) as answer:
                        if answer.status == 200:
                            return
                # It does not report readiness: poll it.
                await asyncio.sleep(0.1)
    raise server.failed("did not become ready")


async def _install_crds(api: Api, manifests: list[Path]) -> None:
    definitions = [d for path in manifests for d in yaml.safe_load_all(path.read_text()) if d]
    for definition in definitions:
        # The generator of the CRDs writes an empty status.
        definition.pop("status", None)
        await api.create(definition)
    async with asyncio.timeout(START_TIMEOUT):
        for definition in definitions:
            while not _established(await api.get(definition)):
                await asyncio.sleep(0.05)


def _established(definition: Object) -> bool:
    conditions = definition.get("status", {}).get("conditions") or []
    return any(c["type"] == "Established" and c["status"] == "True" for c in conditions)
