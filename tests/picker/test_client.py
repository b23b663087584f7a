"""Which address a request asks, and what the checks of an address find: with a scripted transport."""

import asyncio
import contextlib
import gc
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import pytest

from epp_client.errors import PeerUnreachable, Reason
from epp_client.picker.address import RETIRE_GRACE
from epp_client.picker.client import PROCESS, PickerClient
from epp_client.picker.health import FAILURES, Health
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import PoolSettings
from epp_client.pool.snapshot import PickerTarget
from epp_client.tls_settings import ClientTls, TlsMode
from epp_client.wire.health import CHECK, EXT_PROC, OVERALL, READINESS, check_request
from epp_client.wire.status import (
    NOT_FOUND,
    OK,
    PERMISSION_DENIED,
    UNAVAILABLE,
    UNIMPLEMENTED,
    Status,
)
from epp_client.wire.transport import Accept, Connection, Server, Stream, StreamEvents

ONE, OTHER = "10.1.0.1:9002", "10.1.0.2:9002"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
SETTINGS = PoolSettings(
    connect_timeout=0.2, pick_timeout=0.3, tls=ClientTls(mode=TlsMode.PLAINTEXT)
)

Answer = bytes | Status | None


def patient(connect_timeout: float) -> PoolSettings:
    """The settings with another patience."""
    return SETTINGS.model_copy(update={"connect_timeout": connect_timeout})


class Peer:
    """One address. `answer` to health checks by service; None: says nothing."""

    def __init__(self, answer: Answer | Mapping[str, Answer] = SERVING) -> None:
        self.answer = answer
        self.up = True
        self.checks: list[bytes] = []
        self.connections: list[FakeConnection] = []

    def answer_to(self, message: bytes) -> Answer:
        self.checks.append(message)
        if not isinstance(self.answer, Mapping):
            return self.answer
        for service, answer in self.answer.items():
            if message == check_request(service):
                return answer
        return Status(NOT_FOUND, "unknown service")


class FakeStream(Stream):
    def __init__(self, peer: Peer, path: str, events: StreamEvents) -> None:
        self._peer, self._path, self._events = peer, path, events
        self._over = False

    def send(self, message: bytes) -> None:
        assert self._path == CHECK
        answer = self._peer.answer_to(message)
        if answer is not None:
            asyncio.get_running_loop().call_soon(self._tell, answer)

    def _tell(self, answer: bytes | Status) -> None:
        if self._over:
            return
        if isinstance(answer, bytes):
            self._events.message_received(answer)
        self._events.closed(answer if isinstance(answer, Status) else OK)

    def finish(self, status: Status = OK) -> None:
        pass

    def cancel(self) -> None:
        self._over = True

    def pause_reading(self) -> None:
        pass

    def resume_reading(self) -> None:
        pass


class FakeConnection:
    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self.usable = True
        self.closed_with: float | None = None

    def open(self, path: str, metadata: Mapping[str, str], events: StreamEvents) -> Stream:
        assert path in (CHECK, PROCESS)
        return FakeStream(self._peer, path, events)

    async def close(self, grace: float = 0.0) -> None:
        self.closed_with = grace
        self.usable = False


class FakeTransport:
    def __init__(self, **peers: Peer) -> None:
        self.peers = {ONE: peers.get("one", Peer()), OTHER: peers.get("other", Peer())}
        self.edition = 0
        self.refused = 0

    def tls_edition(self, tls: ClientTls) -> int:
        return self.edition

    async def connect(
        self, address: str, tls: ClientTls, server_name: str, timeout: float
    ) -> Connection:
        peer = self.peers[address]
        if not peer.up:
            self.refused += 1
            raise PeerUnreachable(f"{address} refused")
        connection = FakeConnection(peer)
        peer.connections.append(connection)
        return connection

    async def serve(self, socket_path: str, accept: Accept) -> Server:
        raise NotImplementedError


class Request:
    """One that waits for a pick."""

    def __init__(self) -> None:
        self.given_up = 0
        self.silences = 0

    def address_given_up(self) -> None:
        self.given_up += 1

    def address_silent(self) -> None:
        self.silences += 1


