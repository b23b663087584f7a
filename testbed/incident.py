"""`python -m testbed.incident`: the picker of one pool lies; how long until each place names it.

One sidecar with the real Envoy, seven pools, and the demo's traffic for four of them. At second 0 the
picker of default/close begins to name endpoints outside its pool: FailClose refuses. With Prometheus on
PATH its alerts are waited for too.
"""

import asyncio
import logging
import shutil
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import structlog
import typer
import yaml

from testbed.ports import free_ports
from testbed.process import Process
from testbed.stack import Stack, running_stack
from testbed.traffic import Traffic, lying_picker

POOL = "default/close"
QUIET = 10.0
"""Seconds of good traffic before."""
PATIENCE = 60.0
ALERT_PATIENCE = 420.0
RULES = Path(__file__).parents[1] / "config" / "prometheus" / "rules.yaml"

Place = Callable[[], Awaitable[bool]]


class Places:
    """Where a person may look, and whether each names the pool."""

    def __init__(self, stack: Stack, client: httpx.AsyncClient, events: list[str]) -> None:
        self._admin = stack.sidecar.admin_address
        self._client = client
        self._events = events

    async def log(self) -> bool:
        """The sidecar's log: a line about a refusal of the pool."""
        return POOL in self._events

    async def decisions(self) -> bool:
        """`epp-client tap`, and the requests of the page."""
        found = await self._json("/decisions", pool=POOL, failed="1")
        return bool(found["decisions"])

    async def page(self) -> bool:
        """The judgement of the page: failing, because of the pool."""
        said = (await self._json("/status"))["judgement"]
        named: bool = said["findings"] and said["findings"][0]["subject"] == POOL
        return named and said["level"] == "failing"

    async def status(self) -> bool:
        """`epp-client status`: it exits with 2 and names the pool in its first line."""
        command = (sys.executable, "-m", "epp_client", "status", "--admin", self._admin)
        process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        out, _ = await process.communicate()
        return process.returncode == 2 and POOL.encode() in out.splitlines()[0]

    async def _json(self, path: str, **query: str) -> dict[str, Any]:
        answer = await self._client.get(f"http://{self._admin}{path}", params=query)
        found: dict[str, Any] = answer.json()
        return found


class Log:
    """A structlog processor that notes the pool of each refusal, and prints nothing."""

    def __init__(self) -> None:
        self.pools: list[str] = []

    def __call__(self, _: Any, __: str, event: MutableMapping[str, Any]) -> Mapping[str, Any]:
        if event["event"] == "refused a request":
            self.pools.append(event["pool"])
        raise structlog.DropEvent


async def after(since: float, named: Place, patience: float) -> float | None:
    """Seconds from `since` until `named` holds; None if it does not within `patience`."""
    while not await named():
        if time.monotonic() - since > patience:
            return None
        await asyncio.sleep(0.1)
    return time.monotonic() - since


async def incident(*, alerts: bool) -> dict[str, float | None]:
    """Play it through. Returns seconds by place; None for a place that did not name it in time."""
    log, before = Log(), structlog.get_config()
    structlog.configure(
        processors=[log], wrapper_class=structlog.make_filtering_bound_logger(logging.INFO)
    )
    try:
        return await _played(log, alerts=alerts)
    finally:
        structlog.configure(**before)


async def _played(log: Log, *, alerts: bool) -> dict[str, float | None]:
    async with (
        running_stack() as stack,
        httpx.AsyncClient(timeout=15) as client,
        AsyncExitStack() as owner,
    ):
        prometheus = await _prometheus(owner, stack) if alerts else None
        traffic = Traffic(stack, client)
        sending = asyncio.create_task(traffic.run())
        owner.callback(sending.cancel)
        await asyncio.sleep(QUIET)
        places = Places(stack, client, log.pools)
        async with lying_picker(stack, traffic):
            began = time.monotonic()
            waits = {
                "log": after(began, places.log, PATIENCE),
                "tap": after(began, places.decisions, PATIENCE),
                "page": after(began, places.page, PATIENCE),
                "status": after(began, places.status, PATIENCE),
            }
            if prometheus is not None:
                for state in ("pending", "firing"):
                    named = _alert(client, prometheus, state)
                    waits[f"alert {state}"] = after(began, named, ALERT_PATIENCE)
            found = await asyncio.gather(*waits.values())
    return dict(zip(waits, found, strict=True))


async def _prometheus(owner: AsyncExitStack, stack: Stack) -> str | None:
    """Start a Prometheus with our rules, scraping every 15 s as is usual; its URL. None without one."""
    program = shutil.which("prometheus")
    if program is None:
        return None
    folder = Path(owner.enter_context(tempfile.TemporaryDirectory()))
    [port] = free_ports(1)
    scrape = {
        "job_name": "epp-client",
        "honor_labels": True,
        "static_configs": [{"targets": [stack.sidecar.admin_address]}],
    }
    every = {"scrape_interval": "15s", "evaluation_interval": "15s"}
    (folder / "prometheus.yaml").write_text(
        yaml.safe_dump({"global": every, "rule_files": [str(RULES)], "scrape_configs": [scrape]})
    )
    process = await Process.start(
        program,
        f"--config.file={folder / 'prometheus.yaml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
    )
    owner.push_async_callback(process.stop, 5)
    return f"http://127.0.0.1:{port}"


def _alert(client: httpx.AsyncClient, prometheus: str, state: str) -> Place:
    async def named() -> bool:
        try:
            answer = await client.get(f"{prometheus}/api/v1/alerts")
        except httpx.HTTPError:
            return False
        found = answer.json()["data"]["alerts"]
        labels = [one["labels"] for one in found if one["state"] in (state, "firing")]
        namespace, _, pool = POOL.partition("/")
        return any(
            (one.get("namespace"), one.get("pool")) == (namespace, pool)
            and one["alertname"] == "EppClientRefusing"
            for one in labels
        )

    return named


def main(alerts: bool = True) -> None:
    """Print how long each place needed to name the pool whose picker lies."""
    for place, seconds in asyncio.run(incident(alerts=alerts)).items():
        print(f"{place:15} {'not named' if seconds is None else f'{seconds:6.1f} s'}")


if __name__ == "__main__":
    typer.run(main)
