"""The admin page, drawn by a real Chromium: the judgement, every plot and every table."""

import json
import re
from pathlib import Path

import pytest

from epp_client.admin import server
from epp_client.admin.live import MAX_ENDPOINTS
from epp_client.version import VERSION
from tests.admin.fleet import HOSTILE, Fleet
from tests.admin.pages import BODY, PILL, look_again, shown, text_of, toggled, typed
from tests.admin.scenes import BROKEN, LYING, Scene

pytestmark = pytest.mark.timeout(180)


# --- the judgement ---


async def test_the_page_says_if_the_hot_path_is_not_compiled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for compiled in (True, False):
        monkeypatch.setattr(server, "hot_path_compiled", lambda answer=compiled: answer)
        async with shown(Scene(1)) as (page, _):
            said = await page.run("document.getElementById('version').innerText")
            assert said.startswith(f"{VERSION}{'' if compiled else ', not compiled'} · up ")
            head = await page.run("fetch('/summary').then((answer) => answer.json())")
            assert head["compiled"] is compiled


async def test_a_quiet_sidecar_is_ok() -> None:
    async with shown(Scene(3)) as (page, _):
        assert await page.run(PILL) == "OK"
        assert await page.run("document.getElementById('headline').innerText") == (
            "3 pools, nothing to report"
        )
        assert await page.run(text_of("#findings li")) == []
        assert await page.run("document.title") == "epp-client"


async def test_pools_that_refuse_or_fail_open_are_named_with_reason_time_advice_and_runbook() -> (
    None
):
    async with shown(Scene(5, incident=True)) as (page, _):
        assert await page.run(PILL) == "Failing"
        headline = await page.run("document.getElementById('headline').innerText")
        assert headline == (
            f"1 of 5 pools refuses: {BROKEN}: no ready Pod matches app=qwen; 1 fails open"
        )
        first, second, *_ = await page.run(text_of("#findings li"))
        assert first.startswith(f"{BROKEN} no ready Pod matches app=qwen (")
        assert "(4 min)" in first or "(3 min)" in first
        assert "Look at the Pods that the pool's selector matches." in first
        assert second.startswith(f"{LYING} the endpoint picker did not answer in time")
        link = "document.querySelector('#findings a').getAttribute('href')"
        assert await page.run(link) == "/runbook#no-ready-endpoint"
        # The tab says it too.
        assert await page.run("document.title") == "Failing · epp-client"


async def test_a_runbook_link_leads_to_its_section() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        address = await page.run("document.querySelector('#findings a').href")
        await page.ask("Page.navigate", url=address)
        await page.until("document.querySelector(':target') !== null")
        assert await page.run("document.querySelector(':target').innerText") == "No ready endpoint"


async def test_a_screen_reader_hears_a_change_of_the_judgement_and_not_each_number() -> None:
    scene = Scene(5, incident=True)
    async with shown(scene) as (page, server):
        said = "document.getElementById('said').textContent"
        assert (await page.run(said)).startswith("Failing: 1 of 5 pools refuses")
        await page.run(
            "var heard = 0; new MutationObserver(() => { heard += 1; })"
            ".observe(document.getElementById('said'), { childList: true, characterData: true })"
        )
        before = await page.run(text_of("#findings li"))
        await look_again(scene, server, 3)
        await page.until(f"JSON.stringify({text_of('#findings li')}) != `{json.dumps(before)}`")
        assert await page.run("heard") == 0
        assert await page.run("document.querySelectorAll('[aria-live], [role=alert]').length") == 1


async def test_an_empty_sidecar_and_one_that_knows_nothing_yet_are_told_apart() -> None:
    async with shown(Fleet(0)) as (page, _):
        assert "There is no InferencePool here." in await page.run(BODY)
    unknown = Fleet(0)
    unknown.store.synced = False
    async with shown(unknown) as (page, _):
        assert "The pools are not known yet" in await page.run(BODY)


async def test_a_finding_opens_its_pool_even_if_the_search_hides_it() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await typed(page, "pool-query", "mistral")
        rows = text_of("#pool-rows button")
        await page.until(f"{rows}.join() == 'chat/mistral'")
        await page.run("document.querySelector('#findings button').click()")
        await page.until(f"document.activeElement.dataset.pool == '{BROKEN}'")
        assert await page.run("document.activeElement.getAttribute('aria-expanded')") == "true"


# --- plots ---