@asynccontextmanager
async def following(
    transport: FakeTransport, *addresses: str, connect_timeout: float = SETTINGS.connect_timeout
) -> AsyncIterator[PickerClient]:
    before = asyncio.all_tasks()
    client = PickerClient("default/llama", transport, dice=lambda: 0.5)
    client.retarget(PickerTarget(addresses), patient(connect_timeout))
    try:
        yield client
    finally:
        await client.close()
        await asyncio.sleep(0)
        assert asyncio.all_tasks() <= before, "something is left running"
        for peer in transport.peers.values():
            assert not any(connection.usable for connection in peer.connections)


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        (SERVING, Health.SERVING),
        (NOT_SERVING, Health.NOT_SERVING),
        (b"", Health.UNKNOWN),
        (b"\xff\xff\xff", Health.UNKNOWN),
        (SERVICE_UNKNOWN, Health.UNKNOWN),
        (Status(NOT_FOUND), Health.UNKNOWN),
        (Status(UNIMPLEMENTED), Health.UNKNOWN),
        (Status(PERMISSION_DENIED), Health.UNKNOWN),
        (OK, Health.UNKNOWN),
        (Status(UNAVAILABLE), Health.UNTRIED),
        (None, Health.UNKNOWN),
        ({EXT_PROC: SERVICE_UNKNOWN, READINESS: NOT_SERVING}, Health.NOT_SERVING),
        ({READINESS: SERVING}, Health.SERVING),
        ({OVERALL: NOT_SERVING}, Health.NOT_SERVING),
        ({OVERALL: SERVING, READINESS: NOT_SERVING}, Health.NOT_SERVING),
        ({EXT_PROC: Status(UNIMPLEMENTED), OVERALL: NOT_SERVING}, Health.UNKNOWN),
    ],
)
async def test_what_the_answer_to_a_check_means(answer: Answer, state: Health) -> None:
    transport = FakeTransport(one=Peer(answer))
    async with following(transport, ONE) as client:
        await until(lambda: bool(transport.peers[ONE].connections))
        if state in (Health.NOT_SERVING,):
            with pytest.raises(PeerUnreachable):
                await client.connect()
        else:
            await client.connect()
        assert client.states == {ONE: state}


async def test_the_service_that_it_knows_is_asked_from_then_on() -> None:
    peer = Peer({OVERALL: SERVING})
    async with following(FakeTransport(one=peer), ONE):
        await until(lambda: len(peer.checks) == 5)
    names = [check_request(name) for name in (EXT_PROC, READINESS, OVERALL)]
    assert peer.checks == [*names, names[-1], names[-1]]


async def test_replicas_take_turns_and_standbys_none() -> None:
    transport = FakeTransport()
    async with following(transport, ONE, OTHER) as client:
        await until(lambda: set(client.states.values()) == {Health.SERVING})
        picked = [address.address for _ in range(6) if (address := client.ready())]
        assert sorted(picked[:2]) == [ONE, OTHER]
        assert picked == picked[:2] * 3
        transport.peers[ONE].answer = NOT_SERVING
        await until(lambda: client.states[ONE] is Health.NOT_SERVING)
        assert {a.address for a in (client.ready() for _ in range(6)) if a} == {OTHER}


async def test_who_has_just_failed_a_request_is_its_last_choice() -> None:
    transport = FakeTransport()
    async with following(transport, ONE, OTHER) as client:
        await until(lambda: set(client.states.values()) == {Health.SERVING})
        first = client.ready()
        for _ in range(5):
            other = client.ready(exclude=first)
            assert other is not None
            assert other is not first
        assert other is not None
        transport.peers[other.address].up = False
        for connection in transport.peers[other.address].connections:
            connection.usable = False
        assert client.ready(exclude=first) is first


@pytest.mark.parametrize(
    ("one", "other", "reason"),
    [
        ("standby", "standby", Reason.PICKER_UNHEALTHY),
        ("standby", "down", Reason.PICKER_UNHEALTHY),
        ("down", "down", Reason.PICKER_UNREACHABLE),
    ],
)
async def test_with_nobody_to_ask_the_reason_is_there_at_once(
    one: str, other: str, reason: Reason
) -> None:
    transport = FakeTransport()
    for address, what in ((ONE, one), (OTHER, other)):
        transport.peers[address].up = what != "down"
        transport.peers[address].answer = NOT_SERVING
    async with following(transport, ONE, OTHER) as client:
        await until(lambda: client.out)
        assert client.ready() is None
        assert not client.hopeful
        assert client.reason is reason
        for peer in transport.peers.values():
            peer.up, peer.answer = True, SERVING
        await until(lambda: set(client.states.values()) == {Health.SERVING})
        assert client.ready() is not None


async def test_who_waits_for_a_silent_address_is_let_go_at_once() -> None:
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        address = client.ready()
        assert address is not None
        requests = [Request() for _ in range(200)]
        address.waiting.update(requests)
        transport.peers[ONE].answer = None
        await until(lambda: client.states[ONE] is Health.SILENT)
        await until(lambda: not address.waiting)
        assert {request.given_up for request in requests} == {1}
        assert client.ready() is None
        transport.peers[ONE].answer = SERVING
        await until(lambda: client.ready() is address)


