"""The real pickers of the Gateway API Inference Extension, as child processes."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from grpc import aio

from testbed.cluster.binaries import binary
from testbed.cluster.network import ADDRESS
from testbed.ports import free_ports
from testbed.process import Process

HOST = "127.0.0.1"
START_TIMEOUT = 60.0
EPP_CONFIG = """
apiVersion: inference.networking.x-k8s.io/v1alpha1
kind: EndpointPickerConfig
plugins:
- type: header-based-testing-filter
- type: destination-endpoint-served-verifier
- type: random-picker
schedulingProfiles:
- name: default
  plugins:
  - pluginRef: header-based-testing-filter
  - pluginRef: random-picker
"""
"""The configuration of GAIE's conformance tests. The filter reads the header
`test-epp-endpoint-selection`."""
EPP_CONFIG_ALONE = EPP_CONFIG.replace("- type: destination-endpoint-served-verifier\n", "")
"""The same without the plugin that echoes the served endpoint, which is only for conformance tests."""
_HEALTH = "/grpc.health.v1.Health/Check"
_EXT_PROC = "envoy.service.ext_proc.v3.ExternalProcessor"
_SERVICES = {"lwepp": "inference-extension", "epp": _EXT_PROC, "epp-1.2": _EXT_PROC}


@dataclass
class Picker:
    """A picker that serves its pool."""

    process: Process
    address: str


@asynccontextmanager
async def running_picker(
    program: str,
    kubeconfig: Path,
    pool: str,
    namespace: str,
    *arguments: str,
    config: str = EPP_CONFIG,
    port: int | None = None,
) -> AsyncIterator[Picker]:
    """Run `lwepp`, `epp` or `epp-1.2` for a pool: TLS with its own self-signed certificate, as by default.
    `config` is the configuration of `epp` and `epp-1.2`. The default of `port` is a free one.

    Raises:
        Unavailable: the program is missing.
        ProcessFailed: it did not become ready; the text has the end of its log.
    """
    # They always listen on all addresses.
    free, health, metrics = free_ports(3)
    port = port or free
    if program != "lwepp":
        arguments = (
            *arguments, f"--config-text={config}", "--tracing=false",
            "--metrics-endpoint-auth=false", "--enable-pprof=false", "-v=0",
        )  # fmt: skip
    process = await Process.start(
        "env", f"KUBECONFIG={kubeconfig}", str(binary(program)),
        f"--pool-name={pool}", f"--pool-namespace={namespace}", f"--grpc-port={port}",
        f"--grpc-health-port={health}", f"--metrics-port={metrics}", *arguments,
    )  # fmt: skip
    try:
        await _serving(process, program, health)
        yield Picker(process, f"{ADDRESS}:{port}")
    finally:
        await process.stop(2)


async def _serving(process: Process, program: str, port: int) -> None:
    """Wait until its health service reports that it knows its pool."""
    name = _SERVICES[program].encode()
    request = b"\x0a" + bytes([len(name)]) + name
    async with aio.insecure_channel(f"{HOST}:{port}") as channel:
        check = channel.unary_unary(_HEALTH)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(START_TIMEOUT):
                while process.running:
                    with contextlib.suppress(grpc.aio.AioRpcError):
                        if await check(request, timeout=2) == b"\x08\x01":
                            return
                    # It does not report readiness: poll it.
                    await asyncio.sleep(0.05)
    raise process.failed("did not become ready")
