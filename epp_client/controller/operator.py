"""Operator: keeps the data planes of all Gateways of our classes as they are to be, and their statuses.

Level-based: each turn looks at all that is known and does what differs. The API server's death costs
nothing: what is known stays, and nothing is concluded from what is not. Nothing here is needed to serve a
request.
"""

import asyncio
import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import structlog

from epp_client.controller.applying import PACE as APPLY_PACE
from epp_client.controller.applying import Applying
from epp_client.controller.applying import Pace as ApplyPace
from epp_client.controller.classes import class_problem, class_wanted, is_ours
from epp_client.controller.followed import Followed
from epp_client.controller.grants import Account, readers_binding
from epp_client.controller.names import READERS
from epp_client.controller.objects import GATEWAY_ANNOTATION, Defaults, Plane, Template, objects_of
from epp_client.controller.parameters import DEFAULTS, Parameters, read_parameters
from epp_client.controller.said import departed, join
from epp_client.controller.standing import Running
from epp_client.controller.watching import Watching
from epp_client.errors import ApiError
from epp_client.gateway.table import GatewayName
from epp_client.gateway.world import Object
from epp_client.kubernetes.client.api import KubernetesApi
from epp_client.kubernetes.client.resources import (
    CLUSTER_ROLE_BINDING,
    DEPLOYMENT,
    GATEWAY_CLASS,
    SERVICE,
    SERVICE_ACCOUNT,
)
from epp_client.kubernetes.follow.queries import Scope
from epp_client.kubernetes.follow.reflector import PACE as REFLECTOR_PACE
from epp_client.kubernetes.follow.reflector import Pace as ReflectorPace
from epp_client.kubernetes.follow.routes import RouteSource
from epp_client.kubernetes.follow.source import KubernetesSource
from epp_client.kubernetes.follow.standing import class_name
from epp_client.kubernetes.status.findings import Inputs
from epp_client.kubernetes.status.lease import Terms
from epp_client.kubernetes.status.lease_holder import TERMS, LeaseHolder
from epp_client.kubernetes.status.merge import Parent
from epp_client.kubernetes.status.report import PACE as STATUS_PACE
from epp_client.kubernetes.status.report import Pace as StatusPace
from epp_client.kubernetes.status.report import StatusReporter, WriteResult
from epp_client.kubernetes.status.subjects import Said, Subject
from epp_client.pool.service_addresses import Place
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore
from epp_client.settings import DEFAULT_CONTROLLER

log = structlog.get_logger(__name__)

COALESCE = 0.05
"""Seconds that a change waits for further ones."""


_BINDING = Subject(CLUSTER_ROLE_BINDING, None, READERS)


class Identity(NamedTuple):
    """Who this replica is."""

    controller: str
    lease_namespace: str
    lease: str
    name: str
    """Unique among all replicas, past and present."""


class Paces(NamedTuple):
    """Delays of the parts."""

    apply: ApplyPace = APPLY_PACE
    reflector: ReflectorPace = REFLECTOR_PACE
    status: StatusPace = STATUS_PACE
    lease: Terms = TERMS


PACES = Paces()