async def test_who_follows_a_silent_address_is_told_for_as_long_as_it_is_silent() -> None:
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        address = client.ready()
        assert address is not None
        requests = [Request() for _ in range(200)]
        address.following.update(requests)
        gone = requests.pop()
        address.following.discard(gone)
        transport.peers[ONE].answer = None
        await until(lambda: all(request.silences > 1 for request in requests))
        assert {request.given_up for request in requests} == {0}
        assert gone.silences == 0
        transport.peers[ONE].answer = SERVING
        await until(lambda: client.states[ONE] is Health.SERVING)
        told = [request.silences for request in requests]
        checks = len(transport.peers[ONE].checks)
        await until(lambda: len(transport.peers[ONE].checks) > checks)
        assert [request.silences for request in requests] == told


async def test_an_address_that_still_says_something_is_not_silent() -> None:
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        address = client.ready()
        assert address is not None
        transport.peers[ONE].answer = None
        checks = len(transport.peers[ONE].checks)
        async with asyncio.timeout(60):
            while len(transport.peers[ONE].checks) < checks + 3:
                # messages of other requests
                address.heard = True
                await asyncio.sleep(0.01)
        assert client.states[ONE] is Health.SERVING


async def test_failed_picks_in_a_row_open_and_one_good_pick_closes() -> None:
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        address = client.ready()
        assert address is not None
        for _ in range(FAILURES - 1):
            address.pick_failed(Request(), address.picks)
        address.picked(Request())
        # slow, while others were served
        address.pick_failed(Request(), 0)
        for _ in range(FAILURES - 1):
            address.pick_failed(Request(), address.picks)
        assert client.ready() is address
        address.pick_failed(Request(), address.picks)
        assert client.states[ONE] is Health.FAILING
        assert (client.ready(), client.reason) == (None, Reason.PICKER_UNHEALTHY)
        await until(lambda: client.states[ONE] is Health.TRIAL)
        assert client.ready() is address
        assert client.ready() is None, "one at a time"
        address.undecided(Request())
        assert client.ready() is address
        address.picked(Request())
        assert client.states[ONE] is Health.SERVING


async def test_streams_on_an_address_that_is_gone_have_time_to_end() -> None:
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        client.retarget(PickerTarget((OTHER,)), SETTINGS)
        await until(lambda: client.states == {OTHER: Health.SERVING})
        [old] = transport.peers[ONE].connections
        assert old.closed_with == RETIRE_GRACE


async def test_changed_tls_files_make_a_new_connection_before_the_old_one_goes() -> None:
    transport = FakeTransport()
    peer = transport.peers[ONE]
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        transport.edition, peer.up = 1, False
        checks = len(peer.checks)
        await until(lambda: len(peer.checks) > checks)
        assert client.ready() is not None, "the old one stays as long as there is no new one"
        assert client.states[ONE] is Health.SERVING
        peer.up = True
        await until(lambda: len(peer.connections) == 2)
        await until(lambda: peer.connections[0].closed_with == RETIRE_GRACE)
        address = client.ready()
        assert address is not None
        assert address.connection is peer.connections[1]


async def test_a_thousand_requests_share_an_attempt() -> None:
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        found = await asyncio.gather(*(client.connect() for _ in range(1000)))
        assert len(set(found)) == len(transport.peers[ONE].connections) == 1


async def test_an_address_that_is_back_lets_go_of_nobody() -> None:
    """Who comes while the last ones of a long queue are let go of is not one of them."""
    transport = FakeTransport()
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        address = client.ready()
        assert address is not None
        address.waiting.update(Request() for _ in range(1000))
        for _ in range(FAILURES):
            address.pick_failed(Request(), address.picks)
        assert client.states[ONE] is Health.FAILING
        address.picked(Request())
        late = Request()
        address.waiting.add(late)
        for _ in range(100):
            await asyncio.sleep(0)
        assert (late.given_up, late in address.waiting) == (0, True)


async def test_a_new_address_may_refuse_until_it_listens() -> None:
    """As a rollout has it: the picker is ready by its health port before it takes connections."""
    transport = FakeTransport()
    transport.peers[ONE].up = False
    async with following(transport, ONE, connect_timeout=20.0) as client:
        waiting = [asyncio.create_task(client.connect()) for _ in range(10)]
        await until(lambda: transport.refused >= 3)
        assert client.hopeful
        assert client.states == {ONE: Health.UNTRIED}
        transport.peers[ONE].up = True
        assert {address.address for address in await asyncio.gather(*waiting)} == {ONE}


