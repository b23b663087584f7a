"""Probes of containers: what one asks, and what its answers mean after a while."""

import asyncio
import functools
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import aiohttp
import grpc
from grpc import aio

from testbed.cluster.api import Object
from testbed.cluster.kubelet.spec import port

Execute = Callable[[list[str], float], Awaitable[bool]]
"""Runs a command in the container, with a limit in seconds; whether it exited with 0."""
_HEALTH = "/grpc.health.v1.Health/Check"
_SERVING = b"\x08\x01"
_AGENT = {"user-agent": "kube-probe/1.36"}


@functools.cache
def _unverified() -> ssl.SSLContext:
    # Without the certificates of authorities, whose reading takes 10 ms.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


@dataclass
class Verdict:
    """What the answers of a probe mean. Pure."""

    failure_threshold: int = 3
    success_threshold: int = 1
    good: bool = False
    """Whether the probe counts as passed."""
    failed: bool = False
    """Whether `failure_threshold` answers in a row were bad."""
    _run: int = 0
    _last: bool | None = None

    def heard(self, success: bool) -> None:
        """Count an answer."""
        self._run = self._run + 1 if success == self._last else 1
        self._last = success
        if success and self._run >= self.success_threshold:
            self.good, self.failed = True, False
        if not success and self._run >= self.failure_threshold:
            self.good, self.failed = False, True


def verdict_of(probe: Object) -> Verdict:
    """The verdict before the first answer."""
    return Verdict(probe.get("failureThreshold", 3), probe.get("successThreshold", 1))


class Prober:
    """Asks the probes of one container."""

    def __init__(self, container: Object, address: str, execute: Execute) -> None:
        self._container = container
        self._address = address
        self._execute = execute

    async def follow(self, probe: Object, heard: Callable[[Verdict], Awaitable[None]]) -> None:
        """Ask again and again; `heard` gets the verdict after each answer. Ends when it is cancelled."""
        verdict = verdict_of(probe)
        await asyncio.sleep(probe.get("initialDelaySeconds", 0))
        while True:
            verdict.heard(await self.ask(probe))
            await heard(verdict)
            await asyncio.sleep(probe.get("periodSeconds", 10))

    async def ask(self, probe: Object) -> bool:
        """Whether one probe succeeds."""
        timeout = float(probe.get("timeoutSeconds", 1))
        try:
            if "exec" in probe:
                return await self._execute(probe["exec"]["command"], timeout)
            async with asyncio.timeout(timeout):
                if "httpGet" in probe:
                    return await self.http(probe["httpGet"])
                if "tcpSocket" in probe:
                    return await self._tcp(probe["tcpSocket"])
                return await self._grpc(probe["grpc"])
        except (aiohttp.ClientError, TimeoutError, grpc.aio.AioRpcError, OSError):
            return False

    async def http(self, get: Object) -> bool:
        """Whether a GET is answered with 200 to 399.

        Raises:
            aiohttp.ClientError: it is not answered.
        """
        host = get.get("host") or self._address
        scheme = get.get("scheme", "HTTP").lower()
        url = f"{scheme}://{host}:{port(self._container, get['port'])}{get.get('path', '/')}"
        headers = {item["name"]: item["value"] for item in get.get("httpHeaders") or ()}
        # A connection of its own for each probe; a kubelet verifies no certificate.
        connector = aiohttp.TCPConnector(ssl=_unverified(), force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, headers=_AGENT) as session,
            session.get(url, headers=headers, allow_redirects=False) as answer,
        ):
            return 200 <= answer.status < 400

    async def _tcp(self, given: Object) -> bool:
        host = given.get("host") or self._address
        _, writer = await asyncio.open_connection(host, port(self._container, given["port"]))
        writer.close()
        return True

    async def _grpc(self, given: Object) -> bool:
        name = (given.get("service") or "").encode()
        request = b"\x0a" + bytes([len(name)]) + name if name else b""
        async with aio.insecure_channel(f"{self._address}:{given['port']}") as channel:
            return bool(await channel.unary_unary(_HEALTH)(request) == _SERVING)
