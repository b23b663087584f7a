"""The rivals of `make bench` really relay. `make rivals` builds them, where Go and Rust are."""

import os
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import grpc
import pytest

from benchmarks.rig import LoadFailed, running_rig
from benchmarks.rivals import build
from benchmarks.rivals.build import LANGUAGES
from benchmarks.rivals.running import RIVALS, command, start
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from testbed.build_cache import Unavailable
from testbed.process import Process

METHOD = "/envoy.service.ext_proc.v3.ExternalProcessor/Process"
ENDPOINT = "10.0.0.1:8000"

tier = pytest.mark.skipif(
    "EPP_CLIENT_TEST_RIVALS" not in os.environ, reason="`make rivals` builds them, for two minutes"
)


def conversation(size: int) -> list[ProcessingRequest]:
    """A request whose body has `size` bytes, in two messages, and its response in three."""
    headers, first, last = ProcessingRequest(), ProcessingRequest(), ProcessingRequest()
    headers.request_headers.headers.headers.add(key=":path", raw_value=b"/v1/completions")
    first.request_body.body = os.urandom(size)
    last.request_body.body = b"end"
    last.request_body.end_of_stream = True
    answer, chunk, end = ProcessingRequest(), ProcessingRequest(), ProcessingRequest()
    answer.response_headers.headers.headers.add(key=":status", raw_value=b"200")
    chunk.response_body.body = os.urandom(size)
    end.response_body.end_of_stream = True
    return [headers, first, last, answer, chunk, end]


async def talk(
    address: str, messages: Sequence[ProcessingRequest]
) -> tuple[list[ProcessingResponse], grpc.StatusCode]:
    """The answers to a stream of `messages`, and how it ended."""
    answers = []
    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
        # Else the path of the socket, which Rust's h2 refuses.
        ("grpc.default_authority", "localhost"),
    ]
    async with grpc.aio.insecure_channel(address, options=options) as channel:
        call = channel.stream_stream(
            METHOD,
            request_serializer=ProcessingRequest.SerializeToString,
            response_deserializer=ProcessingResponse.FromString,
        )(iter(messages), timeout=60)
        try:
            async for answer in call:
                answers.append(answer)
        except grpc.aio.AioRpcError:
            pass
        return answers, await call.code()


@pytest.fixture
async def picker() -> AsyncIterator[tuple[Process, str]]:
    process, told = await Process.python("benchmarks.peers.picker", ENDPOINT)
    yield process, told["address"]
    await process.stop(1)


@tier
@pytest.mark.parametrize("way", RIVALS)
async def test_messages_go_both_ways_whole_and_in_order(
    way: str, tmp_path: Path, picker: tuple[Process, str]
) -> None:
    process, address = picker
    async with AsyncExitStack() as owner:
        await start(owner, available(way, tmp_path / "socket", address), tmp_path / "socket")
        for size in (1, 640, 200_000, 3_000_000):
            messages = conversation(size)
            answers, code = await talk(address, messages)
            assert code is grpc.StatusCode.OK
            assert len(answers) == len(messages)
            assert await talk(f"unix:{tmp_path}/socket", messages) == (answers, code)
        # What the picker ends is ended.
        await process.stop(1)
        answers, code = await talk(f"unix:{tmp_path}/socket", conversation(640))
        assert answers == []
        assert code is not grpc.StatusCode.OK


def available(way: str, socket: Path, picker: str) -> list[str]:
    try:
        return command(way, socket, picker)
    except Unavailable as why:
        pytest.skip(f"{way}: {why}")


@tier
async def test_the_rig_has_a_way_over_each_rival_and_no_body_is_cut() -> None:
    async with running_rig() as rig:
        here = set(RIVALS) - set(rig.skipped)
        assert here <= set(rig.ways)
        for way in here:
            got = await rig.load(way, connections=4, seconds=0.2, size=220_000)
            assert got["cpu"][way] > 0
            streamed = "/default/relay/stream?chunks=20&interval_us=1000"
            assert (await rig.load(way, connections=4, seconds=0, path=streamed, chunks=20))[
                "units"
            ] > 0
            with pytest.raises(LoadFailed):
                await rig.load(way, connections=1, seconds=0.1, path="/nowhere")


@pytest.mark.parametrize("name", LANGUAGES)
def test_without_its_language_a_rival_is_skipped_with_a_word(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    program, language = LANGUAGES[name]
    with pytest.raises(Unavailable, match=rf"no {language} \({program}\) on PATH"):
        build.built(name)


@pytest.mark.parametrize("name", LANGUAGES)
def test_a_rival_that_cannot_be_built_says_what_its_compiler_said(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = tmp_path / LANGUAGES[name][0]
    program.write_text("#!/bin/sh\necho no registry >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(Unavailable, match="cannot be built: no registry"):
        build.built(name)
    assert not build.cached(name).exists()


def test_the_versions_of_rivals_are_pinned_exactly_and_without_a_lock_file() -> None:
    assert build.versions().keys() == {"grpc-go", "tonic"}
    folder = build.SOURCES / "tonic"
    lines = (
        (folder / "Cargo.toml").read_text().partition("[dependencies]\n")[2].partition("\n\n")[0]
    )
    assert all('"=' in line for line in lines.splitlines())
    assert not (folder / "Cargo.lock").exists()
