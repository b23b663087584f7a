"""A real picker between the model servers and the Envoys of the transparency suite, and what it needs."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from testbed.cluster import objects
from testbed.cluster.api import Api
from testbed.cluster.pickers import EPP_CONFIG_ALONE, running_picker
from tests.transparency.picker import Process, forwarded

LABELS = {"app": "transparency"}
REAL = ("lwepp", "epp", "epp-1.2")
"""GAIE's lwepp v1.6.0, its full picker v1.5.0, and v1.2.1, which says all response headers again."""


@asynccontextmanager
async def real_picker(
    program: str,
    api: Api,
    kubeconfig: Path,
    namespace: str,
    hosts: Sequence[str],
    endpoints: Sequence[str],
) -> AsyncIterator[Process]:
    """Run `program`, without TLS, for a pool whose Pods are those of `endpoints` that are on `hosts`."""
    await api.create(objects.namespace(namespace))
    ports = {int(endpoint.rpartition(":")[2]) for endpoint in endpoints}
    pool = objects.inference_pool(
        "pool", sorted(ports), namespace=namespace, selector={"matchLabels": LABELS}
    )
    for number, ip in enumerate(hosts):
        await api.create(objects.pod(f"model-{number}", ip, namespace=namespace, labels=LABELS))
    await api.create(pool)
    arguments = ("--secure-serving=false",)
    async with (
        running_picker(
            program, kubeconfig, "pool", namespace, *arguments, config=EPP_CONFIG_ALONE
        ) as picker,
        forwarded(picker.address) as process,
    ):
        yield process
