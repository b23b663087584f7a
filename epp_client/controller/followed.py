"""Followed: one Gateway of ours as the controller follows it, by the same parts as its data plane does. Of
its table only the status is used."""

import asyncio
from collections.abc import Callable, Collection, Mapping

import structlog

from epp_client.controller.said import run_wanted
from epp_client.controller.standing import Running, addresses_of, not_programmed
from epp_client.gateway.resolve import resolve_gateway
from epp_client.gateway.table import GatewayName
from epp_client.gateway.world import Object, References
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import GATEWAY
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.follow.gateway import GatewaySource
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.reflector import PACE, Asked, Pace
from epp_client.kubernetes.follow.routes import RouteSource
from epp_client.kubernetes.status.findings import Inputs, said_of_pools
from epp_client.kubernetes.status.gateway_findings import GatewayFacts, said_of_gateway
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.subjects import Said, Subject
from epp_client.pool.inference_pool import PoolName

log = structlog.get_logger(__name__)


class Followed:
    """A Gateway that is followed from its creation to `stop`."""

    def __init__(
        self,
        api: KubernetesApi,
        parent: Parent,
        routes: RouteSource,
        pools: Callable[[], Collection[PoolName] | None],
        changed: Callable[[], None],
        clock: Callable[[], float],
        asked: Asked,
        pace: Pace = PACE,
    ) -> None:
        self._parent = parent
        self._routes = routes
        self.running = Running()
        self.parameters = ""
        """What is wrong with its parameters or its class; empty if there is nothing."""
        self.source = GatewaySource(
            api,
            parent.gateway,
            parent.controller,
            Scope(),
            routes,
            pools,
            # Endpoints of pools are the data plane's business.
            lambda _: True,
            resolve_gateway,
            lambda _: None,
            clock,
            asked,
            pace=pace,
        )
        self.source.changed.append(changed)
        self._task = asyncio.create_task(self.source.run())
        self._task.add_done_callback(self._ended)

    async def stop(self) -> None:
        """Stop following. No task is left running."""
        self._routes.changed.remove(self.source.wake)
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def _ended(self, task: "asyncio.Task[None]") -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error(
                "a Gateway is not followed any more; its data plane serves on",
                gateway=str(self._parent.gateway),
                error=repr(error),
            )

    @property
    def references(self) -> References | None:
        """What the Gateway and its routes refer to; None before it is known."""
        resolution = self.source.resolution
        return None if resolution is None else resolution.references

    def said(self, inputs: Inputs, routes: Mapping[Key, Object]) -> list[Said]:
        """What is to be said of the Gateway, its routes and its pools."""
        source = self.source
        pools = said_of_pools(inputs, self._parent)
        if source.statuses is None:
            return [pools]
        facts = GatewayFacts(
            source.statuses, source.gateway, None, routes, source.resolved_generation, True
        )
        said = said_of_gateway(facts, self._parent)
        subject = Subject(GATEWAY, *self._parent.gateway)
        if subject in said.wanted:
            said.wanted[subject] = run_wanted(
                source.statuses.gateway,
                addresses_of(self.running),
                not_programmed(self.running),
                self.parameters,
            )
        return [said, pools]

    @property
    def name(self) -> GatewayName:
        """The Gateway's."""
        return self._parent.gateway
