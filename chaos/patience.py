"""The upper bound of all waits for a part of an installation to recover."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

PATIENCE = 120.0
"""Seconds for a part to recover. A sidecar took 61 s on two cores with a load of 45."""


class NotBack(Exception):
    """A part has not recovered in time; the text tells which."""


@asynccontextmanager
async def patience(what: str) -> AsyncIterator[None]:
    """Raise NotBack if the block, which waits for `what`, takes more than PATIENCE seconds."""
    try:
        async with asyncio.timeout(PATIENCE):
            yield
    except TimeoutError as error:
        raise NotBack(f"not within {PATIENCE:g} s: {what}") from error
