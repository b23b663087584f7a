"""An installation whose Envoy serves the routes of a Gateway, and the changes of these routes.

The pools have routes of their own, which nothing changes. `route_faults` decides about changes.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import aiohttp
import trustme

from chaos import subjects
from chaos.installation import Installation
from chaos.load import Edge, ask, fingerprint
from chaos.patience import patience
from chaos.source import ApiServer
from chaos.spans import CUT, REFUSED, Timeline
from chaos.subjects import Object, Port
from chaos.workload import POOLS, Ask
from epp_client.envoy.bootstrap import gateway_config
from testbed.stack import ENVOY_HOST, free_ports

Right = Mapping[str, Sequence[str]]
"""The answers that are right, by subject."""
PROBE = 5.0
"""Seconds for the head of the response to a probe, and for the rest."""
GONE = (REFUSED, CUT)
"""Answers of a listener that is not there, or that goes."""


class RoutedInstallation(Installation):
    """`serve --kubernetes --gateway`, with an Envoy that gets everything from it."""

    def __init__(self, folder: Path, *arguments: Any, **settings: Any) -> None:
        super().__init__(folder, *arguments, **settings)
        tls, extra = free_ports(ENVOY_HOST, 2)
        self.ports = {Port.PLAIN: self.listener[1], Port.TLS: tls, Port.EXTRA: extra}
        self._authority = trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        trusted = folder / "authority.pem"
        self._authority.cert_pem.write_to_path(trusted)
        urls = {port: f"http://{ENVOY_HOST}:{number}" for port, number in self.ports.items()}
        urls[Port.TLS] = urls[Port.TLS].replace("http:", "https:")
        self.edge = Edge(urls, str(trusted))
        self.timeline = Timeline()
        self._editions = 0
        self._routing: dict[tuple[str, ...], Object] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def load_options(self) -> list[str]:
        """Options of the client."""
        return ["--edge", json.dumps(asdict(self.edge))]

    def serve_command(self) -> list[str]:
        """The command that starts the sidecar."""
        return [
            *super().serve_command(), "--gateway", f"default/{subjects.GATEWAY}",
            "--gateway-listen", ENVOY_HOST, "--gateway-address", ENVOY_HOST,
            "--no-gateway-access-log", "--lease-namespace", "default",
        ]  # fmt: skip

    def bootstrap(self, listener: tuple[str, int], admin: tuple[str, int]) -> str:
        """The bootstrap of an Envoy without listeners and routes of its own."""
        del listener
        return gateway_config(
            admin=admin, ext_proc_sockets=self.sockets, ads_socket=self.ads_socket
        )

    async def start_peers(self) -> None:
        """Start model servers and pickers, and write the objects of the pools and of the Gateway."""
        await super().start_peers()
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))
        await self._write_first()

    async def start(self) -> None:
        """Start everything, and wait until every route is served."""
        await super().start()
        await self.settle(*subjects.SUBJECTS)

    async def stop(self) -> None:
        """Stop everything."""
        if self._session is not None:
            await self._session.close()
        await super().stop()

    # --- routes ---

    def edition(self) -> str:
        """A new edition of a route."""
        self._editions += 1
        return str(self._editions)

    def certificate(self) -> tuple[Object, str]:
        """A new certificate: its Secret, and its name in answers."""
        issued = self._authority.issue_cert(subjects.HOST)
        [chain] = issued.cert_chain_pems
        made = subjects.secret(chain.bytes(), issued.private_key_pem.bytes())
        return made, fingerprint(ssl.PEM_cert_to_DER_cert(chain.bytes().decode()))

    async def _write_first(self) -> None:
        """The Gateway, and the first state of every subject."""
        secret, name = self.certificate()
        one = [subjects.pool("open")]
        listed = [
            subjects.gateway_class(),
            subjects.gateway(self.ports),
            secret,
            *map(subjects.pool_route, POOLS),
            subjects.weights("0", 1, 1),
            subjects.matches("0", "red"),
            subjects.route(
                "hostnames",
                [subjects.rule("hostnames", "0", one)],
                ["a.example.com", "b.example.com"],
            ),
            *(
                subjects.route(path, [subjects.rule(path, "0", one)])
                for path in ("deleted", "certificate", "listener")
            ),
            subjects.to_service("service", "0"),
            subjects.to_service("granted", "0", subjects.ELSEWHERE),
            *subjects.models([*self.models]),
            *subjects.models([*self.models], subjects.ELSEWHERE),
            subjects.grant(),
        ]
        right = {name: ["0 open"] for name in subjects.SUBJECTS}
        right |= {"weights": ["0 open", "0 observe"], "matches": ["0 red open"]}
        right |= {"service": ["0"], "granted": ["0"], "certificate": [f"0 open {name}"]}
        await self.change(listed, right, wait=False)

    async def change(
        self,
        items: list[Object],
        right: Right,
        *,
        gone: Sequence[Object] = (),
        meanwhile: Right | None = None,
        wait: bool = True,
    ) -> float:
        """Write objects, delete those that are `gone`, and wait until requests show it, if `right` has
        what they show. `meanwhile`: what is right besides until then, where several objects change.
        Returns the seconds from the end of the write. Raises NotBack."""
        for item in items:
            self._routing[_key(item)] = item
        for item in gone:
            self._routing.pop(_key(item), None)
        now = time.monotonic()
        for subject, answers in (*(meanwhile or {}).items(), *right.items()):
            self.timeline.open(subject, answers, now)
        assert isinstance(self.source, ApiServer)
        async with patience("the API server takes changed routes"):
            await self.source.write_routing([*self._routing.values()])
        written = time.monotonic()
        if wait:
            await self.settle(*right)
        return time.monotonic() - written

    async def settle(self, *names: str) -> None:
        """Wait until requests show the newest state of these subjects, from when on it alone is right.
        Raises NotBack."""
        for name in names:
            await self.shown(name)
            self.timeline.close(name, time.monotonic())

    async def shown(self, name: str) -> None:
        """Wait until a request shows the newest state of a subject. Raises NotBack."""
        right = self.timeline.newest(name)
        answer = ""
        async with patience(f"requests for {name} are answered with {sorted(right)}"):
            while answer not in right:
                answer = await self._probe(name)

    async def _probe(self, subject: str) -> str:
        assert self._session is not None
        request = Ask(0, "open", "0 B", "", 0, subject=subject)
        line = await ask(self._session, self.edge, request, PROBE)
        if line["outcome"] != "answered":
            await asyncio.sleep(0.01)
        return str(line["answer"])


def _key(item: Object) -> tuple[str, ...]:
    metadata = item["metadata"]
    return item["kind"], metadata.get("namespace", ""), metadata["name"]