async def test_every_plot_has_axes_units_and_the_newest_values() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await page.until("document.querySelectorAll('#plots .axes text').length > 12")
        titles = await page.run(text_of("#plots figcaption strong"))
        assert titles == ["Requests", "Pick latency", "Exchange latency", "In flight"]
        words = [
            "steered",
            "other",
            "failed open",
            "refused",
            "p50",
            "p99",
            "p50",
            "p99",
            "requests",
        ]
        legend = (
            "[...document.querySelectorAll('#plots .key')].map((key) =>"
            "[key.childNodes[1].data.trim(), key.lastChild.innerText])"
        )
        assert [word for word, _ in await page.run(legend)] == words
        assert all(re.match(r"[\d<–]", value) for _, value in await page.run(legend))
        axes = await page.run(
            "[...document.querySelectorAll('#plots figure')].map((plot) =>"
            "[...plot.querySelectorAll('.axes text')].map((text) => text.textContent))"
        )
        units = [r"/s", "ms", "s", ""]
        for plot, unit in zip(axes, units, strict=True):
            assert plot[0] == "0"
            assert plot[2].endswith(unit)
            assert any(len(text) == 5 and text[2] == ":" for text in plot), "a time of 24 hours"


async def test_outcomes_are_stacked_and_refusals_end_at_the_top() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        drawn = "document.querySelector('#plots .area.refused').getAttribute('d')"
        await page.until(f"{drawn} != null && {drawn} != ''")
        ends = (
            "['steered', 'failed_open', 'refused'].map((kind) => document.querySelector("
            "`#plots .area.${kind}`).getAttribute('d').slice(1).split('L')"
            ".slice(0, allPlots.data.at.length)"
            ".map((point) => Number(point.split(' ')[1])))"
        )
        steered, opened, refused = await page.run(ends)
        # In the incident each lies on the other; before it nothing is refused.
        assert refused[-10] < opened[-10] < steered[-10]
        assert refused[20] == opened[20] == steered[20]


async def test_a_plot_is_read_out_by_pointer_and_by_keyboard() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await page.until("document.querySelectorAll('#plots .axes text').length > 12")
        chart = "document.querySelector('#plots .requests .chart')"
        value = f"{chart}.getAttribute('aria-valuetext')"
        newest = await page.run(value)
        await page.run(f"{chart}.focus()")
        await page.ask("Input.dispatchKeyEvent", type="keyDown", key="Home", code="Home")
        oldest = await page.run(value)
        assert "steered" in newest
        assert oldest != newest
        assert oldest.startswith(await page.run("zoned(allPlots.data.at[0])"))
        assert "refused 0/s" in oldest
        await page.ask("Input.dispatchKeyEvent", type="keyDown", key="End", code="End")
        assert "refused 0/s" not in await page.run(value)
        box = await page.run(f"JSON.stringify({chart}.getBoundingClientRect())")
        at = json.loads(box)
        await page.ask(
            "Input.dispatchMouseEvent", type="mouseMoved",
            x=at["x"] + at["width"] / 2, y=at["y"] + at["height"] / 2,
        )  # fmt: skip
        # All plots show the same moment.
        shown_at = text_of("#plots figcaption span")
        await page.until(f"new Set({shown_at}).size == 1 && {shown_at}[0] != ''")
        assert "cross" in await page.run(
            "document.querySelector('#plots .flight [visibility=visible]').getAttribute('class')"
        )


async def test_a_plot_says_in_words_what_it_shows() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        described = (
            "[...document.querySelectorAll('#plots .chart')].map((chart) =>"
            "document.getElementById(chart.getAttribute('aria-describedby')).textContent)"
        )
        await page.until(f"{described}.every((text) => text != '')")
        requests, pick, _, flying = await page.run(described)
        assert "refused: now " in requests
        assert "at most" in requests
        assert "p99: now " in pick
        assert " ms" in pick
        assert "requests: now " in flying


async def test_a_plot_grows_by_one_point_and_keeps_fifteen_minutes() -> None:
    async with shown(Scene(2)) as (page, _):
        await page.until("allPlots.data !== null")
        newest = await page.run("allPlots.data.at.at(-1)")
        await page.until(f"allPlots.data.at.at(-1) > {newest}")
        assert await page.run("allPlots.data.at.length") == 150
        assert await page.run("Object.values(allPlots.data).every((one) => one.length == 150)")


# --- pools ---


async def test_a_pool_shows_its_plots_its_picker_and_the_traffic_of_its_endpoints() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await toggled(page, LYING)
        await page.until("document.querySelectorAll('.detail .axes text').length > 12")
        picker = await page.run(text_of(".detail tbody tr"))
        state = picker[0].split("\t")
        assert state[:3] == ["10.200.0.3:9002", "failing", "4 ms"]
        assert state[3].startswith("no pick within 10 s (")
        endpoints = [row.split("\t") for row in picker[1:]]
        assert len(endpoints) == 8
        assert endpoints[0][:3] == ["10.3.0.0:8000", "gemma-0", "ready"]
        assert endpoints[0][3] in ("14 min", "15 min")
        shares = await page.run(
            "open.get('chat/gemma').data.endpoints.reduce((sum, one) => sum + one.share, 0)"
        )
        assert shares == pytest.approx(1, abs=0.001)
        assert all(
            int(row[5].replace(",", "")) >= int(row[6].replace(",", "")) for row in endpoints
        )
        await toggled(page, LYING)
        await page.until("document.querySelectorAll('.detail').length == 0")


