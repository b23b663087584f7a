"""A picker that takes nothing more: what was held back for it comes on, whole and in order."""

from pathlib import Path

import pytest

from epp_client.ext_proc.messages import Answer, read_reply
from epp_client.settings import TransportName
from epp_client.wire.transport import Stream

from ..relay.conversation import (
    A,
    answered,
    body,
    picked,
    request_headers,
    response_headers,
)
from ..wire.owners import Owner
from ..wire.test_native import until
from .test_forwarding import relayed

CHUNK = bytes(64 * 1024)
CHUNKS = 40


async def ended(envoy: Owner) -> None:
    """Until Envoy was told the end of a direction."""
    await until(
        envoy, lambda: bool(envoy.messages) and read_reply(envoy.messages[-1]).end_of_stream
    )


def parts(envoy: Owner, answer: Answer) -> list[bytes]:
    """The pieces of body that Envoy was told."""
    replies = [read_reply(message) for message in envoy.messages]
    return [r.raw[r.start : r.end] for r in replies if r.answer is answer]


async def asked(envoy: Owner, picker: Owner, headers: bytes) -> tuple[Stream, Stream]:
    """Once the picker has the request's headers: Envoy's stream, and the picker's."""
    assert envoy.stream is not None
    envoy.stream.send(headers)
    await until(picker, lambda: len(picker.messages) == 1)
    assert picker.stream is not None
    return envoy.stream, picker.stream


@pytest.mark.parametrize("transport", list(TransportName))
async def test_a_request_that_was_held_back_follows_its_header_answer(
    transport: TransportName, tmp_path: Path
) -> None:
    async with relayed(transport, tmp_path, pick_timeout=0.5) as (envoy, picker):
        envoys, pickers = await asked(envoy, picker, request_headers())
        pickers.pause_reading()
        for _ in range(CHUNKS):
            envoys.send(body(CHUNK))
        envoys.send(body(b"", end=True))
        await ended(envoy)
        assert read_reply(envoy.messages[0]).answer is Answer.REQUEST_HEADERS
        assert len(b"".join(parts(envoy, Answer.REQUEST_BODY))) == CHUNKS * len(CHUNK)


@pytest.mark.parametrize("transport", list(TransportName))
async def test_a_response_is_not_held_up(transport: TransportName, tmp_path: Path) -> None:
    async with relayed(transport, tmp_path, response_timeout=0.5) as (envoy, picker):
        envoys, pickers = await asked(envoy, picker, request_headers(end=True))
        pickers.send(picked(A))
        await until(envoy, lambda: len(envoy.messages) == 1)
        pickers.send(answered("response_headers"))
        pickers.pause_reading()
        envoys.send(response_headers())
        for _ in range(CHUNKS):
            envoys.send(body(CHUNK, response=True))
        envoys.send(body(b"", end=True, response=True))
        await ended(envoy)
        assert len(b"".join(parts(envoy, Answer.RESPONSE_BODY))) == CHUNKS * len(CHUNK)


@pytest.mark.parametrize("transport", list(TransportName))
async def test_a_request_that_is_under_way_is_not_held_up(
    transport: TransportName, tmp_path: Path
) -> None:
    async with relayed(transport, tmp_path, pick_timeout=0.5) as (envoy, picker):
        envoys, pickers = await asked(envoy, picker, request_headers())
        pickers.send(picked(A))
        await until(envoy, lambda: len(envoy.messages) == 1)
        pickers.pause_reading()
        for _ in range(CHUNKS):
            envoys.send(body(CHUNK))
        await until(
            envoy, lambda: len(b"".join(parts(envoy, Answer.REQUEST_BODY))) == CHUNKS * len(CHUNK)
        )
