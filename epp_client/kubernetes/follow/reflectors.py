"""The set of reflectors: one per query that something refers to, and summaries of their state."""

import asyncio
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from epp_client.errors import ApiError
from epp_client.kubernetes.client.resources import INFERENCE_POOL, POD
from epp_client.kubernetes.follow.queries import Query
from epp_client.kubernetes.follow.reflector import Reflector

User = TypeVar("User", bound=Hashable)
Make = Callable[[Query, Callable[[], None]], Reflector[Any]]


class Reflectors(Generic[User]):
    """Reflectors of the queries that users (pools, or a Gateway) refer to. Users with the same query share
    a reflector."""

    def __init__(self, make: Make, touched: Callable[[Iterable[User]], None]) -> None:
        """`make` takes a query and the callback for changes. `touched` gets the users that a change
        affects."""
        self._make = make
        self._touched = touched
        self._users: dict[Query, set[User]] = {}
        self._queries: dict[User, set[Query]] = {}
        self._reflectors: dict[Query, Reflector[Any]] = {}
        self._tasks: dict[Query, asyncio.Task[None]] = {}
        self._ended: set[asyncio.Task[None]] = set()

    def __getitem__(self, query: Query) -> Reflector[Any]:
        return self._reflectors[query]

    def get(self, query: Query) -> Reflector[Any] | None:
        """The reflector of a query; None if nothing refers to it."""
        return self._reflectors.get(query)

    def __iter__(self) -> Iterator[Reflector[Any]]:
        return iter(self._reflectors.values())

    def __len__(self) -> int:
        return len(self._reflectors)

    def answered(self, queries: Iterable[Query]) -> bool:
        """Whether the server has answered all `queries` definitely, see `Reflector.answered`."""
        return all(self._reflectors[query].answered for query in queries)

    def refer(self, user: User, queries: Iterable[Query]) -> None:
        """Add references of a user, and follow new queries."""
        for query in queries:
            self._queries.setdefault(user, set()).add(query)
            self._users.setdefault(query, set()).add(user)
            if query not in self._reflectors:
                reflector = self._make(query, self._marker(query))
                self._reflectors[query] = reflector
                self._tasks[query] = asyncio.create_task(reflector.run())

    def release(self, user: User, exclude: Iterable[Query] = ()) -> None:
        """Remove a user's references except `exclude`. Queries without references are stopped."""
        referred = self._queries.pop(user, set())
        if rest := referred.intersection(exclude):
            self._queries[user] = rest
        for query in referred - rest:
            users = self._users[query]
            users.discard(user)
            if not users:
                del self._users[query], self._reflectors[query]
                task = self._tasks.pop(query)
                task.cancel()
                self._ended.add(task)
                task.add_done_callback(self._ended.discard)

    def _marker(self, query: Query) -> Callable[[], None]:
        return lambda: self._touched(self._users.get(query, ()))

    async def stop(self) -> None:
        """Stop all reflectors. No task is left running."""
        tasks = [*self._tasks.values(), *self._ended]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def stale(reflectors: Iterable[Reflector[Any]], now: float) -> float:
    """Seconds since some reflector could not follow; 0 when all can."""
    since = [r.stale_since for r in reflectors if r.stale_since is not None]
    return now - min(since) if since else 0.0


def missing(reflectors: Iterable[Reflector[Any]]) -> str:
    """Which lists are missing before requests can be served; empty when none is."""
    needed = (INFERENCE_POOL, POD)
    waiting = [
        r for r in reflectors if not (r.synced if r.query.resource in needed else r.answered)
    ]
    if not waiting:
        return ""
    first = waiting[0]
    more = f" and {len(waiting) - 1} more" if len(waiting) > 1 else ""
    why = f": {first.failure}" if first.failure is not None else ""
    return f"not listed yet: {first.query}{more}{why}"


def unlisted(reflectors: Iterable[Reflector[Any]]) -> str:
    """The first of these that is not listed, and why; empty when all are."""
    for reflector in reflectors:
        if not reflector.synced:
            why = f": {reflector.failure}" if reflector.failure is not None else ""
            return f"not listed yet: {reflector.query}{why}"
    return ""


def failures(reflectors: Iterable[Reflector[Any]]) -> list[ApiError]:
    """Errors of the reflectors that cannot follow, each text once."""
    found = [r.failure for r in reflectors if r.failure is not None]
    return list({str(error): error for error in found}.values())
