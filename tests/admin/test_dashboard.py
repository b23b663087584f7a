"""The dashboard without a browser: nothing from outside runs in it, and what it is sent stays small."""

import asyncio
import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import aiohttp
import pytest

from epp_client.admin import dashboard, summary
from epp_client.errors import Reason
from epp_client.ext_proc.replies import describe
from epp_client.observe import judge
from epp_client.picker.health import Health
from epp_client.relay.outcome import Outcome
from tests.admin.fleet import Fleet

PAGE, RUNBOOK = dashboard.load(), dashboard.runbook()


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
    # The namespace of SVG is a name that is never fetched.
    html = PAGE.html.replace('"http://www.w3.org/2000/svg"', "")
    assert not re.findall(r"https?:|//[a-z]|@import|url\(", html)
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
    (block,) = re.findall(r"^const REASONS = (.*);$", PAGE.html, re.MULTILINE)
    assert json.loads(block) == {str(reason): describe(reason) for reason in Reason}


@pytest.mark.parametrize(
    ("path", "page"), [("/", PAGE), ("/runbook", RUNBOOK)], ids=["page", "runbook"]
)
async def test_the_page_is_sent_with_its_policy(path: str, page: dashboard.Dashboard) -> None:
    server = Fleet(0).server()
    address = await server.start()
    async with aiohttp.ClientSession() as session, session.get(f"http://{address}{path}") as answer:
        assert await answer.text() == page.html
        assert page.headers.items() <= {k.lower(): v for k, v in answer.headers.items()}.items()
    await server.close()


def test_the_runbook_has_the_section_of_every_finding_and_no_dead_link() -> None:
    source = Path(judge.__file__).read_text()
    named = set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source))
    there = set(re.findall(r'<h[1-6] id="([^"]+)"', RUNBOOK.html))
    assert {"no-ready-endpoint", "requests-are-refused", "requests-fail-open"} <= named & there
    assert set(re.findall(r'href="#([^"]+)"', RUNBOOK.html)) <= there
    assert not re.findall(r'href="(?!#|http|data:,)', RUNBOOK.html)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_words_of_the_plots_and_levels_can_be_read(theme: str) -> None:
    """axe cannot judge text in SVG. WCAG 2.1 wants a contrast of 4.5 for text, and 3 for lines."""
    light, dark = re.findall(r":root \{(.*?)\}", PAGE.html, re.DOTALL)
    block = light if theme == "light" else dark
    colour = dict(re.findall(r"--(\w+): (#[0-9a-f]{3,6})", block))
    for name in ("text", "quiet", "good", "warn", "bad", "accent"):
        assert contrast(colour[name], colour["card"]) >= 4.5, name
        assert contrast(colour[name], colour["back"]) >= 4.5, name
    for name in ("refused", "p99"):
        assert contrast(colour[name], colour["card"]) >= 3, name


def contrast(one: str, other: str) -> float:
    """The contrast ratio of two colours, as WCAG 2.1 defines it."""
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    parts = [int(digits[at : at + 2], 16) / 255 for at in (0, 2, 4)]
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


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
    levels = {"failing": 0, "degraded": 1, "ok": 2}
    ranks = [(levels[row["level"]], row["trouble"]) for row in rows]
    assert ranks == sorted(ranks)
    assert {trouble for _, trouble in ranks} == {0, 1, 3}
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
