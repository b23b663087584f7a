"""The results of a quiet run: of each Envoy, and of each sidecar with its Envoys."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from chaos.account import line_of, refusal_stands
from chaos.samples import Curves, Sampler
from epp_client.settings import TransportName, UpstreamMode
from testbed.deaths import Death
from testbed.envoy import Envoy

_CLOSED = "epp-client.upstream_cx_destroy"
_OPENED = ("upstream_cx_total", "upstream_rq_total")


@dataclass
class Gateway:
    """One Envoy in front of a sidecar, and its results."""

    version: str
    envoy: Envoy
    url: str
    idle: bool
    sampler: Sampler
    before: dict[str, int] = field(default_factory=dict)
    lines: list[dict[str, Any]] = field(default_factory=list)
    open: int = 0
    """Number of open requests."""
    ads_cut: int = 0
    """How often its ADS stream or connection was reopened."""
    relay_cut: int = 0
    """Connections to the relay that ended, although no worker is replaced and idle ones stay open."""

    @property
    def refused(self) -> list[dict[str, Any]]:
        """Allowed refusals: FailClose without a pick, from a picker that a busy machine has delayed."""
        return [line for line in self.lines if _stands(line)]

    @property
    def lost(self) -> list[dict[str, Any]]:
        """Requests whose outcome breaks the promise."""
        return [line for line in self.lines if line["outcome"] != "answered" and not _stands(line)]

    async def look(self) -> None:
        """Read its statistics, and count what was cut since the first time."""
        now = await _statistics(self.envoy)
        self.before = self.before or now
        grown = {name: now[name] - self.before[name] for name in now}
        self.ads_cut = max(grown[f"epp-client-xds.{name}"] for name in _OPENED)
        self.relay_cut = grown[_CLOSED]


@dataclass
class Stack:
    """One sidecar with its Envoys, and their results."""

    transport: TransportName
    mode: UpstreamMode
    gateways: list[Gateway] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    curves: Curves = field(default_factory=Curves)
    deaths: list[Death] = field(default_factory=list)
    log: str = ""

    @property
    def name(self) -> str:
        """Such as `native/override_host`."""
        return f"{self.transport}/{self.mode}"

    @property
    def good(self) -> bool:
        """Whether there were no failures."""
        return not self.failures

    def counts(self) -> Counter[str]:
        """Numbers of open requests and of outcomes."""
        counts = Counter(line["outcome"] for one in self.gateways for line in one.lines)
        counts["under way"] = sum(one.open for one in self.gateways)
        counts["ADS cuts"] = sum(one.ads_cut for one in self.gateways)
        counts["dead"] = len(self.deaths)
        return counts

    def judge(self) -> None:
        """Add everything that breaks the promise to `failures`."""
        self.failures += map(str, self.deaths)
        curves = {"the sidecar": self.curves}
        for one in self.gateways:
            envoy = f"Envoy {one.version}{', idle' if one.idle else ''}"
            curves[envoy] = one.sampler.curves
            self.failures += [
                f"{envoy}: {line['kind']} of pool {line['pool']} {line['outcome']} after"
                f" {line['ended'] - line['began']:.1f} s: {line['status']} {line['reason']}"
                f" {line['detail']}"
                for line in one.lost
            ]
            if one.ads_cut:
                self.failures.append(
                    f"{envoy}: its ADS stream was opened again {one.ads_cut} times"
                )
            if one.relay_cut:
                self.failures.append(f"{envoy}: {one.relay_cut} connections to the relay were cut")
        self.failures += [
            f"{who}: {name} is {found.says}"
            for who, drawn in curves.items()
            for name, found in drawn.trends.items()
            if not found.flat
        ]


def _stands(line: dict[str, Any]) -> bool:
    return line["outcome"] == "refused" and refusal_stands(line_of(line))


async def _statistics(envoy: Envoy) -> dict[str, int]:
    """Envoy's counters of its connections to the sidecar."""
    wanted = [*(f"epp-client-xds.{name}" for name in _OPENED), _CLOSED]
    async with (
        aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session,
        session.get(f"{envoy.admin}/stats?filter=^cluster.epp-client") as answer,
    ):
        text = await answer.text()
    lines = (line.partition(": ") for line in text.splitlines())
    found = {name.removeprefix("cluster."): value for name, _, value in lines}
    return {name: int(found.get(name, "0")) for name in wanted}
