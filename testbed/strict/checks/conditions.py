"""Checks of status: every condition with its reason, of the newest generation."""

import asyncio
from collections.abc import Mapping
from functools import partial

from testbed.cluster.api import Object
from testbed.strict.checks.registry import check
from testbed.strict.checks.routing import bad_references
from testbed.strict.site import Failed, Site
from testbed.strict.target import class_object
from testbed.strict.workloads import gateway

Expected = Mapping[str, tuple[str, str]]
"""Status and reason by type."""

GOOD: Expected = {"Accepted": ("True", "Accepted"), "ResolvedRefs": ("True", "ResolvedRefs")}
PROGRAMMED: Expected = {"Accepted": ("True", "Accepted"), "Programmed": ("True", "Programmed")}
LISTENER: Expected = {**GOOD, **PROGRAMMED}
_SECOND = 1.1
"""Times in conditions have whole seconds."""


def _wrong(where: str, conditions: list[Object], expected: Expected, generation: int) -> str:
    """What is wrong with conditions; empty if nothing is."""
    found = {c["type"]: c for c in conditions}
    for kind, (status, reason) in expected.items():
        if kind not in found:
            return f"{where}: no condition {kind}"
        have = (found[kind]["status"], found[kind]["reason"])
        if have != (status, reason):
            text = f"{kind} is {'/'.join(have)} instead of {status}/{reason}"
            return f"{where}: {text} ({found[kind].get('message')})"
    for kind, condition in found.items():
        observed = condition.get("observedGeneration")
        if observed != generation:
            return f"{where}: {kind} has observedGeneration {observed} instead of {generation}"
    return ""


class Watched:
    """Reads the conditions of objects that this gateway writes."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.times: dict[tuple[str, str], str] = {}
        """lastTransitionTime by place and type, as last seen."""

    def _parents(self, data: Object, name: str) -> list[Object]:
        return [
            parent
            for parent in (data.get("status") or {}).get("parents") or ()
            if parent.get("controllerName") == self.site.controller
            and parent["parentRef"]["name"] == name
        ]

    async def parents(self, item: Object, name: str = "one") -> list[Object]:
        """Our entries in an object's status."""
        return self._parents(await self.site.target.api.get(item), name)

    async def wrong(self, item: Object, expected: Expected) -> str:
        """What is wrong with the only entry that an HTTPRoute or InferencePool has for Gateway `one`."""
        data = await self.site.target.api.get(item)
        where = f"{data['kind']} {data['metadata']['name']}"
        entries = self._parents(data, "one")
        if len(entries) != 1:
            return f"{where}: {len(entries)} entries for Gateway one"
        conditions = entries[0]["conditions"]
        self._note(where, conditions)
        return _wrong(where, conditions, expected, data["metadata"]["generation"])

    async def wrong_gateway(self, attached: Mapping[str, int]) -> str:
        """What is wrong with Gateway `one`, whose listeners have so many routes."""
        data = await self.site.target.api.get(
            gateway("one", self.site.namespace, self.site.target.gateway_class)
        )
        status, generation = data.get("status") or {}, data["metadata"]["generation"]
        self._note("Gateway one", status.get("conditions") or [])
        found = [_wrong("Gateway one", status.get("conditions") or [], PROGRAMMED, generation)]
        listeners = {listener["name"]: listener for listener in status.get("listeners") or ()}
        for name, count in attached.items():
            where, listener = f"listener {name}", listeners.get(name, {})
            self._note(where, listener.get("conditions") or [])
            found.append(_wrong(where, listener.get("conditions") or [], LISTENER, generation))
            if listener.get("attachedRoutes") != count:
                have = listener.get("attachedRoutes")
                found.append(f"{where}: attachedRoutes is {have} instead of {count}")
        return next(filter(None, found), "")

    def _note(self, where: str, conditions: list[Object]) -> None:
        for condition in conditions:
            self.times[where, condition["type"]] = condition["lastTransitionTime"]


async def _class(site: Site) -> None:
    data = await site.target.api.get(class_object(site.target.gateway_class))
    conditions = (data.get("status") or {}).get("conditions") or []
    expected = {"Accepted": ("True", "Accepted")}
    if text := _wrong("GatewayClass", conditions, expected, data["metadata"]["generation"]):
        raise Failed(text)


