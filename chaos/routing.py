"""The Gateway of a run: writes its objects, and tells by requests when a change is in force."""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import aiohttp
import trustme

from chaos import subjects
from chaos.load import Edge, ask, fingerprint
from chaos.patience import patience
from chaos.spans import Timeline
from chaos.subjects import Object, Port
from chaos.workload import POOLS, Ask

Right = Mapping[str, Sequence[str]]
"""The answers that are right, by subject."""
Write = Callable[[list[Object]], Awaitable[None]]
"""Makes the API server have these objects and no others, however long it is away."""
PROBE = 5.0
"""Seconds for the head of the response to a probe, and for the rest."""


class Routing:
    """The routes of the pools, which nothing changes, and those of the subjects."""

    def __init__(
        self, folder: Path, ports: Mapping[Port, int], write: Write, of_class: str = "chaos"
    ) -> None:
        """`folder` gets the certificate of the authority."""
        self.gateway_class = of_class
        self.drain_time = 1.0
        """Seconds after which Envoy closes the connections of a removed listener: `--drain-time-s`."""
        self.ports = ports
        self.timeline = Timeline()
        self.models: Sequence[str] = ()
        """The endpoints of the Services; all have one port."""
        self.edge = Edge({}, str(folder / "authority.pem"))
        self._write = write
        self._authority = trustme.CA()
        folder.mkdir(parents=True, exist_ok=True)
        self._authority.cert_pem.write_to_path(self.edge.authority)
        self._editions = 0
        self._objects: dict[tuple[str, ...], Object] = {}
        self._session: aiohttp.ClientSession | None = None

    @property
    def load_options(self) -> list[str]:
        """Options of the client."""
        return ["--edge", json.dumps(asdict(self.edge)), "--subjects", *self.subjects]

    def at(self, host: str) -> None:
        """Where the Gateway is."""
        for port, number in self.ports.items():
            scheme = "https" if port is Port.TLS else "http"
            self.edge.bases[port] = f"{scheme}://{host}:{number}"

    async def open(self) -> None:
        """Open the client of probes, in the event loop that uses it."""
        self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(force_close=True))

    async def close(self) -> None:
        """Close it."""
        if self._session is not None:
            await self._session.close()

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

    async def write_first(self, gateway: Sequence[Object]) -> None:
        """Write the objects of the Gateway, and the first state of every subject. Services and a grant are
        only for those who have `models`."""
        secret, name = self.certificate()
        one = [subjects.pool("open")]
        simple = ("deleted", "certificate", "listener")
        hostnames = ["a.example.com", "b.example.com"]
        listed = [
            *gateway,
            secret,
            *map(subjects.pool_route, POOLS),
            subjects.weights("0", 1, 1),
            subjects.matches("0", "red"),
            subjects.route("hostnames", [subjects.rule("hostnames", "0", one)], hostnames),
            *(subjects.route(path, [subjects.rule(path, "0", one)]) for path in simple),
        ]
        right = {path: ["0 open"] for path in (*simple, "hostname", "other-hostname")}
        right |= {"weights": ["0 open", "0 observe"], "matches": ["0 red open"]}
        right |= {"certificate": [f"0 open {name}"]}
        if self.models:
            listed += [
                *subjects.models(self.models),
                *subjects.models(self.models, subjects.ELSEWHERE),
                subjects.to_service("service", "0"),
                subjects.to_service("granted", "0", subjects.ELSEWHERE),
                subjects.grant(),
            ]
            right |= {"service": ["0"], "granted": ["0"]}
        await self.change(listed, right, wait=False)

    @property
    def subjects(self) -> list[str]:
        """The subjects that there are."""
        return list(dict.fromkeys(span.subject for span in self.timeline.spans))

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
            self._objects[subjects.key(item)] = item
        for item in gone:
            self._objects.pop(subjects.key(item), None)
        now = time.monotonic()
        for subject, answers in (*(meanwhile or {}).items(), *right.items()):
            self.timeline.open(subject, answers, now)
        async with patience("the API server takes changed routes"):
            await self._write([*self._objects.values()])
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
