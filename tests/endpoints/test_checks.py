"""The checks themselves: what succeeds, what fails and why, and that they are bounded."""

import asyncio
import contextlib
import errno
from collections.abc import AsyncIterator

import pytest
from aiohttp import web
from structlog.testing import capture_logs

from epp_client.endpoints import checks
from epp_client.endpoints.checks import HealthChecks, HttpProbe, Probe, Target
from epp_client.endpoints.health import EndpointHealth, HealthCheck, State
from testbed.ports import free_ports

FAST = HealthCheck("tcp", interval=0.01, timeout=0.2)
PATIENT = FAST._replace(timeout=60.0)


async def answer(request: web.Request) -> web.StreamResponse:
    match request.path:
        case "/health":
            return web.Response()
        case "/moved":
            return web.Response(status=302, headers={"location": "/health"})
        case "/broken":
            return web.Response(status=503)
        case "/silent":
            await asyncio.sleep(60)
    # A body without an end.
    response = web.StreamResponse()
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        while True:
            await response.write(b"x" * 65536)
            await asyncio.sleep(0)
    return response


@pytest.fixture
async def server() -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_get("/{path}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


async def result_of(key: str, kind: str) -> EndpointHealth:
    found, target = HealthChecks(lambda: None), Target(FAST._replace(kind=kind), key)
    try:
        found.follow([target])
        await found.first_round(10)
        return found.of(target)
    finally:
        await found.close()


@pytest.mark.parametrize(
    ("path", "failure"),
    [
        ("/health", ""),
        ("/endless", ""),
        ("/moved", "/moved answered with status 302"),
        ("/broken", "/broken answered with status 503"),
        ("/silent", "no answer within 0.2 s"),
    ],
)
async def test_an_http_check(server: str, path: str, failure: str) -> None:
    health = await result_of(server, f"http:{path}")
    assert health.failure == failure
    assert health.ready == (not failure)


@pytest.mark.parametrize("check", ["tcp", "http:/health"])
async def test_a_refused_connection(check: str) -> None:
    [port] = free_ports(1)
    health = await result_of(f"127.0.0.1:{port}", check)
    assert (health.state, health.failure) == (State.UNTESTED, "connection refused")


async def test_a_peer_that_does_not_speak_http() -> None:
    async def speak(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"SSH-2.0-x\r\n")
        writer.close()

    other = await asyncio.start_server(speak, "127.0.0.1", 0)
    async with other:
        key = f"127.0.0.1:{other.sockets[0].getsockname()[1]}"
        assert (await result_of(key, "tcp")).ready
        with pytest.raises(OSError, match="invalid HTTP answer"):
            await HttpProbe("/health")(key)


async def test_checks_are_bounded_and_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "MAX_CONCURRENT", 3)
    running = most = 0

    async def probe(_: str) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await asyncio.sleep(0.001)
        finally:
            running -= 1

    before = asyncio.all_tasks()
    found = HealthChecks(lambda: None, lambda _: probe)
    targets = [Target(FAST, f"10.0.0.{number}:80") for number in range(20)]
    found.follow(targets)
    await found.first_round(10)
    assert most == 3
    assert all(found.of(target).ready for target in targets)
    found.follow(targets[:1])
    assert found.of(targets[1]) == EndpointHealth()
    await found.close()
    assert asyncio.all_tasks() == before


def scripted(*failures: str) -> tuple[Probe, asyncio.Event]:
    """A probe that fails with these texts, one a check; an empty one succeeds. The event: none is left."""
    results, done = [*failures], asyncio.Event()

    async def probe(_: str) -> None:
        if not results:
            done.set()
            await asyncio.sleep(60)
        if failure := results.pop(0):
            raise OSError(failure)

    return probe, done


async def test_a_change_of_readiness_is_logged_once() -> None:
    probe, done = scripted("refused", "refused", "", "", "slow", "slow", "slow", "slow")
    with capture_logs() as logs:
        found = HealthChecks(lambda: None, lambda _: probe)
        found.follow([Target(PATIENT, "10.0.0.1:80")])
        await asyncio.wait_for(done.wait(), 10)
        await found.close()
    assert [line["event"] for line in logs] == [
        "endpoint 10.0.0.1:80 is not ready: refused",
        "endpoint 10.0.0.1:80 is ready",
        "endpoint 10.0.0.1:80 is not ready: slow",
    ]


async def test_a_change_is_told_once() -> None:
    probe, done = scripted("", "", "refused", "refused", "refused", "refused", "", "")
    told: list[State] = []
    target = Target(PATIENT, "10.0.0.1:80")
    found = HealthChecks(lambda: told.append(found.of(target).state), lambda _: probe)
    found.follow([target])
    await asyncio.wait_for(done.wait(), 10)
    await found.close()
    # The third failure, then a success that is one too few, then the second one.
    assert told == [State.HEALTHY, State.UNHEALTHY, State.UNHEALTHY, State.HEALTHY]


async def test_an_endpoint_of_two_pools_has_a_result_for_each_way_to_check_it(server: str) -> None:
    targets = [Target(FAST._replace(kind=kind), server) for kind in ("tcp", "http:/broken")]
    found = HealthChecks(lambda: None)
    try:
        found.follow([*targets, targets[0]])
        await found.first_round(10)
        assert [found.of(target).ready for target in targets] == [True, False]
    finally:
        await found.close()


async def test_a_want_of_descriptors_is_not_held_against_an_endpoint() -> None:
    results: list[OSError | None] = [None, *(OSError(errno.EMFILE, "too many"),) * 5]
    done = asyncio.Event()

    async def probe(_: str) -> None:
        if not results:
            done.set()
            await asyncio.sleep(60)
        if (failure := results.pop(0)) is not None:
            raise failure

    target = Target(PATIENT, "10.0.0.1:80")
    found = HealthChecks(lambda: None, lambda _: probe)
    found.follow([target])
    await asyncio.wait_for(done.wait(), 10)
    assert found.of(target).ready
    await found.close()
