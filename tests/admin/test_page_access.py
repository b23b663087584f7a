"""The admin page for everybody: axe finds nothing, and all of it can be reached with the keyboard."""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from tests.admin.browser import Page
from tests.admin.fleet import Fleet
from tests.admin.pages import PILL, shown, toggled
from tests.admin.scenes import LYING, Scene

AXE = Path(__file__).parents[2] / "build" / "axe" / "axe_playwright_python" / "axe.min.js"
CONTRAST = "{runOnly: {type: 'rule', values: ['color-contrast']}}"

pytestmark = pytest.mark.timeout(180)


async def violations(
    page: Page, folder: Path, width: int = 1280, *, dark: bool = False, rules: str = ""
) -> dict[str, list[str]]:
    """The rules of axe that the page breaks, and where. `rules` is axe's choice of them."""
    if not AXE.exists():
        pytest.skip("axe is not installed: run `make build/axe`")
    await page.picture(folder / "page.png", width, 900, dark=dark)
    await page.run(AXE.read_text() + "; 1")
    found = json.loads(
        await page.run(f"axe.run({rules}).then((result) => JSON.stringify(result.violations))")
    )
    return {rule["id"]: [node["html"][:200] for node in rule["nodes"]] for rule in found}


async def in_each_view(page: Page, folder: Path) -> list[dict[str, list[str]]]:
    """What is wrong on a large screen, in the dark and on a phone. The dark changes colours alone."""
    # Rows are alike, and axe takes milliseconds for each.
    await page.run(
        "(() => { const sheet = new CSSStyleSheet();"
        " sheet.replaceSync('#decision-rows > :nth-child(n+20) { display: none }');"
        " document.adoptedStyleSheets.push(sheet); })()"
    )
    return [
        await violations(page, folder),
        await violations(page, folder, dark=True, rules=CONTRAST),
        await violations(page, folder, 390),
    ]


async def test_axe_finds_nothing_in_an_incident(tmp_path: Path) -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await toggled(page, LYING)
        await page.until("document.querySelectorAll('.detail .axes text').length > 12")
        # What moves would be judged half-way.
        await page.run("document.getElementById('pause').click()")
        await page.run("document.querySelector('#decision-rows button').click()")
        assert await in_each_view(page, tmp_path) == [{}, {}, {}]


@pytest.mark.parametrize("fleet", [partial(Scene, 2), partial(Fleet, 0)], ids=["quiet", "empty"])
async def test_axe_finds_nothing_on_a_quiet_page_nor_on_an_empty_one(
    tmp_path: Path, fleet: Callable[[], Fleet]
) -> None:
    async with shown(fleet()) as (page, _):
        assert await page.run(PILL) == "OK"
        assert await in_each_view(page, tmp_path) == [{}, {}, {}]


async def test_axe_finds_nothing_in_the_runbook(tmp_path: Path) -> None:
    async with shown(Fleet(0)) as (page, _):
        await page.ask("Page.navigate", url=await page.run("location.href + 'runbook'"))
        await page.until("document.querySelector('main.pages') !== null")
        assert await violations(page, tmp_path) == {}


async def test_axe_finds_what_is_wrong(tmp_path: Path) -> None:
    async with shown(Fleet(0)) as (page, _):
        await page.run("document.getElementById('pool-query').removeAttribute('aria-label')")
        await page.run("document.getElementById('pool-query').removeAttribute('placeholder')")
        assert "label" in await violations(page, tmp_path)


async def test_axe_finds_what_cannot_be_read_in_the_dark(tmp_path: Path) -> None:
    async with shown(Fleet(0)) as (page, _):
        await page.run("document.querySelector('h1').style.color = '#444'")
        light, dark, phone = await in_each_view(page, tmp_path)
        assert (light, list(dark), phone) == ({}, ["color-contrast"], {})


async def test_the_tab_key_reaches_everything_in_the_order_of_the_page() -> None:
    async with shown(Scene(3, incident=True)) as (page, _):
        await page.until("document.querySelectorAll('#decision-rows button').length > 0")
        await page.run("document.getElementById('pause').focus()")
        reached = []
        for _ in range(22):
            await page.ask("Input.dispatchKeyEvent", type="keyDown", key="Tab", code="Tab")
            reached.append(
                await page.run(
                    "(() => { const one = document.activeElement; return one.id || one.dataset.pool"
                    " || one.getAttribute('aria-label') || one.innerText; })()"
                )
            )
        wanted = [
            "default/qwen", "Runbook", "Requests of all pools, last 15 minutes",
            "In flight of all pools, last 15 minutes", "pool-query", "chat/mistral",
            "only-failed", "decision-pool", "decision-reason", "decision-query", "decision-scroll",
        ]  # fmt: skip
        at = [reached.index(one) for one in wanted]
        assert at == sorted(at)
