"""RouteSource: the HTTPRoutes in scope, each list followed once for all who read them."""

import asyncio
from collections.abc import Callable, Mapping

from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import HTTP_ROUTE
from epp_client.kubernetes.follow.cache import Key, Object
from epp_client.kubernetes.follow.last_known import Memory
from epp_client.kubernetes.follow.queries import Scope, kept
from epp_client.kubernetes.follow.reflector import PACE, Asked, Pace, Reflector


class RouteSource:
    """Whole HTTPRoutes, without their managedFields. If the kind is not installed, there are none."""

    def __init__(
        self,
        api: KubernetesApi,
        scope: Scope,
        asked: Asked,
        pace: Pace = PACE,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.changed: list[Callable[[], None]] = []
        """Called after every change, including changes of a status."""
        self.reflectors = [
            Reflector[Object](
                api,
                query,
                kept(query),
                self._changed,
                asked,
                optional=True,
                pace=pace,
                clock=clock,
            )
            for query in scope.everywhere(HTTP_ROUTE)
        ]

    @property
    def known(self) -> Mapping[Key, Object] | None:
        """The HTTPRoutes by name, from the API server or from the last-known file; None while a list is
        missing, for example refused."""
        if not all(reflector.synced for reflector in self.reflectors):
            return None
        return {
            key: route for reflector in self.reflectors for key, route in reflector.objects.items()
        }

    @property
    def listed(self) -> Mapping[Key, Object] | None:
        """The same, and None while they are from the last-known file."""
        return self.known if all(reflector.current for reflector in self.reflectors) else None

    def recall(self, memory: Memory) -> None:
        """Use `memory` for every query that the server has not listed."""
        for reflector in self.reflectors:
            if (objects := memory.objects(reflector.query)) is not None:
                reflector.recall(objects, memory.at)

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as group:
            for reflector in self.reflectors:
                group.create_task(reflector.run())

    def _changed(self) -> None:
        for told in self.changed:
            told()
