"""The dashboard: what it asks for stays small, nothing from outside runs in it, and a browser draws it."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from epp_client.admin import dashboard, summary
from epp_client.admin.server import AdminServer
from epp_client.errors import Reason
from epp_client.picker.health import Health
from epp_client.relay.outcome import Outcome
from tests.admin.browser import Page, opened
from tests.admin.fleet import HOSTILE, Fleet

PAGE = dashboard.load()


async def ask(fleet: Fleet, path: str) -> tuple[int, bytes]:
    server = fleet.server()
    address = await server.start()
    try:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://{address}{path}") as got,
        ):
            return got.status, await got.read()
    finally:
        await server.close()


# --- without a browser ---


def test_nothing_comes_from_elsewhere_and_nothing_is_inline_but_what_the_policy_names() -> None:
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", PAGE.html)
    assert not re.findall(r"\son[a-z]+=|\sstyle=|javascript:", PAGE.html)
    assert re.findall(r"<(?:script|style|link|iframe|object)\b[^>]*>", PAGE.html) == [
        '<link rel="icon" href="data:,">',
        "<style>",
        "<script>",
    ]


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    policy = dict(
        part.strip().split(" ", 1) for part in PAGE.headers["content-security-policy"].split(";")
    )
    assert policy["default-src"] == "'none'"
    assert "unsafe" not in PAGE.headers["content-security-policy"]
    for tag in ("script", "style"):
        (block,) = re.findall(rf"<{tag}>(.*?)</{tag}>", PAGE.html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(block.encode()).digest()).decode()
        assert policy[f"{tag}-src"] == f"'sha256-{digest}'"


def test_the_script_never_makes_markup_of_text() -> None:
    for way in (
        "innerHTML",
        "outerHTML",
        "insertAdjacentHTML",
        "document.write",
        "eval(",
        "Function(",
    ):
        assert way not in PAGE.html


async def test_node_accepts_the_script(tmp_path: Path) -> None:
    if (node := shutil.which("node")) is None:
        pytest.skip("no node on PATH to parse the script")
    (script,) = re.findall(r"<script>(.*?)</script>", PAGE.html, re.DOTALL)
    (tmp_path / "page.js").write_text(script)
    process = await asyncio.create_subprocess_exec(node, "--check", str(tmp_path / "page.js"))
    assert await asyncio.wait_for(process.wait(), 30) == 0


def test_every_reason_is_explained_in_the_page() -> None:
    (block,) = re.findall(r"const MEANING = \{(.*?)\};", PAGE.html, re.DOTALL)
    assert set(re.findall(r"^\s*(\w+): ", block, re.MULTILINE)) == set(map(str, Reason))


async def test_the_page_is_sent_with_its_policy() -> None:
    server = Fleet(0).server()
    address = await server.start()
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/") as answer:
        assert await answer.text() == PAGE.html
        assert PAGE.headers.items() <= {k.lower(): v for k, v in answer.headers.items()}.items()
    await server.close()


# --- what it asks for ---


async def test_a_summary_does_not_grow_with_the_endpoints() -> None:
    _, small = await ask(Fleet(3, endpoints=2), "/summary")
    _, large = await ask(Fleet(3, endpoints=10_000), "/summary")
    assert len(large) < len(small) + 100
    rows = json.loads(large)["pools"]["rows"]
    assert [(row["ready"], row["draining"]) for row in rows] == [(10_000, 0)] * 3


async def test_a_summary_says_what_the_gauges_and_counters_stand_at() -> None:
    fleet = Fleet(1, troubled=True)
    fleet.metrics.workers.set(3)
    fleet.metrics.envoys.set(2)
    for kind, count in (("cds", 1), ("eds", 4)):
        fleet.metrics.xds_nacks.labels(kind).inc(count)
    said = json.loads((await ask(fleet, "/summary"))[1])
    assert (said["workers"], said["envoys"], said["nacks"]) == (3, 2, 5)
    assert (said["restarts"], said["reasons"]) == (3, fleet.readiness.reasons)
    everything = fleet.counters.pools["team-0/model-000"]
    assert said["totals"]["outcomes"]["steered"] == everything.outcomes[Outcome.STEERED]
    assert said["totals"]["picks"] == everything.picks


async def test_a_summary_is_bounded_and_paged() -> None:
    fleet = Fleet(summary.MAX_POOLS + 7, endpoints=1)
    pools = json.loads((await ask(fleet, "/summary?limit=99999"))[1])["pools"]
    assert (pools["total"], len(pools["rows"])) == (summary.MAX_POOLS + 7, summary.MAX_POOLS)
    rest = json.loads((await ask(fleet, f"/summary?offset={summary.MAX_POOLS}"))[1])["pools"][
        "rows"
    ]
    assert len(rest) == 7
    named = json.loads((await ask(fleet, "/summary?q=model-004"))[1])["pools"]
    assert [row["name"] for row in named["rows"]] == ["model-004"]
    assert named["matching"] == 1


@pytest.mark.parametrize("query", ["limit=-1", "limit=x", "offset=1e9", "limit=" + "9" * 30])
async def test_what_is_not_a_count_is_refused(query: str) -> None:
    assert (await ask(Fleet(1), f"/summary?{query}"))[0] == 400


async def test_pools_in_trouble_come_first() -> None:
    rows = json.loads((await ask(Fleet(30, troubled=True), "/summary"))[1])["pools"]["rows"]
    ranks = [row["trouble"] for row in rows]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 3}
    assert all((row["ready"] == 0) == (row["trouble"] == 0) for row in rows)


async def test_a_picker_that_is_silent_is_trouble_and_its_state_is_told() -> None:
    fleet = Fleet(2)
    fleet.counters.pickers["team-1/model-001"] = {"10.200.0.1:9002": Health.SILENT}
    rows = json.loads((await ask(fleet, "/summary"))[1])["pools"]["rows"]
    told = [(row["name"], row["trouble"], row["picker"]["health"]) for row in rows]
    assert told == [("model-001", 1, {"silent": 1}), ("model-000", 3, {"serving": 1})]


async def test_a_pools_details_are_as_many_endpoints_as_are_asked_for() -> None:
    fleet = Fleet(1, endpoints=10_000)
    pool = json.loads((await ask(fleet, "/pools/team-0/model-000?endpoints=200"))[1])
    assert (len(pool["endpoints"]), pool["endpointCount"]) == (200, 10_000)


async def test_all_pools_are_written_in_pieces_that_make_one_document() -> None:
    fleet = Fleet(3, endpoints=1201)
    status, body = await ask(fleet, "/pools")
    assert status == 200
    pools = json.loads(body)["pools"]
    assert [len(pool["endpoints"]) for pool in pools] == [1201] * 3
    for number, pool in enumerate(pools):
        alone = json.loads((await ask(fleet, f"/pools/team-{number}/model-00{number}"))[1])
        assert alone == pool


async def test_all_pools_leave_the_loop_to_others_between_two_pieces() -> None:
    server = Fleet(2, endpoints=10_000).server()
    address = await server.start()
    turns, done = 0, asyncio.Event()

    async def somebody_else() -> None:
        nonlocal turns
        while not done.is_set():
            turns += 1
            await asyncio.sleep(0)

    other = asyncio.create_task(somebody_else())
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}/pools") as answer:
        assert len(json.loads(await answer.read())["pools"]) == 2
    done.set()
    await other
    await server.close()
    assert turns >= 2 * 10_000 // 500


# --- in a browser ---

pill = "document.getElementById('pill').textContent"
body = "document.body.innerText"


@asynccontextmanager
async def shown(fleet: Fleet, folder: Path) -> AsyncIterator[tuple[Page, AdminServer]]:
    """The page over these pools, once it has drawn them."""
    server = fleet.server()
    address = await server.start()
    try:
        async with opened(f"http://{address}/", folder / "profile") as page:
            await page.until(f"document.readyState == 'complete' && {pill} != 'asking …'")
            yield page, server
    finally:
        await server.close()


@pytest.mark.timeout(180)
async def test_a_browser_draws_the_pools_and_their_details(tmp_path: Path) -> None:
    async with shown(Fleet(3, endpoints=300), tmp_path) as (page, _):
        assert await page.run(pill) == "Ready"
        names = "[...document.querySelectorAll('button.name')].map((node) => node.dataset.pool)"
        assert await page.run(names) == ["team-0/model-000", "team-1/model-001", "team-2/model-002"]
        assert (await page.run(body)).count("300 ready") == 3
        await page.run("document.querySelectorAll('button.name')[1].click()")
        await page.until("document.querySelectorAll('.endpoints > div').length == 200")
        text = await page.run(body)
        assert "10.1.0.0:8000 model-001-0" in text
        assert "and 100 more" in text
        await page.run("document.querySelectorAll('button.name')[1].click()")
        await page.until("document.querySelectorAll('.endpoints').length == 0")


@pytest.mark.timeout(180)
async def test_an_empty_sidecar_and_one_that_knows_nothing_yet_are_told_apart(
    tmp_path: Path,
) -> None:
    async with shown(Fleet(0), tmp_path) as (page, _):
        assert "There is no InferencePool here." in await page.run(body)
    unknown = Fleet(0)
    unknown.store.synced = False
    async with shown(unknown, tmp_path) as (page, _):
        assert "The pools are not known yet" in await page.run(body)


@pytest.mark.timeout(180)
async def test_two_hundred_pools_in_trouble(tmp_path: Path) -> None:
    async with shown(Fleet(200, troubled=True), tmp_path) as (page, _):
        assert await page.run(pill) == "Not ready"
        text = await page.run(body)
        assert "the API server has been away for 95 s" in text
        assert "1 error and 1 warning" in text
        assert "picker_timeout" in text
        rows = "document.querySelectorAll('button.name').length"
        assert await page.run(rows) == 100
        await page.run("document.getElementById('more').click()")
        await page.until(f"{rows} == 200")
        await page.run(
            "const field = document.getElementById('query'); field.value = 'team-1/model-001';"
            "field.dispatchEvent(new Event('input'))"
        )
        await page.until(f"{rows} == 1")


@pytest.mark.timeout(180)
async def test_what_comes_from_outside_is_text_and_never_runs(tmp_path: Path) -> None:
    async with shown(Fleet(3, troubled=True), tmp_path) as (page, _):
        await page.run("document.getElementById('problems').open = true")
        await page.run(
            "document.querySelector('button.name[data-pool=\"team-1/model-001\"]').click()"
        )
        await page.until("document.querySelectorAll('.endpoints > div').length > 0")
        text = await page.run(body)
        assert text.count(HOSTILE) >= 3, "as a problem, a label and a Pod"
        assert await page.run("document.title") == "epp-client"
        assert await page.run("document.images.length") == 0
        assert await page.run("document.scripts.length") == 1


@pytest.mark.timeout(180)
async def test_a_sidecar_that_is_gone_is_said_to_be_and_what_is_old_is_dimmed(
    tmp_path: Path,
) -> None:
    async with shown(Fleet(3), tmp_path) as (page, server):
        await server.close()
        await page.until(f"{pill} == 'No answer'")
        assert "The sidecar does not answer" in await page.run(body)
        assert await page.run("document.getElementById('main').className") == "stale"
        assert await page.run("document.querySelectorAll('button.name').length") == 3


@pytest.mark.timeout(180)
@pytest.mark.parametrize("width", [320, 390, 1280])
async def test_nothing_is_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    async with shown(Fleet(6, troubled=True), tmp_path) as (page, _):
        await page.picture(tmp_path / "page.png", width, 800)
        assert await page.run("document.documentElement.scrollWidth") <= width