async def _change_listener(site: Site) -> None:
    """Give Gateway `one` a new generation, which changes nothing for routes of its own namespace."""
    own = gateway("one", site.namespace, site.target.gateway_class)
    found = await site.target.api.get(own)
    listeners = found["spec"]["listeners"]
    allowed = listeners[1]["allowedRoutes"]["namespaces"]
    allowed["from"] = "Same" if allowed["from"] == "All" else "All"
    await site.target.api.patch(own, {"spec": {"listeners": listeners}})


@check(
    "conditions",
    "Every condition has its reason and the newest observedGeneration, also after a change.",
    "alpha",
)
async def conditions(site: Site) -> None:
    """Of GatewayClass, Gateway, listeners, HTTPRoute and InferencePool. A condition whose status stays
    keeps its lastTransitionTime."""
    watched, api = Watched(site), site.target.api
    pool, route = site.pool("said", "alpha", "picker-alpha"), site.route("said.example", "said")
    await _class(site)

    async def holds() -> str:
        return (
            await watched.wrong(route, GOOD)
            or await watched.wrong(pool, GOOD)
            or await watched.wrong_gateway({"http": 1, "side": 0})
        )

    async with site.made(pool, route):
        await site.until("the statuses are right", holds)
        times = dict(watched.times)
        await asyncio.sleep(_SECOND)
        rules = [{**route["spec"]["rules"][0], "matches": [{"path": {"value": "/new"}}]}]
        await api.patch(route, {"spec": {"rules": rules}})
        await api.patch(pool, {"spec": {"endpointPickerRef": {"failureMode": "FailOpen"}}})
        await _change_listener(site)
        await site.until("after a change of each object the statuses are right", holds)
        moved = [
            f"{where}: {kind}"
            for (where, kind), at in times.items()
            if watched.times[where, kind] != at
        ]
        if moved:
            raise Failed(
                f"lastTransitionTime moved although the status did not: {', '.join(moved)}"
            )


@check(
    "conditions-of-faults",
    "Each fault of a route or a pool has the reason that the API defines for it.",
    "alpha",
)
async def conditions_of_faults(site: Site) -> None:
    """References that lead nowhere, parents that do not fit, a picker that does not exist."""
    watched = Watched(site)
    missing = site.pool("no-picker", "alpha", "there-is-no-such-service")
    routes = {
        name: (
            site.route(f"said-{name}.example", reference),
            {**GOOD, "ResolvedRefs": ("False", reason)},
        )
        for name, (reference, reason) in bad_references(site.namespace).items()
    }
    for name, reason, section in (
        ("no-section", "NoMatchingParent", "there-is-none"),
        ("no-host", "NoMatchingListenerHostname", "side"),
    ):
        parents = [{"name": "one", "sectionName": section}]
        item = site.route(f"said-{name}.example", "alpha", parents=parents)
        routes[name] = (item, {**GOOD, "Accepted": ("False", reason)})
    to_missing = site.route("said-no-picker.example", "no-picker")
    async with site.made(missing, to_missing, *(item for item, _ in routes.values())):
        for item, expected in routes.values():
            await site.until("the status is right", partial(watched.wrong, item, expected))
        expected = {"ResolvedRefs": ("False", "InvalidExtensionRef")}
        await site.until("the status is right", partial(watched.wrong, missing, expected))


@check(
    "statuses-go",
    "An InferencePool's entry for a Gateway goes when no route refers to the pool any more.",
    "alpha",
)
async def statuses_go(site: Site) -> None:
    """First one of two routes is deleted, then the other."""
    watched = Watched(site)
    pool = site.pool("left", "alpha", "picker-alpha")
    first, last = site.route("left-1.example", "left"), site.route("left-2.example", "left")
    async with site.made(pool, last):
        async with site.made(first):
            await site.until("the pool has its entry", lambda: watched.wrong(pool, GOOD))
        await asyncio.sleep(_SECOND)
        if text := await watched.wrong(pool, GOOD):
            raise Failed(f"after the first of two routes was deleted: {text}")
        await site.target.api.delete(last)

        async def gone() -> str:
            return "it is there" if await watched.parents(pool) else ""

        await site.until("the entry goes after the last route", gone)