class Operator:
    """One replica of the controller."""

    def __init__(
        self,
        api: KubernetesApi,
        identity: Identity,
        template: Template,
        defaults: Defaults,
        clock: Callable[[], float],
        paces: Paces = PACES,
    ) -> None:
        self._api = api
        self._identity = identity
        self._template = template
        self._defaults = defaults
        self._clock = clock
        self._pace = paces.reflector
        self._wake = asyncio.Event()
        self._store = PoolStore()
        of_pools = PoolSettings()
        self._pools = KubernetesSource(api, Scope(), self._store, of_pools, clock)
        self.asked = self._pools.asked
        self._routes = RouteSource(api, Scope(), self.asked, paces.reflector, clock)
        self._watching = Watching(api, self._changed, self.asked, clock, paces.reflector)
        self.holder = LeaseHolder(
            api,
            identity.lease_namespace,
            identity.lease,
            identity.name,
            self._lease_changed,
            paces.lease,
        )
        self.applying = Applying(api, lambda: self.holder.holds, clock, paces.apply)
        self.writes = dict.fromkeys(WriteResult, 0)
        self._reporter = StatusReporter(
            api, self._said, lambda: self.holder.holds, self._written, paces.status
        )
        self._inputs = Inputs(self._store, of_pools, lambda: self._pools.pools, self._listed_routes)
        self.followed: dict[GatewayName, Followed] = {}
        self._left: set[GatewayName] = set()
        """Gateways that were ours and are another implementation's now."""
        self._ready = False
        self._routes.changed.append(self._reporter.wake)
        self._pools.pools_changed.append(self._pools_changed)

    # --- life ---

    async def run(self) -> None:
        """Run until cancelled. Then the Lease is released, and no task is left running."""
        store_end = self._store.subscribe(lambda _: self._reporter.wake())
        try:
            async with asyncio.TaskGroup() as group:
                for part in (
                    self._watching.run(),
                    self._routes.run(),
                    self._pools.run(),
                    self.holder.run(),
                    self._reporter.run(),
                    self._turns(),
                ):
                    group.create_task(part)
        finally:
            store_end()
            await asyncio.gather(*(one.stop() for one in self.followed.values()))

    async def _turns(self) -> None:
        delay: float | None = None
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(delay):
                    await self._wake.wait()
                    await asyncio.sleep(COALESCE)
            self._wake.clear()
            try:
                delay = await self._turn()
            except Exception:
                log.exception("a turn of the controller failed; trying again")
                delay = APPLY_PACE.longest

    def _changed(self) -> None:
        self._wake.set()

    def _pools_changed(self) -> None:
        for one in self.followed.values():
            one.source.wake()
        self._reporter.wake()

    def _lease_changed(self) -> None:
        # Another replica may have applied something since.
        self.applying.forget()
        self._wake.set()
        self._reporter.wake()

    def _written(self, result: WriteResult) -> None:
        self.writes[result] += 1

    # --- state ---

    @property
    def missing(self) -> str:
        """What has not been listed yet; empty when the controller is ready."""
        return self._watching.missing

    def stale(self) -> float:
        """Seconds since something could not be followed; 0 when all is."""
        return self._watching.stale()

    def failures(self) -> list[ApiError]:
        """Why something cannot be followed."""
        return self._watching.failures()

    # --- one turn ---

    async def _turn(self) -> float | None:
        """Do what differs. Returns the seconds until something is to be tried again."""
        watching = self._watching
        if watching.missing:
            return None
        classes, gateways = watching.classes, watching.gateways
        ours = {
            name: data
            for name, data in gateways.items()
            if (found := classes.get(class_name(data))) is not None
            and is_ours(found, self._identity.controller)
        }
        # A class that is deleted takes nothing away from its Gateways.
        orphans = {name for name, data in gateways.items() if class_name(data) not in classes}
        await self._follow(ours, orphans, gateways)
        planned = self._planned(ours, classes)
        wanted = {
            subject: data for objects in planned.values() for subject, data in objects.items()
        }
        kept = {str(name) for name in {*ours, *orphans} - planned.keys()}
        observed = dict(watching.owned)
        delay = None
        if self.holder.holds:
            wanted, observed = self._with_binding(wanted, observed, kept)
            delay = await self.applying.carry_out(wanted, observed, kept)
        for name, one in self.followed.items():
            one.running = self._running(name, planned.get(name, {}))
        self._reporter.wake()
        return delay

    async def _follow(
        self,
        ours: Mapping[GatewayName, Object],
        orphans: set[GatewayName],
        gateways: Mapping[GatewayName, Object],
    ) -> None:
        for name in self.followed.keys() - ours.keys() - orphans:
            await self.followed.pop(name).stop()
            self._watching.release(name)
            self._left.add(name)
            log.info("a Gateway is not ours any more", gateway=str(name))
        self._left &= gateways.keys() - ours.keys()
        for name in ours.keys() - self.followed.keys():
            self.followed[name] = Followed(
                self._api,
                Parent(name, self._identity.controller),
                self._routes,
                lambda: self._pools.pools,
                self._changed,
                self._clock,
                self.asked,
                self._pace,
            )
            log.info("a Gateway is ours", gateway=str(name))

    def _planned(
        self, ours: Mapping[GatewayName, Object], classes: Mapping[str, Object]
    ) -> dict[GatewayName, dict[Subject, Object]]:
        """The objects of each Gateway of which it is known what is wanted."""
        planned: dict[GatewayName, dict[Subject, Object]] = {}
        for name, gateway in ours.items():
            try:
                objects = self._objects(self.followed[name], gateway, classes)
            except Exception:
                # A Gateway of an unforeseen form must not end the work on all others.
                log.exception("cannot tell the objects of a Gateway", gateway=str(name))
                continue
            if objects is not None:
                planned[name] = objects
        return planned

    def _objects(
        self, one: Followed, gateway: Object, classes: Mapping[str, Object]
    ) -> dict[Subject, Object] | None:
        """The objects of a Gateway; None while it is not known what is wanted."""
        parameters = self._parameters(gateway, classes[class_name(gateway)])
        one.parameters = parameters if isinstance(parameters, str) else ""
        if not isinstance(parameters, Parameters) or one.references is None:
            return None
        if gateway["metadata"].get("deletionTimestamp"):
            return None
        controller = self._identity.controller
        plane = Plane(
            gateway,
            parameters,
            self._defaults,
            one.references.secrets,
            one.references.config_maps,
            "" if controller == DEFAULT_CONTROLLER else controller,
        )
        return objects_of(plane, self._template)

    def _parameters(self, gateway: Object, gateway_class: Object) -> Parameters | str | None:
        """The parameters of a Gateway, or what is wrong with them, or None while they are not known."""
        if problem := class_problem(gateway_class):
            return f"GatewayClass {gateway_class['metadata']['name']}: {problem}"
        name = GatewayName(gateway["metadata"]["namespace"], gateway["metadata"]["name"])
        place = _parameters_place(gateway)
        nodes = any(
            subject.resource is SERVICE
            and data["metadata"].get("annotations", {}).get(GATEWAY_ANNOTATION) == str(name)
            and data["spec"].get("type") == "NodePort"
            for subject, data in self._watching.owned.items()
        )
        self._watching.refer(name, place, nodes=nodes)
        if place is None:
            return DEFAULTS
        if not self._watching.config_map_known(place):
            return None
        data = self._watching.config_map(place)
        if data is None:
            return f"spec.infrastructure.parametersRef: ConfigMap {'/'.join(place)} cannot be read"
        found = read_parameters(data)
        if isinstance(found, str):
            return f"spec.infrastructure.parametersRef: ConfigMap {'/'.join(place)}: {found}"
        return found

    def _with_binding(
        self,
        wanted: Mapping[Subject, Object],
        observed: dict[Subject, Object],
        kept: Collection[str],
    ) -> tuple[dict[Subject, Object], dict[Subject, Object]]:
        """With the ClusterRoleBinding of all data planes, before the objects that need it."""
        binding = self._watching.binding
        if not self._watching.binding_known or binding is None:
            # Without config/kubernetes/controller there is none, and it is not ours to make.
            return dict(wanted), observed
        accounts = {
            Account(one.namespace or "", one.name)
            for one, data in [*wanted.items(), *observed.items()]
            if one.resource is SERVICE_ACCOUNT
            and (one in wanted or data["metadata"]["annotations"].get(GATEWAY_ANNOTATION) in kept)
        }
        return {_BINDING: readers_binding(accounts), **wanted}, {**observed, _BINDING: binding}

    def _running(self, name: GatewayName, objects: Mapping[Subject, Object]) -> Running:
        owned = self._watching.owned
        found = {
            subject.resource: data
            for subject, data in owned.items()
            if data["metadata"].get("annotations", {}).get(GATEWAY_ANNOTATION) == str(name)
            and (not objects or subject in objects)
        }
        problem = self.applying.problem([*objects, _BINDING])
        if not problem and self._watching.binding_known and self._watching.binding is None:
            problem = (
                f"ClusterRoleBinding {READERS} does not exist: apply config/kubernetes/controller"
            )
        nodes = tuple(self._watching.nodes)
        return Running(found.get(DEPLOYMENT), found.get(SERVICE), nodes, problem)

    # --- status ---

    def _listed_routes(self) -> Collection[Object] | None:
        routes = self._routes.listed
        return None if routes is None else routes.values()

    def _said(self) -> Said:
        """What is to be said now."""
        routes, pools = self._routes.listed, self._pools.pools
        watching = self._watching
        if watching.missing or routes is None or pools is None:
            return Said({}, {})
        said = [self._said_of_classes()]
        for name, one in self.followed.items():
            try:
                said += one.said(self._inputs, routes)
            except Exception:
                log.exception("cannot tell the status of a Gateway", gateway=str(name))
        said.append(
            departed(routes, pools, self._identity.controller, self._left, watching.gateways.keys())
        )
        return join(said)

    def _said_of_classes(self) -> Said:
        version = self._watching.api_version
        ours = {
            Subject(GATEWAY_CLASS, None, name): data
            for name, data in self._watching.classes.items()
            if is_ours(data, self._identity.controller)
        }
        return Said(
            dict(ours), {subject: class_wanted(data, version) for subject, data in ours.items()}
        )


def _parameters_place(gateway: Object) -> Place | None:
    """The ConfigMap that a Gateway refers to; None if there is none, or the reference is wrong, which its
    status says."""
    reference = ((gateway.get("spec") or {}).get("infrastructure") or {}).get("parametersRef")
    if reference is None or (reference.get("group"), reference.get("kind")) != ("", "ConfigMap"):
        return None
    return str(gateway["metadata"]["namespace"]), str(reference["name"])