async def test_endpoints_are_sorted_by_a_column_and_found_by_name() -> None:
    async with shown(Scene(2)) as (page, _):
        await toggled(page, "default/llama")
        rows = text_of(".detail .scroll tbody th")
        await page.until(f"{rows}.length == 8")
        await page.run("document.querySelector('[data-sort=share] button').click()")
        shares = [
            int(text.split(".")[0].split(" ")[0])
            for text in await page.run(text_of(".detail .scroll td[data-label='Share of picks']"))
        ]
        assert shares == sorted(shares, reverse=True)
        sorted_by = "document.querySelector('.detail [aria-sort]').dataset.sort"
        assert await page.run(sorted_by) == "share"
        await page.run(
            "(() => { const field = document.querySelector('.detail input');"
            "field.value = 'llama-7'; field.dispatchEvent(new Event('input')); })()"
        )
        await page.until(f"{rows}.join() == '10.0.0.7:8000'")


async def test_the_search_and_the_button_choose_the_pools() -> None:
    async with shown(Fleet(200, troubled=True)) as (page, _):
        assert await page.run(PILL) == "Failing"
        text = await page.run(BODY)
        assert "the API server has been away for 95 s" in text
        assert "1 error and 1 warning" in text
        assert "picker_timeout" in text
        rows = "document.querySelectorAll('#pool-rows button.name').length"
        await page.until(f"{rows} == 100")
        await page.run("document.getElementById('more').click()")
        await page.until(f"{rows} == 200")
        await typed(page, "pool-query", "team-1/model-001")
        await page.until(f"{rows} == 1")
        await typed(page, "pool-query", "nothing like it")
        await page.until(f"{rows} == 0")
        assert "No pool has that in its name." in await page.run(BODY)


async def test_a_row_keeps_its_focus_when_its_numbers_change() -> None:
    scene = Scene(4)
    async with shown(scene) as (page, server):
        await page.run("document.querySelectorAll('#pool-rows button')[2].focus()")
        name = await page.run("document.activeElement.dataset.pool")
        updates = await page.run("drawn.updates")
        await look_again(scene, server, 2)
        await page.until(f"drawn.updates > {updates + 1}")
        assert await page.run("document.activeElement.dataset.pool") == name


# --- reasons, requests, events ---


async def test_reasons_are_counted_and_explained() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        rows = [row.split("\t") for row in await page.run(text_of("#reason-rows tr"))]
        assert [row[0] for row in rows] == ["no_ready_endpoint", "picker_timeout"]
        assert rows[0][1:3] == ["the InferencePool has no ready endpoint", "refused"]
        assert rows[1][2] == "served without the picker"
        assert all(0 < int(row[3].replace(",", "")) < int(row[4].replace(",", "")) for row in rows)


async def test_requests_are_listed_newest_first_and_filtered() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        rows = text_of("#decision-rows tr")
        await page.until(f"{rows}.length == 200")
        numbers = await page.run("[...keptRows.get(byId('decision-rows')).keys()]")
        order = [int(number.split(" ")[1]) for number in numbers]
        assert order == sorted(order, reverse=True)
        await page.run("document.getElementById('only-failed').click()")
        await page.until(f"{rows}.every((row) => /refused|failed open/.test(row))")
        await typed(page, "decision-reason", "picker_timeout")
        await page.until(f"{rows}.length > 0 && {rows}.every((row) => row.includes('{LYING}'))")
        await typed(page, "decision-pool", BROKEN)
        await page.until(f"{rows}.length == 0")
        assert "No request matches." in await page.run(BODY)
        await typed(page, "decision-pool", "")
        await typed(page, "decision-reason", "")
        number = await page.run("decisions.failed.at(-1).request_id")
        await typed(page, "decision-query", number)
        await page.until(f"{rows}.length == 1")


async def test_a_request_unfolds_to_all_that_is_known_about_it() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await typed(page, "decision-pool", LYING)
        await page.run("document.getElementById('only-failed').click()")
        rows = text_of("#decision-rows tr")
        await page.until(f"{rows}.length > 0 && {rows}.every((row) => row.includes('failed open'))")
        await page.run("document.querySelector('#decision-rows button').click()")
        await page.until("document.querySelector('#decision-rows .detail') !== null")
        (fields,) = await page.run(text_of("#decision-rows .detail"))
        for field in (
            "picker_timeout: the endpoint picker did not answer in time",
            "request bytes",
        ):
            assert field in fields


