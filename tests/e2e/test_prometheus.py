"""A real Prometheus scrapes a sidecar: every query of the dashboard returns data, with our labels."""

import asyncio
import json
import re
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from epp_client.errors import LeftOut, Reason
from epp_client.metrics.certificates import CertificateSource
from epp_client.relay.outcome import Eviction
from testbed.ports import free_ports
from testbed.process import Process
from testbed.stack import Stack
from tests.admin.fleet import Fleet, Followed
from tests.admin.test_metrics import certificate
from tests.e2e.tools import echo

pytestmark = pytest.mark.asyncio(loop_scope="session")

CONFIG = Path(__file__).parents[2] / "config"
RULES = CONFIG / "prometheus" / "rules.yaml"
DASHBOARD = json.loads((CONFIG / "grafana" / "epp-client.json").read_text())
PATIENCE = 25.0
VARIABLES = {"$__rate_interval": "30s", "$namespace": ".*", "$pool": ".*"}
"""What Grafana writes in the place of them."""
IN_A_CLUSTER = {
    "epp_client_api_stale_seconds",
    "epp_client_api_requests_total",
    "epp_client_api_faults_total",
    "epp_client_api_events_total",
    "epp_client_status_writes_total",
    "epp_client_status_leader",
    "epp_client_certificate_not_after_seconds",
}
"""Metrics that a sidecar with files does not have."""
RARE = {"epp_client_picker_retries_total", "epp_client_bodies_not_retained_total"}
"""They need a picker that dies while it is asked, and a large body."""


def panels() -> Mapping[str, str]:
    """The query of each line of the dashboard, with its panel."""
    found = {}
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            query = target["expr"]
            for variable, text in VARIABLES.items():
                query = query.replace(variable, text)
            found[f"{panel['title']}: {target['legendFormat']}"] = query
    return found


class Prometheus:
    """A running Prometheus."""

    def __init__(self, url: str, client: httpx.AsyncClient) -> None:
        self._url = url
        self._client = client

    async def query(self, text: str) -> list[dict[str, Any]]:
        """The series of an instant query."""
        answer = await self._client.get(f"{self._url}/api/v1/query", params={"query": text})
        data = answer.json()
        assert data["status"] == "success", (text, data)
        found: list[dict[str, Any]] = data["data"]["result"]
        return found

    async def without_data(self, queries: Mapping[str, str]) -> set[str]:
        """The names of queries that return nothing."""
        return {name for name, text in queries.items() if not await self.query(text)}


