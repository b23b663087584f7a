"""`epp-client status` for a Pod: the real kubectl forwards a port of it, by the real API server."""

from collections.abc import Mapping
from pathlib import Path

import psutil
import pytest

from testbed.cluster.api import Object
from testbed.cluster.machine import Machine
from tests.cluster.kubectl import with_programs
from tests.cluster.pods import pod, ready, until
from tests.terminal.pages import Ended, command

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(150)]

SERVES = ("serve", "--endpoint=127.0.0.1:1", "--health-check=off", "--workers=0", "--no-xds")
RIGHTS = (
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["pods/portforward"], "verbs": ["create"]},
)


def forwards() -> list[int]:
    """The port-forwards that run."""
    return [p.pid for p in psutil.process_iter(["cmdline"])
            if (p.info["cmdline"] or [""])[0].endswith("kubectl")]  # fmt: skip


async def status(environment: Mapping[str, str], *words: str) -> Ended:
    """`epp-client status` with these words. It leaves no kubectl."""
    before = set(forwards())
    ended = await command("status", *words, env=environment)
    assert set(forwards()) <= before
    return ended


async def granted(machine: Machine, namespace: str, *rules: Object) -> Path:
    """The kubeconfig of a ServiceAccount with these rights in its namespace."""
    named = {"metadata": {"name": "viewer", "namespace": namespace}}
    rbac = "rbac.authorization.k8s.io"
    subject = {"kind": "ServiceAccount", "name": "viewer", "namespace": namespace}
    await machine.api.apply(
        [
            {"apiVersion": "v1", "kind": "ServiceAccount", **named},
            {"apiVersion": f"{rbac}/v1", "kind": "Role", **named, "rules": list(rules)},
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "RoleBinding",
                **named,
                "roleRef": {"apiGroup": rbac, "kind": "Role", "name": "viewer"},
                "subjects": [subject],
            },
        ]
    )
    account = await machine.plane.service_account(machine.api, namespace, "viewer")
    return account.write(machine.folder / f"{namespace}-{len(rules)}.kubeconfig")


async def test_a_pod_is_reached_by_the_real_kubectl(
    machine: Machine, own_namespace: str, tmp_path: Path
) -> None:
    # The admin page listens on loopback only, so nothing but a port-forward reaches it.
    sidecar = {"name": "epp-client", "image": "epp-client",
               "args": [*SERVES, "--socket=/tmp/ext-proc.sock"]}  # fmt: skip
    item = pod("sidecar", own_namespace, sidecar, terminationGracePeriodSeconds=0)
    await machine.api.apply([item])
    await until(machine.api, item, ready)
    where = ("--pod", "sidecar", "-n", own_namespace)

    kubeconfig = await granted(machine, own_namespace, *RIGHTS)
    environment = with_programs(kubeconfig, tmp_path)
    # Ready is a container that runs: it has no probe, so that the page may still be to come.
    ended = await status(environment, *where)
    while "nothing listens" in ended.err or "does not answer" in ended.err:
        ended = await status(environment, *where)
    assert ended.err == ""
    assert ended.out.startswith(("OK", "DEGRADED", "FAILING"))
    assert "default/default" in ended.out

    missing = await status(environment, "--pod", "none", "-n", own_namespace)
    assert missing.code == 3
    assert 'port-forward none: Error from server (NotFound): pods "none" not found' in missing.err
    nothing = await status(environment, *where, "--pod-port", "1")
    assert nothing.code == 3, nothing

    await granted(machine, own_namespace, RIGHTS[0])
    forbidden = await status(environment, *where)
    assert forbidden.code == 3
    assert "forbidden" in forbidden.err
