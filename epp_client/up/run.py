"""Runs a gateway: carries out what `supervision` decides, watches both processes, and logs."""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import structlog

from epp_client import signals
from epp_client.up import admin, orphans
from epp_client.up.admin import NoAnswer, Pool, Served
from epp_client.up.child import Child
from epp_client.up.supervision import (
    Action,
    Clients,
    Drain,
    Exit,
    Kill,
    Part,
    Start,
    Stop,
    Supervision,
    drain_waits_for,
)

log = structlog.get_logger(__name__)

POLL_INTERVAL: Final = 0.1
"""Seconds between two requests to the admin page of a process that starts or drains."""
WATCH_INTERVAL: Final = 1.0
"""Seconds between two reads of the pools."""
PATIENCE: Final = 5.0
"""Seconds of waiting after which the log gives the reason."""
TRIED_PATIENCE: Final = 15.0
"""Upper bound in seconds of the wait for the first check of each picker address. A new address that refuses
connections is retried for about 5 s."""
GRACE: Final = 10.0
"""Seconds that a process has to exit, beyond its drain."""
ENDING: Final = (*signals.ENDING, signal.SIGHUP)
"""Signals that end the gateway. A closed terminal sends SIGHUP."""


_SHOWN: Final = {Part.ENVOY: "Envoy", Part.SIDECAR: "the sidecar"}


class Plan(NamedTuple):
    """What to run. Addresses are host:port."""

    commands: Mapping[Part, Sequence[str]]
    bootstrap: Path
    """File that Envoy's command names."""
    render: Callable[[Served], str]
    """Makes the bootstrap. May raise EppClientError."""
    warm_up: Callable[[], None]
    """Imports what `render` needs, in a thread, while the sidecar starts."""
    announce: Callable[[Served], None]
    """Called once, when the gateway serves."""
    sidecar_admin: str
    envoy_admin: str
    drain_timeout: float
    """Seconds that open requests have to finish."""


