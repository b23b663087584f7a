"""The admin page in a browser, for the tests of it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from epp_client.admin.server import AdminServer
from tests.admin.browser import Page, opened
from tests.admin.fleet import Fleet

PILL = "document.getElementById('pill').textContent"
BODY = "document.body.innerText"


@asynccontextmanager
async def shown(fleet: Fleet) -> AsyncIterator[tuple[Page, AdminServer]]:
    """The page over these pools, once it has drawn them."""
    server = fleet.server()
    address = await server.start()
    try:
        async with opened(f"http://{address}/") as page:
            await page.until(f"document.readyState == 'complete' && {PILL} != 'asking …'")
            await page.ask(
                "Emulation.setDeviceMetricsOverride",
                width=1280, height=900, deviceScaleFactor=1, mobile=False,
            )  # fmt: skip
            yield page, server
    finally:
        await server.close()


def text_of(selector: str) -> str:
    """The script that reads the text of all such nodes, as a list."""
    return f"[...document.querySelectorAll(`{selector}`)].map((node) => node.innerText)"


async def toggled(page: Page, pool: str) -> None:
    """Open or close a pool."""
    await page.run(f"document.querySelector('button.name[data-pool=\"{pool}\"]').click()")


async def typed(page: Page, field: str, text: str) -> None:
    """Write into a field, or choose a value, which the page may offer only once it has heard of it."""
    await page.until(
        f"(() => {{ const field = document.getElementById('{field}'); return field.tagName !== 'SELECT'"
        f" || [...field.options].some((option) => option.value === `{text}`); }})()"
    )
    await page.run(
        f"(() => {{ const field = document.getElementById('{field}'); field.value = `{text}`;"
        "field.dispatchEvent(new Event('input')); })()"
    )


async def look_again(fleet: Fleet, server: AdminServer, times: int = 1) -> None:
    """Two seconds of requests, and a look at them, without waiting for the clock."""
    for _ in range(times):
        fleet.work(troubled=False)
        server.watching.hear()
        server.watching.look()
        await asyncio.sleep(0)
