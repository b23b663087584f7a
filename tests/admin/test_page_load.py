"""The admin page with many pools and endpoints: an update draws what has changed, and no more."""

from typing import Any

import pytest

from tests.admin.browser import Page
from tests.admin.fleet import Fleet
from tests.admin.pages import look_again, shown, toggled

pytestmark = pytest.mark.timeout(300)

WATCH = """
var touched = new Set(), added = 0, longest = 0;
new MutationObserver((changes) => {
  for (const change of changes) {
    added += change.addedNodes.length;
    touched.add(change.target);
  }
}).observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
new PerformanceObserver((list) => {
  for (const task of list.getEntries()) longest = Math.max(longest, task.duration);
}).observe({ type: 'longtask' });
0
"""


async def updated(page: Page, fleet: Fleet, server: Any, work: bool = True) -> int:
    """Nodes that one more look has changed in the page."""
    await page.run("touched.clear()")
    at = await page.run("state.head.at")
    if work:
        await look_again(fleet, server)
    else:
        server.watching.look()
    await page.until(f"state.head.at > {at}")
    await page.run("new Promise((done) => requestAnimationFrame(() => setTimeout(done, 50)))")
    count = await page.run("touched.size")
    assert isinstance(count, int)
    return count


async def test_an_update_without_news_changes_no_row() -> None:
    fleet = Fleet(100)
    async with shown(fleet) as (page, server):
        await page.until("document.querySelectorAll('#pool-rows button').length == 100")
        await page.run(WATCH)
        await updated(page, fleet, server, work=False)
        await page.run("touched.clear()")
        await updated(page, fleet, server, work=False)
        rows = "[...touched].filter((node) => document.getElementById('pool-rows').contains(node)).length"
        assert await page.run(rows) == 0


async def test_one_pool_that_changes_is_the_only_row_that_is_drawn() -> None:
    fleet = Fleet(100)
    async with shown(fleet) as (page, server):
        await page.until("document.querySelectorAll('#pool-rows button').length == 100")
        await page.run(WATCH)
        await updated(page, fleet, server, work=False)
        fleet.counters.pools["team-3/model-003"].in_flight = 77
        await page.run("touched.clear()")
        await updated(page, fleet, server, work=False)
        rows = (
            "[...new Set([...touched].map((node) => node.closest && node.closest('#pool-rows tr'))"
            ".filter(Boolean))].map((row) => row.button.dataset.pool)"
        )
        assert await page.run(rows) == ["team-3/model-003"]


async def test_five_hundred_pools_and_ten_thousand_endpoints_stay_fluid(
    record_property: Any,
) -> None:
    fleet = Fleet(500, endpoints=20)
    large = Fleet(1, endpoints=10_000)
    fleet.store.publish({**_by_name(fleet), **_by_name(large)}, ())
    fleet.names = [snapshot.pool.name for snapshot in fleet.store.snapshots.values()]
    async with shown(fleet) as (page, server):
        rows = "document.querySelectorAll('#pool-rows button').length"
        for count in (200, 300, 400, 500):
            await page.run("document.getElementById('more').click()")
            await page.until(f"{rows} == {count}")
        await toggled(page, "team-0/model-000")
        await page.until("document.querySelectorAll('.detail .scroll tbody tr').length == 200")
        assert await page.run("open.get('team-0/model-000').data.endpointCount") == 10_000
        await page.run(WATCH)
        await page.run("drawn.updates = drawn.milliseconds = drawn.worst = 0")
        counts = [await updated(page, fleet, server) for _ in range(5)]
        # Every row is there already: an update writes into it, and makes none anew.
        nodes = await page.run("document.querySelectorAll('*').length")
        assert nodes < 20_000
        assert max(counts) < nodes / 2
        drawn = await page.run("drawn")
        record_property("milliseconds per update", drawn["milliseconds"] / drawn["updates"])
        print(drawn, "longest task", await page.run("longest"), "nodes", nodes, "touched", counts)


def _by_name(fleet: Fleet) -> dict[Any, Any]:
    return {snapshot.pool.name: snapshot for snapshot in fleet.store.snapshots.values()}