@pytest.mark.parametrize("mode", FailureMode)
async def test_a_new_address_has_longer_where_requests_are_refused_without_it(
    mode: FailureMode,
) -> None:
    transport = FakeTransport()
    transport.peers[ONE].up = False
    slow_picks = SETTINGS.model_copy(update={"connect_timeout": 0.05, "pick_timeout": 20.0})
    async with following(transport) as client:
        client.retarget(PickerTarget((ONE,)), slow_picks, mode)
        waiting = asyncio.create_task(client.connect())
        await until(lambda: transport.refused >= 5)
        if mode is FailureMode.FAIL_OPEN:
            with pytest.raises(PeerUnreachable):
                await waiting
        else:
            transport.peers[ONE].up = True
            assert (await waiting).address == ONE


async def test_one_that_only_refuses_is_unreachable_once_it_is_not_new() -> None:
    transport = FakeTransport()
    transport.peers[ONE].up = False
    async with following(transport, ONE) as client:
        with pytest.raises(PeerUnreachable, match="refused"):
            await client.connect()
        assert client.states == {ONE: Health.UNREACHABLE}
        assert not client.hopeful


async def test_who_waited_in_vain_is_not_kept_for_a_collector() -> None:
    """A request is, with its body, if errors and the frames in their tracebacks keep each other."""
    transport = FakeTransport()
    transport.peers[ONE].up = transport.peers[OTHER].up = False

    async def wait() -> weakref.ref[Request]:
        request = Request()
        with contextlib.suppress(PeerUnreachable):
            await client.connect()
        return weakref.ref(request)

    async with following(transport, ONE, OTHER) as client:
        # while the addresses are new
        await wait()
        gc.disable()
        try:
            waited = [await asyncio.create_task(wait()) for _ in range(3)]
            await asyncio.sleep(0)
            assert [request() for request in waited] == [None] * 3
        finally:
            gc.enable()


async def test_nobody_waits_for_an_address_while_another_can_be_reached() -> None:
    transport = FakeTransport()
    transport.peers[ONE].up = False
    async with following(transport, ONE, OTHER, connect_timeout=3600.0) as client:
        async with asyncio.timeout(60):
            found = await asyncio.gather(*(client.connect() for _ in range(10)))
        assert {address.address for address in found} == {OTHER}


async def test_an_old_address_is_asked_until_a_new_one_has_been_reached() -> None:
    transport = FakeTransport()
    transport.peers[OTHER].up = False
    async with following(transport, ONE, connect_timeout=20.0) as client:
        await until(lambda: client.ready() is not None)
        [old] = transport.peers[ONE].connections
        client.retarget(PickerTarget((OTHER,)), patient(20.0))
        assert client.states == {OTHER: Health.UNTRIED}
        await until(lambda: transport.refused >= 3)
        address = client.ready()
        assert address is not None
        assert address.connection is old
        transport.peers[OTHER].up = True
        await until(lambda: client.states == {OTHER: Health.SERVING})
        address = client.ready()
        assert address is not None
        assert address.address == OTHER
        await until(lambda: old.closed_with == RETIRE_GRACE)


async def test_an_old_address_is_not_asked_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("epp_client.picker.client.OVERLAP", 0.3)
    transport = FakeTransport()
    transport.peers[OTHER].up = False
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        client.retarget(PickerTarget((OTHER,)), SETTINGS)
        assert client.ready() is not None
        await until(lambda: client.ready() is None)
        [old] = transport.peers[ONE].connections
        await until(lambda: old.closed_with == RETIRE_GRACE)


@pytest.mark.parametrize("change", ["tls", "no address"])
async def test_an_old_address_is_not_asked_when_it_is_not_to_be_trusted(change: str) -> None:
    """Other TLS settings, or a Service that leads nowhere any more."""
    transport = FakeTransport()
    transport.peers[OTHER].up = False
    async with following(transport, ONE) as client:
        await until(lambda: client.ready() is not None)
        unverified = SETTINGS.model_copy(update={"tls": ClientTls()})
        if change == "tls":
            client.retarget(PickerTarget((OTHER,)), unverified)
        else:
            client.retarget(PickerTarget(), SETTINGS)
        assert client.ready() is None


async def test_who_waits_for_an_address_that_leaves_gets_one_of_the_new_ones() -> None:
    transport = FakeTransport()
    transport.peers[ONE].up = False
    async with following(transport, ONE, connect_timeout=20.0) as client:
        waiting = asyncio.create_task(client.connect())
        await until(lambda: transport.refused >= 1)
        client.retarget(PickerTarget((OTHER,)), patient(20.0))
        assert (await waiting).address == OTHER
