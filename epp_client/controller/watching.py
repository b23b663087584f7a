"""Watching: the reflectors of all that the controller follows, beside what each Gateway refers to."""

import asyncio
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

from epp_client.controller.classes import DEFINITION_NAME, bundle_version
from epp_client.controller.names import MANAGED_LABEL, MANAGER, READERS
from epp_client.controller.objects import OWNED
from epp_client.errors import ApiError
from epp_client.gateway.table import GatewayName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import (
    CLUSTER_ROLE_BINDING,
    CONFIG_MAP,
    DEFINITION,
    GATEWAY,
    GATEWAY_CLASS,
    NODE,
)
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.follow.queries import Query
from epp_client.kubernetes.follow.reflector import PACE, Asked, Pace, Reflector
from epp_client.kubernetes.follow.reflectors import Reflectors, failures, stale, unlisted
from epp_client.kubernetes.status.subjects import Subject
from epp_client.pool.service_addresses import Place

_NODES = Query(NODE)
_KINDS = (GATEWAY_CLASS, GATEWAY)


class Watching:
    """Reflectors of GatewayClasses, Gateways, the objects with our label, and ConfigMaps of parameters."""

    def __init__(
        self,
        api: KubernetesApi,
        changed: Callable[[], None],
        asked: Asked,
        clock: Callable[[], float],
        pace: Pace = PACE,
    ) -> None:
        """`changed` is called after every change."""
        self._api = api
        self._changed = changed
        self._asked = asked
        self._clock = clock
        self._pace = pace
        self._classes = self._reflector(Query(GATEWAY_CLASS))
        self._gateways = self._reflector(Query(GATEWAY))
        label = f"{MANAGED_LABEL}={MANAGER}"
        self._owned = [self._reflector(Query(kind, label_selector=label)) for kind in OWNED]
        self._binding = self._reflector(_named(Query(CLUSTER_ROLE_BINDING), READERS))
        self._definition = self._reflector(_named(Query(DEFINITION), DEFINITION_NAME))
        self._more = Reflectors[GatewayName](
            lambda query, told: self._reflector(query, told), lambda _: changed()
        )

    def _reflector(self, query: Query, changed: Callable[[], None] | None = None) -> Reflector[Any]:
        return Reflector(
            self._api,
            query,
            _KEPT.get(query.resource.kind, _whole),
            changed or self._changed,
            self._asked,
            # A cluster without the Gateway API has no Gateways.
            optional=query.resource in _KINDS,
            pace=self._pace,
            clock=self._clock,
        )

    @property
    def _needed(self) -> list[Reflector[Any]]:
        """Without these nothing can be decided."""
        return [self._classes, self._gateways, *self._owned]

    async def run(self) -> None:
        """Follow until cancelled. No task is left running then."""
        try:
            async with asyncio.TaskGroup() as group:
                for reflector in (*self._needed, self._binding, self._definition):
                    group.create_task(reflector.run())
        finally:
            await self._more.stop()

    # --- what is known ---

    @property
    def missing(self) -> str:
        """What has not been listed yet; empty when everything has been."""
        return unlisted(self._needed)

    def stale(self) -> float:
        """Seconds since some list could not be followed; 0 when all are."""
        return stale([*self._needed, *self._more], self._clock())

    def failures(self) -> list[ApiError]:
        """Why lists cannot be followed, each text once."""
        return failures([*self._needed, self._binding, *self._more])

    @property
    def classes(self) -> Mapping[str, Object]:
        """GatewayClasses by name."""
        return {key.name: data for key, data in self._classes.objects.items()}

    @property
    def gateways(self) -> Mapping[GatewayName, Object]:
        """All Gateways."""
        return {GatewayName(*key): data for key, data in self._gateways.objects.items()}

    @property
    def owned(self) -> Mapping[Subject, Object]:
        """The objects with our label."""
        return {
            Subject(reflector.query.resource, *key): data
            for reflector in self._owned
            for key, data in reflector.objects.items()
        }

    @property
    def binding(self) -> Object | None:
        """The ClusterRoleBinding of all data planes; None if there is none, or it is not known."""
        return self._binding.objects.get(Key("", READERS))

    @property
    def binding_known(self) -> bool:
        """Whether `binding` has been listed."""
        return self._binding.synced

    @property
    def api_version(self) -> str | None:
        """The version of the Gateway API's CRDs; None if it cannot be read."""
        found: str | None = self._definition.objects.get(Key("", DEFINITION_NAME))
        return found

    # --- what Gateways refer to ---

    def refer(self, gateway: GatewayName, config_map: Place | None, *, nodes: bool) -> None:
        """Follow what a Gateway needs to be known, and no more."""
        queries = []
        if config_map is not None:
            queries.append(_named(Query(CONFIG_MAP, config_map[0]), config_map[1]))
        if nodes:
            queries.append(_NODES)
        self._more.refer(gateway, queries)
        self._more.release(gateway, exclude=queries)

    def release(self, gateway: GatewayName) -> None:
        """Forget a Gateway."""
        self._more.release(gateway)

    def config_map(self, place: Place) -> Object | None:
        """A ConfigMap that a Gateway refers to; None if there is none, or it is not known."""
        found = self._more.get(_named(Query(CONFIG_MAP, place[0]), place[1]))
        return None if found is None else found.objects.get(Key(*place))

    def config_map_known(self, place: Place) -> bool:
        """Whether the API server has answered about it."""
        found = self._more.get(_named(Query(CONFIG_MAP, place[0]), place[1]))
        return found is not None and found.answered

    @property
    def nodes(self) -> Collection[Object]:
        """The Nodes, while a Gateway needs them."""
        found = self._more.get(_NODES)
        return () if found is None else [data for _, data in sorted(found.objects.items())]


def _named(query: Query, name: str) -> Query:
    return Query(query.resource, query.namespace, field_selector=f"metadata.name={name}")


def _whole(data: Object) -> Object:
    metadata = {k: v for k, v in (data.get("metadata") or {}).items() if k != "managedFields"}
    return {**data, "metadata": metadata}


def _addresses(data: Object) -> Object:
    addresses: Iterable[Object] = (data.get("status") or {}).get("addresses") or ()
    return {"status": {"addresses": [*addresses]}}


_KEPT: Mapping[str, Callable[[Object], Any]] = {
    # It changes with every heartbeat.
    NODE.kind: _addresses,
    # The schema of a CRD is large.
    DEFINITION.kind: bundle_version,
}
