"""Every field of a picker's answer, through Envoy alone and through Envoy with us.

While the picker is healthy the two outcomes are the same, but where Envoy alone breaks HTTP or loses a
request or a response.
"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AsyncExitStack
from itertools import cycle, product
from typing import Any

import pytest
import pytest_asyncio

from epp_client.errors import LeftOut
from epp_client.ext_proc.fields import FIELDS
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.pool.settings import STEERING_HEADERS
from epp_client.relay.outcome import Eviction
from epp_client.settings import TransportName
from tests.e2e.answer_cases import PICK, RESPONSE, Case, at, cases, sets
from tests.e2e.answers import ALONE, OK_BODY, Edit, Http, Outcome, Rig, running_rig

pytestmark = pytest.mark.asyncio(loop_scope="session")

CASES = list(cases())
VARYING = frozenset(
    ("date", "server", "x-envoy-upstream-service-time", "x-forwarded-for", "x-request-id")
)


Rigs = Mapping[TransportName, Rig]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def rigs(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rigs]:
    """One over each transport."""
    async with AsyncExitStack() as owner:
        made = [
            running_rig(tmp_path_factory.mktemp("rig"), transport=transport)
            for transport in TransportName
        ]
        running = [await owner.enter_async_context(one) for one in made]
        yield dict(zip(TransportName, running, strict=True))


@pytest.fixture
def rig(rigs: Rigs, transport: TransportName) -> Rig:
    return rigs[transport]


def over_one_transport() -> Iterator[tuple[Case, TransportName]]:
    """Each case with one of the transports: they take turns within a field, and one that has a single case
    has it with both. No transport knows fields."""
    by_row: dict[str, list[Case]] = {}
    for case in CASES:
        by_row.setdefault(case.row, []).append(case)
    for row in by_row.values():
        yield from zip(row, cycle(TransportName)) if row[1:] else product(row, TransportName)


ONCE = list(over_one_transport())
# A case whose response is the usual one meets the other transport here.
OVER_H2C = [
    (case, other)
    for case, way in ONCE
    for other in TransportName
    if other is not way and "answer" not in case.asks
]


def ids(of: list[tuple[Case, TransportName]]) -> list[str]:
    return [f"{case.row}: {case.name}-{way}" for case, way in of]


def comparable(message: Http | str | None) -> Any:
    """What must be equal of two messages."""
    if not isinstance(message, Http):
        return message
    headers = sorted((k, v) for k, v in message.headers if k not in VARYING)
    return message.start, headers, message.body, message.trailers, message.framing


def check(case: Case, way: TransportName, outcome: Outcome, status: int) -> None:
    """Whether the outcome is what the case says."""
    assert (outcome.status, outcome.fault) == (status, ""), outcome
    if case.close is not None and status == case.close:
        assert outcome.header("x-inference-error") == "picker_protocol"
        assert outcome.request is None
        return
    request = outcome.request
    joined = case.joined is not None and way is TransportName.NATIVE
    assert outcome.body == (case.joined if joined else case.body)
    for name, text in case.headers.items():
        assert outcome.header(name) == text
    assert (request.body if request is not None else None) == case.payload
    if request is not None:
        method = "GET" if case.asks.get("body", b"") is None else "POST"
        assert request.start == (case.start or f"{method} /v1/echo?a=b HTTP/1.1")
        for name, text in case.upstream.items():
            assert request.get(name) == text


@pytest.mark.parametrize(("case", "way"), ONCE, ids=ids(ONCE))
async def test_what_becomes_of_a_field(rigs: Rigs, case: Case, way: TransportName) -> None:
    rig = rigs[way]
    opened = await rig.ask("open", case.edit, **case.asks)
    check(case, way, opened, case.status)
    closed = await rig.ask("close", case.edit, **case.asks)
    check(case, way, closed, case.close or case.status)
    if case.same:
        alone = await rig.ask(ALONE, case.edit, **case.asks)
        check(case, way, alone, case.status)
        for outcome in (opened, closed):
            assert comparable(outcome.response) == comparable(alone.response)
            assert comparable(outcome.request) == comparable(alone.request)


@pytest.mark.parametrize(("case", "way"), OVER_H2C, ids=ids(OVER_H2C))
async def test_an_h2c_model_server_sees_nothing_that_breaks_http2(
    rigs: Rigs, case: Case, way: TransportName
) -> None:
    """Its peer resets a stream that breaks RFC 9113, and the client would get a 503."""
    outcome = await rigs[way].ask("h2c", case.edit, **case.asks)
    assert outcome.status == case.status, outcome
    if case.payload is None:
        assert outcome.h2_request is None
    else:
        assert outcome.h2_request is not None
        assert outcome.h2_request.body == case.payload


async def test_every_field_has_a_case() -> None:
    shown = {case.row for case in CASES} | {
        # Shown by every case, or by the tests of trailers.
        "ProcessingResponse.request_trailers",
        "ProcessingResponse.response_trailers",
        "TrailersResponse.header_mutation",
    }
    assert {row.field for row in FIELDS} - shown == set()


@pytest.mark.parametrize("fails", [False, True], ids=["steered", "failed open"])
async def test_a_client_cannot_steer_inside_the_model_servers(rig: Rig, fails: bool) -> None:
    spoofed = [(name, "192.0.2.1:1") for name in STEERING_HEADERS]
    broken = at(PICK, lambda reply: reply.ClearField("response"))
    outcome = await rig.ask(
        "open", broken if fails else lambda _, __: None, headers=[*spoofed, ("x-kept", "yes")]
    )
    assert outcome.status == 200
    assert outcome.request is not None
    seen = {header.key for header in rig.picker.requests[0].request_headers.headers.headers}
    reached = {key.lower() for key, _ in outcome.request.headers}
    assert not seen & {*STEERING_HEADERS}
    assert not reached & {*STEERING_HEADERS}
    assert "x-kept" in seen
    assert "x-kept" in reached


async def test_what_the_picker_itself_says_to_the_model_servers_passes(rig: Rig) -> None:
    name = "x-prefiller-host-port"
    said = at(PICK, sets((name, b"10.0.0.1:8000")))
    outcome = await rig.ask("open", said, headers=[(name, "192.0.2.1:1")])
    assert outcome.request is not None
    assert outcome.request.get(name) == "10.0.0.1:8000"


async def test_what_is_left_out_is_counted_by_pool(rig: Rig) -> None:
    counters = await rig.counters("open")
    before = counters.left_out.get(LeftOut.CONNECTION_HEADER, 0)
    outcome = await rig.ask("open", at(PICK, sets(("connection", b"close"), ("upgrade", b"h2c"))))
    assert outcome.status == 200
    async with asyncio.timeout(60):
        while counters.left_out.get(LeftOut.CONNECTION_HEADER, 0) == before:
            await asyncio.sleep(0.01)
    assert counters.left_out[LeftOut.CONNECTION_HEADER] == before + 2


def says_again(rig: Rig, kind: str) -> Edit:
    """What llm-d's picker answers, and some of GAIE's: every header as it was."""

    def edit(said: str, reply: ProcessingResponse) -> None:
        if said == kind:
            last = [m for m in rig.picker.requests if m.WhichOneof("request") == kind][-1]
            for header in getattr(last, kind).headers.headers:
                made = getattr(reply, kind).response.header_mutation.set_headers.add()
                made.header.CopyFrom(header)

    return edit


@pytest.mark.parametrize("via", ["open", "close", "h2c"])
@pytest.mark.parametrize("count", [10, 42, 80])
async def test_every_request_header_said_again_is_followed(rig: Rig, via: str, count: int) -> None:
    many = [(f"x-h{n}", f"{n}") for n in range(count)]
    outcome = await rig.ask(via, says_again(rig, PICK), headers=[*many, ("te", "trailers")])
    assert outcome.status == 200
    if outcome.request is not None:
        assert [(k, v) for k, v in outcome.request.headers if k.startswith("x-h")] == many


def answer_of(count: int, size: int, *, chunked: bool) -> bytes:
    """A response with so many headers more, of so many bytes."""
    lines = [b"HTTP/1.1 200 OK", b"content-type: text/event-stream"]
    lines += [b"x-h%d: %s" % (n, b"v" * size) for n in range(count)]
    if chunked:
        lines.append(b"transfer-encoding: chunked")
        return b"\r\n".join((*lines, b"", b"c", OK_BODY, b"0", b"", b""))
    return b"\r\n".join((*lines, b"content-length: 12", b"", OK_BODY))


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize(("count", "size"), [(3, 5), (42, 5), (90, 5), (50, 1_100)])
async def test_every_response_header_said_again_keeps_the_picker_its_say(
    rig: Rig, count: int, size: int, chunked: bool
) -> None:
    answer = answer_of(count, size, chunked=chunked)
    before = dict((await rig.counters("close")).passthrough)
    outcome = await rig.ask("close", says_again(rig, RESPONSE), answer=answer)
    alone = await rig.ask(ALONE, says_again(rig, RESPONSE), answer=answer)
    assert comparable(outcome.response) == comparable(alone.response)
    assert outcome.status == 200
    assert rig.picker.seen[-1][-1] == "response_body"
    assert (await rig.counters("close")).passthrough == before


@pytest.mark.parametrize("via", ["open", "close"])
async def test_an_eviction_amid_a_response_cuts_it_off(rig: Rig, via: str) -> None:
    """The reset reaches the model server as well: its connection ends."""

    def evict(said: str, reply: ProcessingResponse) -> list[ProcessingResponse] | None:
        if said != "response_body":
            return None
        refusal = ProcessingResponse()
        refusal.immediate_response.status.code = 429
        return [refusal]

    endless = answer_of(1, 5, chunked=True).removesuffix(b"0\r\n\r\n")
    outcome = await rig.ask(via, evict, answer=endless)
    assert isinstance(outcome.status, str)
    assert "broken" in outcome.status
    async with asyncio.timeout(60):
        while not (await rig.counters(via)).evictions.get(Eviction.RESET):
            await asyncio.sleep(0.01)