async def test_events_are_listed_newest_first_and_filtered() -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        rows = text_of("#event-rows li")
        await page.until(f"{rows}.length == 3")
        found = await page.run(rows)
        assert f"{LYING} picker 10.200.0.3:9002 is failing (was serving)" in found[0]
        assert f"{BROKEN} 8 gone (qwen-0, qwen-1, qwen-2 and 5 more); 0 ready" in found[1]
        assert "the sidecar has started" in found[2]
        await typed(page, "event-kind", "endpoints")
        await page.until(f"{rows}.length == 1")
        await typed(page, "event-query", "no such event")
        await page.until(f"{rows}.length == 0")


# --- whatever happens ---


async def test_what_comes_from_outside_is_text_and_never_runs() -> None:
    async with shown(Fleet(3, troubled=True)) as (page, _):
        await page.run("document.getElementById('problems').open = true")
        await toggled(page, "team-1/model-001")
        await page.until("document.querySelectorAll('.detail .scroll tbody tr').length > 0")
        await page.until("document.querySelectorAll('#decision-rows tr').length > 0")
        text = await page.run(BODY)
        assert text.count(HOSTILE) >= 3, "as a problem, a label and a Pod"
        assert await page.run("document.title") == "Failing · epp-client"
        assert await page.run("document.images.length") == 0
        assert await page.run("document.scripts.length") == 1


async def test_a_sidecar_that_is_gone_is_said_to_be_and_what_is_old_is_dimmed() -> None:
    async with shown(Fleet(3)) as (page, server):
        await page.until("document.querySelectorAll('#pool-rows button.name').length == 3")
        await server.close()
        await page.until(f"{PILL} == 'No answer'")
        assert "No answer since " in await page.run("document.getElementById('headline').innerText")
        assert await page.run("document.getElementById('main').className") == "stale"
        await page.until("getComputedStyle(document.querySelector('#pools')).opacity < 0.5")
        assert await page.run("document.querySelectorAll('#pool-rows button.name').length") == 3


async def test_a_stream_that_stalls_is_seen_and_one_that_comes_back_too() -> None:
    async with shown(Scene(3)) as (page, server):
        looking = server.watching.look
        server.watching.look = lambda: None  # type: ignore[method-assign]
        await page.until(f"{PILL} == 'No answer'")
        server.watching.look = looking  # type: ignore[method-assign]
        await page.until(f"{PILL} == 'OK'")
        assert await page.run("document.getElementById('main').className") == ""


async def test_a_sidecar_that_has_restarted_begins_with_new_records() -> None:
    scene = Scene(2)
    async with shown(scene) as (page, server):
        await page.until("decisions.others.length > 100")
        address = await page.run("location.host")
        await server.close()
        fresh = Fleet(1).server(address)
        await fresh.start()
        try:
            await page.until("document.querySelectorAll('#pool-rows button.name').length == 1")
            await page.until("decisions.others.length < 100")
            assert await page.run(PILL) == "OK"
        finally:
            await fresh.close()


async def test_a_paused_page_stands_still_and_goes_on() -> None:
    scene = Scene(2)
    async with shown(scene) as (page, server):
        await page.run("document.getElementById('pause').click()")
        before = await page.run("state.head.at")
        await look_again(scene, server, 3)
        assert await page.run("state.head.at") == before
        await page.run("document.getElementById('pause').click()")
        await page.until(f"state.head.at > {before}")
        assert await page.run(PILL) == "OK"


@pytest.mark.parametrize("width", [320, 390, 768, 900, 1280])
async def test_nothing_is_wider_than_the_screen(tmp_path: Path, width: int) -> None:
    async with shown(Fleet(6, troubled=True)) as (page, _):
        await toggled(page, "team-1/model-001")
        await page.until("document.querySelectorAll('.detail .scroll tbody tr').length > 0")
        await page.picture(tmp_path / "page.png", width, 800)
        assert await page.run("document.documentElement.scrollWidth") <= width


async def test_on_a_phone_the_trouble_comes_first(tmp_path: Path) -> None:
    async with shown(Scene(5, incident=True)) as (page, _):
        await page.picture(tmp_path / "page.png", 390, 844)
        top = "document.querySelector('{}').getBoundingClientRect().top"
        assert await page.run(top.format("#findings li")) < 844 / 2
        assert await page.run(top.format("#judgement")) < await page.run(top.format("#plots"))


async def test_a_pool_with_many_endpoints_shows_the_first_of_them() -> None:
    async with shown(Fleet(1, endpoints=300)) as (page, _):
        await toggled(page, "team-0/model-000")
        rows = "document.querySelectorAll('.detail .scroll tbody tr').length"
        await page.until(f"{rows} == {MAX_ENDPOINTS}")
        assert "200 of 300" in await page.run(BODY)
