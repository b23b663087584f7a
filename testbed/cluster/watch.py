"""Follows a collection of objects: all of them first, then each change, for ever."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp

from testbed.cluster.api import Api, ApiError, Object

_PAUSE = 0.3
"""Seconds before a new attempt."""


@dataclass(frozen=True)
class Listed:
    """All objects that exist now: one that is not among them is gone."""

    items: list[Object]


@dataclass(frozen=True)
class Changed:
    """An object is new or has changed."""

    item: Object


@dataclass(frozen=True)
class Gone:
    """An object was deleted. `item` is its last state."""

    item: Object


async def watch(api: Api, path: str) -> AsyncIterator[Listed | Changed | Gone]:
    """List and watch the collection at `path`, such as `/api/v1/pods`. While the API server is away
    nothing comes; then a new list does."""
    while True:
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, ApiError):
            listed = await api.call("GET", path)
            yield Listed(listed["items"])
            version = listed["metadata"]["resourceVersion"]
            query = {"watch": "1", "resourceVersion": version, "allowWatchBookmarks": "true"}
            async for line in api.lines(path, query):
                event = json.loads(line)
                match event["type"]:
                    case "ADDED" | "MODIFIED":
                        yield Changed(event["object"])
                    case "DELETED":
                        yield Gone(event["object"])
                    case "ERROR":
                        # Its version is too old by now.
                        break
        await asyncio.sleep(_PAUSE)


def uid(item: Object) -> str:
    """What tells an object from a later one of the same name."""
    return str(item["metadata"]["uid"])