class Gateway:
    """One Envoy and one sidecar."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._supervision = Supervision()
        self._children: dict[Part, Child] = {}
        self._runs: dict[Part, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._served = Served()
        """What the sidecar served when it was asked last."""
        self._routed = Served()
        """What Envoy's bootstrap was made of."""
        self._announced = False
        """Whether it has been told that the gateway serves, or will not be."""
        self._sidecar_listens = False
        """Whether the sidecar takes signals. Before, SIGUSR1 could end it."""
        self._ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    async def run(self) -> int:
        """Run until a signal, then drain; returns the exit code.

        Raises:
            EppClientError: Envoy's bootstrap cannot be made.
        """
        loop = asyncio.get_running_loop()
        for number in ENDING:
            loop.add_signal_handler(number, self._asked_to_end)
        for number in signals.LOGGING:
            loop.add_signal_handler(number, self._switch_log_level, number)
        signals.unblock()
        self._carry_out(self._supervision.begin())
        self._spawn(asyncio.to_thread(self._plan.warm_up))
        if orphans.adopts():
            self._spawn(orphans.reap(lambda: {child.pid for child in self._children.values()}))
        try:
            return await self._ended
        finally:
            await asyncio.gather(*(child.stop(GRACE) for child in self._children.values()))
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _asked_to_end(self) -> None:
        log.info("draining; a second signal cuts open requests")
        self._announced = True
        self._carry_out(self._supervision.asked_to_end())

    def _switch_log_level(self, number: signal.Signals) -> None:
        child = self._children.get(Part.SIDECAR)
        if child is None or not self._sidecar_listens:
            log.warning("the log level is as before: the sidecar starts; send the signal again")
            return
        child.signal(number)

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Start(part, delay):
                    self._runs[part] = self._spawn(self._run_part(part, delay))
                case Drain():
                    self._spawn(self._drain())
                case Stop(part):
                    self._spawn(self._stop(part))
                case Kill(part) if part in self._children:
                    self._children[part].signal(signal.SIGKILL)
                case Exit(code) if not self._ended.done():
                    self._ended.set_result(code)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._ended.done():
            self._ended.set_exception(error)

    async def _run_part(self, part: Part, delay: float) -> None:
        """Run a process once, and report its end."""
        loop = asyncio.get_running_loop()
        code, began = 0, loop.time()
        try:
            await asyncio.sleep(delay)
            began = loop.time()
            code = await self._lived(part)
        except asyncio.CancelledError:
            # `_stop` cancels a delayed start this way.
            if self._ended.done():
                raise
        except OSError as error:
            # No process or descriptor is free.
            log.error(f"{_SHOWN[part]} cannot be started", error=str(error))
            code = 1
        self._carry_out(self._supervision.exited(part, code, loop.time() - began))

    async def _lived(self, part: Part) -> int:
        child = self._children[part] = await Child.start(self._plan.commands[part])
        watching = self._spawn(self._watch(part))
        try:
            code = await child.exited()
        finally:
            watching.cancel()
            if part is Part.SIDECAR:
                self._sidecar_listens = False
        del self._children[part]
        if not self._supervision.ending:
            log.error(f"{_SHOWN[part]} has exited", exit_code=code, pid=child.pid)
        return code

    async def _stop(self, part: Part) -> None:
        child = self._children.get(part)
        if child is None:
            self._runs[part].cancel()
        else:
            await child.stop(GRACE + (self._plan.drain_timeout if part is Part.SIDECAR else 0.0))

    async def _watch(self, part: Part) -> None:
        """Wait until the process is ready, and take the next step of the start. Then check that it
        answers."""
        sidecar = part is Part.SIDECAR
        await self._until(self._sidecar_ready if sidecar else self._envoy_ready, _SHOWN[part])
        self._supervision.ready(part)
        self._sidecar_listens = self._sidecar_listens or sidecar
        use = self._route() if sidecar else self._announce()
        await asyncio.gather(use, self._ask_alive(part))

    async def _route(self) -> None:
        if not self._routed:
            await self._configure()
        await self._watch_routes()

    async def _announce(self) -> None:
        """Tell once that the gateway serves, and the states of its pickers' addresses."""
        if not self._announced:
            # Envoy may be ready before a relay worker has tried a picker.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TRIED_PATIENCE):
                    await self._until(self._pickers_tried, "the pickers")
        if not self._announced:
            self._announced = True
            self._plan.announce(self._served)

    async def _ask_alive(self, part: Part) -> None:
        """Check repeatedly that the process answers, until it hangs."""
        loop = asyncio.get_running_loop()
        answered, questions = loop.time(), 0
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            try:
                if part is Part.SIDECAR:
                    await admin.sidecar_alive(self._plan.sidecar_admin)
                else:
                    await admin.envoy_alive(self._plan.envoy_admin)
            except NoAnswer as error:
                questions += 1
                elapsed = loop.time() - answered
                if actions := self._supervision.unanswered(part, questions, elapsed):
                    log.error(
                        f"{_SHOWN[part]} hangs and is killed",
                        seconds=round(elapsed),
                        error=str(error),
                    )
                    self._carry_out(actions)
                    return
            else:
                answered, questions = loop.time(), 0

    async def _until(self, check: Callable[[], Coroutine[Any, Any, str]], what: str) -> None:
        """Poll until `check` names no reason to wait."""
        loop = asyncio.get_running_loop()
        told, due = "", loop.time() + PATIENCE
        while reason := await check():
            if reason != told and loop.time() > due:
                log.warning(f"waiting for {what}", reason=reason)
                told = reason
            await asyncio.sleep(POLL_INTERVAL)

    async def _sidecar_ready(self) -> str:
        try:
            return await admin.unready(self._plan.sidecar_admin)
        except NoAnswer as error:
            return str(error)

    async def _envoy_ready(self) -> str:
        try:
            ready = await admin.envoy_ready(self._plan.envoy_admin)
        except NoAnswer as error:
            return str(error)
        return "" if ready else "it is not ready"

    async def _has_pools(self) -> str:
        if problem := await self._ask_served():
            return problem
        return "" if self._served else "there is no InferencePool yet, so Envoy has no route"

    async def _pickers_tried(self) -> str:
        if problem := await self._ask_served():
            return problem
        untried = [_full_name(pool) for pool in self._served.pools if pool.untried]
        return f"not checked yet: {', '.join(untried)}" if untried else ""

    async def _ask_served(self) -> str:
        """Take what the sidecar serves now; returns why that is not known."""
        try:
            self._served = await admin.served(self._plan.sidecar_admin)
        except NoAnswer as error:
            return str(error)
        return ""

    async def _configure(self) -> None:
        await self._until(self._has_pools, "a pool")
        self._routed = self._served
        self._plan.bootstrap.write_text(self._plan.render(self._routed))
        self._carry_out(self._supervision.configured())

    async def _watch_routes(self) -> None:
        """Log the pools that were added or removed since Envoy's routes were made. Those of a Gateway
        follow it."""
        if self._routed.gateway is not None:
            return
        routed = {_full_name(pool) for pool in self._routed.pools}
        told: set[str] = set()
        while True:
            await asyncio.sleep(WATCH_INTERVAL)
            with contextlib.suppress(NoAnswer):
                now = {_full_name(pool) for pool in await admin.pools(self._plan.sidecar_admin)}
                if (differ := now ^ routed) != told and differ:
                    log.warning(
                        "routes are made at the start: restart `epp-client up` to change them",
                        without_route=sorted(now - routed),
                        without_pool=sorted(routed - now),
                    )
                told = differ

    async def _drain(self) -> None:
        """Wait until Envoy has no open request, for up to the drain timeout."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(NoAnswer):
            await admin.close_listeners(self._plan.envoy_admin)
        began = loop.time()

        async def undrained() -> str:
            return drain_waits_for(await self._clients(), loop.time() - began)

        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._plan.drain_timeout):
                await self._until(undrained, "clients")
        still_open = (await self._clients()).requests
        if still_open:
            log.warning("open requests are cut", requests=still_open)
        self._carry_out(self._supervision.drained(still_open))

    async def _clients(self) -> Clients:
        try:
            return await admin.clients(self._plan.envoy_admin)
        except NoAnswer:
            return Clients(0, 0)


def _full_name(pool: Pool) -> str:
    return f"{pool.namespace}/{pool.name}"


def run(plan: Plan) -> int:
    """Run a gateway until it has drained; returns its exit code.

    Raises:
        EppClientError: see `Gateway.run`.
    """

    async def running() -> int:
        return await Gateway(plan).run()

    return asyncio.run(running())
