"""Changes of a Gateway, its routes and what they refer to.

They cost the requests that they are about no more than the objects say, and others nothing.
"""

import random
import time
from collections.abc import Awaitable, Callable

from chaos import subjects
from chaos.account import Window
from chaos.fault import Faults, pause
from chaos.installation import Installation
from chaos.routed import RoutedInstallation
from chaos.routing import Routing
from chaos.source import SourceName
from chaos.spans import GONE
from chaos.subjects import ELSEWHERE

ROUTE_FAULTS = Faults()
GROUP = "route"
_GONE = (1.5, 2.5)
"""Shortest and longest seconds for which the listener is away."""

Change = Callable[[Routing, random.Random], Awaitable[float]]
"""Makes one change; returns the seconds until requests show it."""
CHANGES: dict[str, Change] = {}
"""By name of the fault."""


def _changes(name: str, times: tuple[int, int]) -> Callable[[Change], Change]:
    """Adds a fault that makes between so many changes."""

    def register(change: Change) -> Change:
        @ROUTE_FAULTS.add(name, GROUP, SourceName.GATEWAY)
        async def hurt(inst: Installation, dice: random.Random, window: Window) -> None:
            assert isinstance(inst, RoutedInstallation)
            longest, count = 0.0, dice.randint(*times)
            for _ in range(count):
                longest = max(longest, await change(inst.routing, dice))
                await pause(dice, 0.0, 0.3)
            window.notes.append(f"{count} changes, served after {longest * 1000:.0f} ms at most")

        CHANGES[name] = change
        return change

    return register


@_changes("route: weights", (2, 6))
async def weights(routing: Routing, dice: random.Random) -> float:
    """Requests go where the weights say. Some changes overtake the ones before."""
    for _ in range(dice.randrange(3)):
        await _weights(routing, dice, wait=False)
        await pause(dice, 0.0, 0.05)
    return await _weights(routing, dice, wait=True)


async def _weights(routing: Routing, dice: random.Random, *, wait: bool) -> float:
    first, second = dice.choice([(0, 1), (1, 0), (1, 1), (70, 30), (99, 1)])
    new = routing.edition()
    right = [f"{new} {name}" for name, w in (("open", first), ("observe", second)) if w]
    changed = subjects.weights(new, first, second)
    return await routing.change([changed], {"weights": right}, wait=wait)


@_changes("route: header match", (2, 6))
async def header_match(routing: Routing, dice: random.Random) -> float:
    """Another rule of the route gets the requests, and back."""
    new, variant = routing.edition(), dice.choice(["red", "blue"])
    answer = f"{new} {'red' if variant == 'red' else 'others'} open"
    return await routing.change([subjects.matches(new, variant)], {"matches": [answer]})


@_changes("route: hostnames", (1, 4))
async def hostnames(routing: Routing, dice: random.Random) -> float:
    """A hostname goes and comes; the other one stays."""
    slowest = 0.0
    for names in (["b.example.com"], ["a.example.com", "b.example.com"]):
        new = routing.edition()
        rules = [subjects.rule("hostnames", new, [subjects.pool("open")])]
        right = {
            "hostname": [f"{new} open" if "a.example.com" in names else "404"],
            "other-hostname": [f"{new} open"],
        }
        changed = subjects.route("hostnames", rules, names)
        slowest = max(slowest, await routing.change([changed], right))
        await pause(dice, 0.0, 0.3)
    return slowest


@_changes("route: deleted and created", (1, 4))
async def deleted(routing: Routing, dice: random.Random) -> float:
    """404 while there is no route."""
    new = routing.edition()
    route = subjects.route("deleted", [subjects.rule("deleted", new, [subjects.pool("open")])])
    slowest = await routing.change([], {"deleted": ["404"]}, gone=[route])
    await pause(dice, 0.0, 0.5)
    return max(slowest, await routing.change([route], {"deleted": [f"{new} open"]}))


@_changes("ReferenceGrant removed and added", (1, 3))
async def granted(routing: Routing, dice: random.Random) -> float:
    """500 while the reference is not allowed."""
    old = routing.timeline.newest("granted")
    grant = subjects.grant()
    slowest = await routing.change([], {"granted": ["500"]}, gone=[grant])
    await pause(dice, 0.0, 0.5)
    new = routing.edition()
    route = subjects.to_service("granted", new, ELSEWHERE)
    # The grant may be known before the route's new edition: a watch has one kind of object.
    meanwhile = {"granted": sorted(old)}
    return max(
        slowest, await routing.change([route, grant], {"granted": [new]}, meanwhile=meanwhile)
    )


@_changes("Service's endpoints churn", (3, 8))
async def service_endpoints(routing: Routing, dice: random.Random) -> float:
    """Some of its endpoints go and come. One stays at least."""
    every = list(routing.models)
    some = dice.sample(every, dice.randrange(1, len(every)))
    await routing.change(subjects.models(some), {}, wait=False)
    await pause(dice, 0.0, 0.3)
    new = routing.edition()
    items = [*subjects.models(every), subjects.to_service("service", new)]
    return await routing.change(items, {"service": [new]})


@_changes("certificate renewed", (1, 3))
async def renewed(routing: Routing, dice: random.Random) -> float:
    """A new handshake has the old certificate or the new one."""
    del dice
    secret, name = routing.certificate()
    return await routing.change([secret], {"certificate": [f"0 open {name}"]})


@_changes("listener removed and added", (1, 1))
async def listener(routing: Routing, dice: random.Random) -> float:
    """Nobody listens on its port meanwhile. Other ports of the Gateway serve on, also that which gets and
    loses hostnames with a certificate."""
    of_class = routing.gateway_class
    chains = ["other.example.com"]
    without = subjects.gateway(routing.ports, of_class=of_class, extra=False, chains=chains)
    began = time.monotonic()
    await routing.change([without], {"listener": GONE}, wait=False)
    await routing.shown("listener")
    slowest = time.monotonic() - began
    # Open connections are served until the listener has drained.
    await pause(dice, *_GONE)
    if routing.drain_time < _GONE[0]:
        await routing.settle("listener")
        await pause(dice, 0.0, 1.0)
    whole = subjects.gateway(routing.ports, of_class=of_class)
    return max(slowest, await routing.change([whole], {"listener": ["0 open"]}))


@_changes("routes churn", (1, 3))
async def routes_churn(routing: Routing, dice: random.Random) -> float:
    """Other routes come, change and go, among them some that cannot be served."""
    number = dice.randrange(5, 30)
    made = [_other(f"churn-{n}", routing.edition(), dice) for n in range(number)]
    await routing.change(made, {}, wait=False)
    await pause(dice, 0.0, 0.3)
    again = [_other(item["metadata"]["name"], routing.edition(), dice) for item in made]
    await routing.change(again, {}, wait=False)
    await pause(dice, 0.0, 0.3)
    new = routing.edition()
    last = subjects.matches(new, "red")
    return await routing.change([last], {"matches": [f"{new} red open"]}, gone=again)


def _other(name: str, edition: str, dice: random.Random) -> subjects.Object:
    match dice.randrange(4):
        case 0:
            # There is no such pool.
            backends = [subjects.pool("missing")]
        case 1:
            # Envoy would reject this expression.
            bad = {"type": "RegularExpression", "name": "x-any", "value": "(unclosed"}
            return subjects.route(
                name, [subjects.rule(name, edition, [subjects.pool("open")], [bad])]
            )
        case _:
            backends = [subjects.pool("open"), subjects.pool("close")]
    return subjects.route(name, [subjects.rule(name, edition, backends)])
