"""Asks a picker once, without Envoy, and reports everything it answers, for `epp-client pick`.

It judges the pick as for a real request, and routes nothing.
"""

import asyncio
import time
from dataclasses import dataclass, field

from epp_client.errors import PeerUnreachable, PickerViolation, Reason
from epp_client.ext_proc.messages import Answer, read_reply
from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMutation, ProcessingRequest
from epp_client.picker.client import PROCESS
from epp_client.picker.pick import judge, read_pick
from epp_client.picker.protocol import parse_reply
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.wire.status import Status
from epp_client.wire.transport import Connection, StreamEvents, Transport


@dataclass
class PickReport:
    """The result of one request to a picker. Times are in seconds."""

    connect_seconds: float = 0.0
    pick_seconds: float = 0.0
    endpoints: tuple[str, ...] = ()
    """Picked members of the pool, in the picker's order."""
    said: str = ""
    """The pick as the picker wrote it."""
    problem: Reason | None = None
    detail: str = ""
    set_headers: list[tuple[str, str]] = field(default_factory=list)
    remove_headers: list[str] = field(default_factory=list)
    refused: int | None = None
    """HTTP status of the picker's refusal."""
    body: bytes = b""
    """The refusal's body, or the request body as the picker returned it."""


class _Replies(StreamEvents):
    """`StreamEvents` that collect the picker's messages and the final status."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes | Status] = asyncio.Queue()

    def message_received(self, message: bytes) -> None:
        self.messages.put_nowait(message)

    def closed(self, status: Status) -> None:
        self.messages.put_nowait(status)

    def half_closed(self) -> None:
        """Only called for servers."""

    def pause_writing(self) -> None:
        """One request fits into any buffer."""

    def resume_writing(self) -> None:
        """See `pause_writing`."""


def _request(headers: list[tuple[str, str]], body: bytes) -> list[bytes]:
    first = ProcessingRequest()
    first.request_headers.end_of_stream = not body
    for key, value in headers:
        first.request_headers.headers.headers.add(key=key.lower(), raw_value=value.encode())
    if not body:
        return [first.SerializeToString()]
    rest = ProcessingRequest()
    rest.request_body.body, rest.request_body.end_of_stream = body, True
    return [first.SerializeToString(), rest.SerializeToString()]


async def ask_picker(
    snapshot: PoolSnapshot, transport: Transport, headers: list[tuple[str, str]], body: bytes
) -> PickReport:
    """Ask the pool's picker about one request."""
    report = PickReport()
    if snapshot.picker is None or not snapshot.picker.addresses:
        report.problem = Reason.PICKER_UNRESOLVED
        report.detail = (snapshot.picker and snapshot.picker.problem) or "no endpointPickerRef"
        return report
    began = time.perf_counter()
    try:
        connection = await _connect(snapshot, transport)
    except PeerUnreachable as error:
        report.problem, report.detail = Reason.PICKER_UNREACHABLE, str(error)
        return report
    report.connect_seconds = time.perf_counter() - began
    try:
        await _ask(snapshot, connection, _request(headers, body), report)
    finally:
        await connection.close()
    return report


async def _connect(snapshot: PoolSnapshot, transport: Transport) -> Connection:
    """Connect to the first reachable address, which may be a standby's."""
    assert snapshot.picker is not None
    settings = snapshot.pool.settings
    error = PeerUnreachable("the picker has no address")
    for address in snapshot.picker.addresses:
        try:
            return await transport.connect(
                address, settings.tls, snapshot.picker.server_name, settings.connect_timeout
            )
        except PeerUnreachable as failed:
            error = failed
    raise error


async def _ask(
    snapshot: PoolSnapshot, connection: Connection, request: list[bytes], report: PickReport
) -> None:
    replies = _Replies()
    began = time.perf_counter()
    stream = connection.open(PROCESS, {}, replies)
    try:
        for message in request:
            stream.send(message)
        async with asyncio.timeout(snapshot.pool.settings.pick_timeout):
            while not _take(await replies.messages.get(), snapshot, report, len(request) > 1):
                pass
    except TimeoutError:
        report.problem = Reason.PICKER_TIMEOUT
    except PickerViolation as error:
        report.problem, report.detail = Reason.PICKER_PROTOCOL, str(error)
    finally:
        report.pick_seconds = time.perf_counter() - began
        stream.cancel()


def _take(item: bytes | Status, snapshot: PoolSnapshot, report: PickReport, has_body: bool) -> bool:
    """Note one message in the report. True when nothing more is expected."""
    if isinstance(item, Status):
        if not report.said:
            report.problem = Reason.PICKER_ERROR if item.code else Reason.PICKER_CLOSED
            report.detail = f"gRPC status {item.code}: {item.message}"
        return True
    located = read_reply(item)
    reply = parse_reply(item)
    if located.answer is Answer.IMMEDIATE:
        immediate = reply.immediate_response
        report.refused, report.body = immediate.status.code, immediate.body
        _note(immediate.headers, report)
        return True
    if located.answer in (Answer.REQUEST_HEADERS, Answer.REQUEST_BODY):
        pick = read_pick(reply)
        if pick is not None:
            verdict = judge(pick, snapshot, None)
            report.said, report.problem, report.endpoints = pick.text, verdict.problem, verdict.keys
    if located.answer is Answer.REQUEST_HEADERS:
        _note(reply.request_headers.response.header_mutation, report)
    elif located.answer is Answer.REQUEST_BODY:
        report.body += located.raw[located.start : located.end]
    return bool(report.said) and (not has_body or located.answer is Answer.REQUEST_HEADERS)


def _note(mutation: HeaderMutation, report: PickReport) -> None:
    for option in mutation.set_headers:
        value = option.header.raw_value or option.header.value.encode()
        report.set_headers.append((option.header.key, value.decode(errors="replace")))
    report.remove_headers += mutation.remove_headers
