"""Gateways that route wrongly, or lose requests while something changes."""

import asyncio
import dataclasses
from typing import Any

from epp_client.envoy import gateway_actions
from epp_client.gateway import contribution
from epp_client.gateway.table import GatewayTable
from epp_client.kubernetes import gateway
from epp_client.kubernetes.follow import source
from epp_client.pool import resolve as pools
from epp_client.xds.ads import AdsServer
from testbed.strict.mutants.registry import mutant, replace


def _backends(change: Any) -> Any:
    """Changes the backends of each rule before they are written."""

    def make(original: Any) -> Any:
        def to_backends(route: Any, action: Any, terms: Any) -> Any:
            return original(route, action._replace(backends=change(action.backends)), terms)

        return to_backends

    return make


@mutant(
    "weights-six-points-off",
    {"weights-70-30": "weight 70 %", "weights-60-40": "weight 60 %", "weights-99-1": "weight 99 %"},
)
def weights_six_points_off() -> None:
    """Six points of a hundred go to the other pool, as the official suite accepts."""

    def change(backends: Any) -> Any:
        if len(backends) != 2 or sum(b.weight for b in backends) != 100:
            return backends
        first, last = backends
        return (first._replace(weight=first.weight - 6), last._replace(weight=last.weight + 6))

    replace(gateway_actions, "_to_backends", _backends(change))


@mutant("small-weight-starved", {"weights-99-1": "(100.0 %)"})
def small_weight_starved() -> None:
    """A weight of a hundredth gets nothing, which is within 3 points."""

    def change(backends: Any) -> Any:
        whole = sum(b.weight for b in backends)
        return tuple(b for b in backends if b.weight > whole / 50)

    replace(gateway_actions, "_to_backends", _backends(change))


@mutant(
    "sections-ignored",
    {"isolation": ": 200 alpha", "conditions-of-faults": "instead of False/NoMatchingParent"},
)
def sections_ignored() -> None:
    """A route attaches to all listeners of its Gateway."""

    def make(original: Any) -> Any:
        return lambda route, parent, *rest: original(route, parent._replace(section=""), *rest)

    replace(contribution, "attach", make)


@mutant("gateways-mixed", {"isolation": ": 200 beta"})
def gateways_mixed() -> None:
    """Routes of other Gateways are served as well."""

    def make(original: Any) -> Any:
        def resolve_gateway(world: Any, previous: Any) -> Any:
            name = world.gateway["metadata"]["name"]
            routes = []
            for route in world.routes:
                parents = [{**one, "name": name} for one in route["spec"].get("parentRefs") or ()]
                routes.append({**route, "spec": {**route["spec"], "parentRefs": parents}})
            return original(dataclasses.replace(world, routes=routes), previous)

        return resolve_gateway

    replace(gateway, "resolve_gateway", make)


@mutant("bad-references-404", {"bad-references-500": ": 404"})
def bad_references_404() -> None:
    """A reference that leads nowhere is answered as if there were no route."""
    replace(gateway_actions, "_NOT_FOUND_IS_500", lambda _: 1)


@mutant("bad-references-skipped", {"bad-references-500": "24 of 24: 200 alpha"})
def bad_references_skipped() -> None:
    """The share of a reference that leads nowhere goes to the others."""

    def change(backends: Any) -> Any:
        return tuple(b for b in backends if b.target is not None) or backends

    replace(gateway_actions, "_to_backends", _backends(change))


def _without_hosts(table: GatewayTable) -> GatewayTable:
    routes = {name: one._replace(hosts=()) for name, one in table.routes.items()}
    return dataclasses.replace(table, routes=routes)


@mutant("routes-flap", {"routes-change": "were lost, such as: 404"})
def routes_flap() -> None:
    """A changed table is taken away before it is set."""

    def make(original: Any) -> Any:
        def serve(self: AdsServer, table: GatewayTable | None) -> None:
            if table is not None:
                original(self, _without_hosts(table))
                asyncio.get_running_loop().call_later(0.05, original, self, table)

        return serve

    replace(AdsServer, "serve_gateway", make)


@mutant("new-pods-unknown", {"rollout": "were lost"})
def new_pods_unknown() -> None:
    """The endpoints of a pool are those that it had at first."""

    def make(original: Any) -> Any:
        def resolve_pool(pool: Any, pods: Any, picker: Any, previous: Any, *rest: Any) -> Any:
            if previous is not None and len(previous.snapshot.table.by_key) > 1:
                return previous
            return original(pool, pods, picker, previous, *rest)

        return resolve_pool

    replace(source, "resolve_pool", make)


@mutant("dropped-at-once", {"late-pick": "were lost"})
def dropped_at_once() -> None:
    """A Pod is no endpoint any more as soon as it terminates."""

    def make(original: Any) -> Any:
        def members(pool: Any, pods: Any, *rest: Any) -> Any:
            return original(pool, [pod for pod in pods if pod.ready], *rest)

        return members

    replace(pools, "_members", make)
    replace(pools, "_left", lambda _: lambda *arguments: {})


@mutant("gateway-outlived", {"gateway-deletion": ": 200 {"})
def gateway_outlived() -> None:
    """A Gateway that was deleted is served on."""

    def make(original: Any) -> Any:
        def serve(self: AdsServer, table: GatewayTable | None) -> None:
            if table is not None and table.listeners:
                original(self, table)

        return serve

    replace(AdsServer, "serve_gateway", make)