@asynccontextmanager
async def running_prometheus(folder: Path, target: str) -> AsyncIterator[Prometheus]:
    """A Prometheus that scrapes `target` twice a second and evaluates our rules."""
    program = shutil.which("prometheus")
    if program is None:
        pytest.skip("no prometheus on PATH to scrape the sidecar with")
    config = {
        "global": {
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "evaluation_interval": "1s",
        },
        "rule_files": [str(RULES)],
        "scrape_configs": [
            {
                "job_name": "gateways",
                "honor_labels": True,
                # As Prometheus' operator adds them.
                "static_configs": [
                    {"targets": [target], "labels": {"namespace": "infra", "pod": "gateway-0"}}
                ],
            }
        ],
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    [port] = free_ports(1)
    process = await Process.start(
        program,
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=warn",
    )
    try:
        async with httpx.AsyncClient() as client:
            url = f"http://127.0.0.1:{port}"
            async with asyncio.timeout(PATIENCE):
                while not await _ready(client, url):
                    assert process.running, process.tail
                    await asyncio.sleep(0.1)
            yield Prometheus(url, client)
    finally:
        await process.stop(10)


async def _ready(client: httpx.AsyncClient, url: str) -> bool:
    try:
        return (await client.get(f"{url}/-/ready")).status_code == 200
    except httpx.TransportError:
        return False


async def until_only(
    prometheus: Prometheus,
    queries: Mapping[str, str],
    expected: set[str],
    work: Callable[[], Awaitable[None]],
) -> None:
    """Work until no other query than the expected ones is without data."""
    missing: set[str] = set()
    try:
        async with asyncio.timeout(PATIENCE):
            while (missing := await prometheus.without_data(queries)) != expected:
                await work()
                await asyncio.sleep(0.5)
    except TimeoutError as error:
        raise AssertionError(f"differ: {missing ^ expected}") from error


async def test_a_sidecar_under_load_fills_the_dashboard(
    stack: Stack, client: httpx.AsyncClient, tmp_path: Path
) -> None:
    async def work() -> None:
        await asyncio.gather(
            *(
                echo(client, stack, "close", x_picker_dialect=dialect)
                for dialect in ("silent-response", "invalid-mutation", "refuse-at-response")
            ),
            *(
                echo(client, stack, pool, x_picker_dialect="pick-none")
                for pool in ("open", "close")
            ),
            *(echo(client, stack, pool) for pool in ("open", "close", "nopicker")),
            echo(
                client,
                stack,
                "close",
                x_picker_dialect="pick-list",
                x_picker_list=stack.dead_endpoint,
            ),
            client.post(stack.pool_url("open") + "/fail", content=b"hello"),
        )

    queries = panels()
    empty = {
        name
        for name, text in queries.items()
        if {*re.findall(r"\bepp_client_\w+", text)} & (IN_A_CLUSTER | RARE)
    }
    async with running_prometheus(tmp_path, stack.sidecar.admin_address) as prometheus:
        await until_only(prometheus, queries, empty, work)
        # The pool's namespace has stayed; what has none has that of the gateway.
        steered = await prometheus.query('epp_client_requests_total{outcome="steered",pool="open"}')
        assert [one["metric"]["namespace"] for one in steered] == ["default"]
        [workers] = await prometheus.query("epp_client_workers")
        assert workers["metric"]["namespace"] == "infra"


async def test_a_sidecar_in_a_cluster_fills_all_of_it(tmp_path: Path) -> None:
    fleet = Fleet(3)
    fleet.metrics.follow_api(_Busy())
    fleet.metrics.follow_certificates(
        CertificateSource(lambda: {("inference", "tls"): certificate(days=30_000)}, list)
    )
    fleet.metrics.reloads.reloaded(True)
    fleet.metrics.xds_nacks.labels("cds")
    fleet.metrics.xds_pushes.labels("cds")

    async def work() -> None:
        fleet.work(False)
        for name in fleet.names:
            counters = fleet.counters.pool(str(name))
            for reason in Reason:
                counters.fail_open(reason)
                counters.refuse(reason)
                counters.pass_through(reason)
                counters.endpoint_fail(reason)
            for what in LeftOut:
                counters.leave_out(what, 1)
            for eviction in Eviction:
                counters.evict(eviction)
            counters.retries += 1
            counters.passed_over += 1
            counters.not_retained += 1
            counters.endpoint_errors += 1

    server = fleet.server()
    address = await server.start()
    try:
        async with running_prometheus(tmp_path, address) as prometheus:
            await until_only(prometheus, panels(), set(), work)
            variables = [
                item["query"]["query"]
                for item in DASHBOARD["templating"]["list"]
                if isinstance(item["query"], dict)
            ]
            for text in variables:
                series, label = re.fullmatch(
                    r"label_values\((.*), (\w+)\)", text, re.DOTALL
                ).groups()  # type: ignore[union-attr]
                for variable, value in VARIABLES.items():
                    series = series.replace(variable, value)
                assert all(label in one["metric"] for one in await prometheus.query(series))
    finally:
        await server.close()


class _Busy(Followed):
    """An API server of which more is asked at each scrape."""

    def __init__(self) -> None:
        self._times = 0

    def asked(self) -> dict[str, int]:
        self._times += 1
        return {verb: count + self._times for verb, count in super().asked().items()}

    def faults(self) -> dict[str, int]:
        return {fault: count + self._times for fault, count in super().faults().items()}

    def events(self) -> int:
        return super().events() + self._times

    def status_writes(self) -> dict[str, int]:
        return {
            result: count + self._times for result, count in (super().status_writes() or {}).items()
        }
