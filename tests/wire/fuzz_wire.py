"""Fuzzing of frames, HPACK and gRPC's layer: `python -m tests.wire.fuzz_wire SECONDS [SEED]`.

Starts from recorded conversations in `corpus/` (hex, one read per line; `server/` is what a server gets,
`client/` what a client gets) and from sentences of frames in any order. Whatever comes:

- nothing is raised out of `receive`, and frames that leave are whole and within the peer's limit;
- what leaves, and what is held, is bounded by what came; nothing is held for a connection that is gone;
- a connection that is closed has said why in its last frame, and one that is open has not said goodbye;
- the same bytes in other pieces give the same events and the same answer.
"""

import random
import sys
import time
from functools import cache
from pathlib import Path

import hpack

from epp_client.wire.http2 import frames
from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.frames import ConnectionFault, ErrorCode
from epp_client.wire.http2.grpc import GrpcFault, MessageReader, decode_message, parse_timeout
from epp_client.wire.http2.headers import HeaderReader, Malformed
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection

from .owners import PATH, Accepting, Owner, raise_it
from .raw import HEADERS, Frame, block, split

CORPUS = Path(__file__).parent / "corpus"
CALLS = 5
"""Calls that the client has open."""
GROWTH, START = 16, 8192
"""What leaves is at most so many times what came, and this: an answer to the shortest request is long."""


@cache
def seeds(end: str) -> list[bytes]:
    """The conversations in the corpus."""
    return [
        bytes.fromhex("".join(path.read_text().split()))
        for path in sorted((CORPUS / end).glob("*.hex"))
    ]


BLOCKS = [
    block(),
    block([*HEADERS, ("grpc-timeout", "1S"), ("x-a", "b" * 300)]),
    block([(":status", "200"), ("content-type", "application/grpc")]),
    block([("grpc-status", "0")]),
    block([(":status", "503")]),
    block([(":status", "103")]),
    b"\x20" + hpack.Encoder().encode(HEADERS),
    b"\x3f\xe1\x1f" + block(),
    b"",
]
PAYLOADS = [
    b"\0\0\0\0\0",
    b"\0\0\0\0\3abc",
    b"\0\0\0\0\7abc",
    b"\1\0\0\0\1x",
    b"\0\x7f\xff\xff\xffx",
    b"\0" * 23,
    bytes(3),
    b"",
]


def sentence(dice: random.Random) -> bytes:
    """Frames that look like a peer's, in any order; some of them broken."""
    words = []
    for _ in range(dice.randint(1, 40)):
        kind = dice.choice((0, 0, 0, 1, 1, 1, 1, 2, 3, 4, 5, 6, 7, 8, 8, 9, 9, 0x55))
        flags = dice.choice((0, 1, 4, 5, 5, 4, 0x0C, 0x0D, 0x24, 0x25, dice.randrange(256)))
        stream_id = dice.choice((1, 1, 3, 5, 7, 9, 11, 0, 2, dice.randrange(1 << 31)))
        match kind:
            case frames.DATA:
                payload = dice.choice(PAYLOADS) * dice.choice((1, 1, 2, 600))
            case frames.HEADERS | frames.CONTINUATION:
                payload = dice.choice(BLOCKS)
                payload = payload[dice.randint(0, len(payload)) :] if flags & 1 == 0 else payload
            case frames.SETTINGS:
                stream_id, flags = dice.choice(((0, 0), (0, 0), (0, 1), (1, 0)))
                pair = {dice.randint(1, 7): dice.choice((0, 1, 100, 16_384, 65_535, 1 << 31))}
                payload = b"" if flags else frames.settings(pair)[9:]
            case frames.WINDOW_UPDATE:
                stream_id = dice.choice((0, stream_id))
                payload = dice.choice((0, 1, 1000, 1 << 30, (1 << 31) - 1)).to_bytes(4)
            case frames.PING:
                stream_id, payload = 0, dice.choice((bytes(8), b"draining"))
            case frames.GOAWAY:
                stream_id, payload = 0, dice.choice((bytes(8), b"\x7f\xff\xff\xff\0\0\0\0", b"x"))
            case _:
                payload = dice.randbytes(dice.choice((4, 5, 5, 8, dice.randrange(30))))
        if flags & frames.PADDED and kind in (0, 1):
            payload = b"\2" + payload + bytes(2)
        words.append(frames.frame(kind, flags, stream_id, payload))
    return b"".join(words)


def mutate(data: bytes, dice: random.Random) -> bytes:
    """Change a few bytes, or cut, repeat or swap pieces."""
    changed = bytearray(data)
    for _ in range(dice.randint(0, 6)):
        if len(changed) < 40:
            break
        start = dice.randrange(24, len(changed))
        stop = min(len(changed), start + dice.randint(1, 40))
        match dice.randrange(4):
            case 0:
                changed[start] = dice.randrange(256)
            case 1:
                del changed[start:stop]
            case 2:
                changed[start:start] = changed[start:stop]
            case _:
                changed[start] ^= 1 << dice.randrange(8)
    return bytes(changed)


class Subject:
    """One end of a connection, and everything that its owners are told."""

    def __init__(self, end: str) -> None:
        self.accepting = Accepting(echo=True)
        self.calls: list[Owner] = []
        self.end: ServerConnection | ClientConnection
        if end == "server":
            self.end = ServerConnection(self.accepting, lambda: 0.0, Shell(), raise_it)
        else:
            self.end = client = ClientConnection("http", "a:1", lambda: 0.0, Shell(), raise_it)
            client.receive(frames.settings({}))
            for _ in range(CALLS):
                call = Owner()
                call.stream = client.open(PATH, {}, call)
                call.stream.send(b"question")
                self.calls.append(call)
        self.output = self.end.take().removeprefix(frames.PREFACE)
        self.began = len(self.output)
        self.came = 0

    def receive(self, data: bytes) -> None:
        self.end.receive(data)
        self.end.pump()
        self.output += self.end.take()
        self.came += len(data)
        end = self.end
        streams = end.streams.values()
        held = sum(sum(map(len, s._held)) + 64 * len(s._held) for s in streams if s._held)
        assert end.held == held
        assert end.assembled == sum(s.reader.size for s in streams if s.reader is not None)
        waiting = sum(s.queued for s in streams)
        assert waiting + end.assembled <= 2 * self.came + 100 * CALLS
        assert len(end._partial) <= frames.DEFAULT_FRAME + 9
        assert len(streams) <= self.came // 9 + CALLS

    def heard(self) -> list[tuple[object, ...]]:
        return [
            (tuple(owner.messages), owner.half, owner.status)
            for owner in (*self.accepting.owners, *self.calls)
        ]

    def judge(self) -> None:
        said = split(self.output)
        assert len(self.output) - self.began <= GROWTH * self.came + START
        limit = max(self.end.max_frame, frames.DEFAULT_FRAME)
        assert all(len(frame.payload) <= limit for frame in said)
        byes = [frame for frame in said if frame.kind == frames.GOAWAY]
        faults = [f for f in byes if frames.word(f.payload, 4) != ErrorCode.NO_ERROR]
        if faults:
            assert self.end.closed
            assert said[-1] is faults[-1]
        elif self.end.closed:
            # the peer took its leave, and all calls have ended
            assert self.end.draining
        if self.end.closed:
            assert not self.end.streams
        self.end.lost("the end")
        assert (self.end.held, self.end.assembled) == (0, 0)


def check(end: str, data: bytes, dice: random.Random) -> None:
    """Feed `data` whole, and in random pieces."""
    whole, pieces = Subject(end), Subject(end)
    whole.receive(data)
    most = dice.choice((3, 30, 300, len(data)))
    while data:
        cut = dice.randint(1, max(1, min(most, len(data))))
        pieces.receive(data[:cut])
        data = data[cut:]
    assert whole.heard() == pieces.heard()
    assert _joined(whole.output) == _joined(pieces.output)
    whole.judge()
    pieces.judge()


def _joined(output: bytes) -> list[Frame]:
    """The frames. DATA frames of one stream that follow each other are one: messages that are sent in one
    turn share a frame."""
    found: list[Frame] = []
    for frame in split(output):
        last = found[-1] if found else None
        if (
            last is not None
            and last.kind == frame.kind == frames.DATA
            and last.stream_id == frame.stream_id
        ):
            frame = frame._replace(
                flags=last.flags | frame.flags, payload=last.payload + frame.payload
            )
            found.pop()
        found.append(frame)
    return found


def check_blocks(dice: random.Random) -> None:
    """Header blocks: a reader raises nothing but faults of its own, and remembers nothing wrong."""
    reader, oracle = HeaderReader(), hpack.Decoder(64 * 1024)
    oracle.max_allowed_table_size = 4096
    reader.table_forbidden()
    for _ in range(6):
        piece = bytearray(dice.choice(BLOCKS[:-1]))
        for _ in range(dice.choice((0, 0, 1, 3))):
            piece[dice.randrange(len(piece))] = dice.randrange(256)
        data = bytes(piece)
        try:
            expected = [(bytes(n), bytes(v)) for n, v in oracle.decode(data, raw=True)]
        except (hpack.HPACKError, IndexError):
            return
        try:
            match dice.randrange(3):
                case 0:
                    assert reader.fields(data) == expected
                case 1:
                    reader.request(data)
                case _:
                    reader.response(data)
        except Malformed:
            continue
        finally:
            # so does a reader whose peer has complied
            if oracle.header_table_size == 0:
                oracle.max_allowed_table_size = 0


def check_messages(dice: random.Random) -> None:
    """gRPC's framing in any pieces; timeouts and messages of any text."""
    data = b"".join(dice.choice(PAYLOADS) for _ in range(dice.randint(1, 9)))

    def read(cuts: list[int]) -> tuple[list[bytes], object]:
        reader, got = MessageReader(), []
        try:
            for start, stop in zip([0, *cuts], [*cuts, len(data)], strict=True):
                got += reader.feed(data, start, stop)
        except GrpcFault as fault:
            return got, fault.status
        return got, reader.idle

    cuts = sorted(dice.randint(0, len(data)) for _ in range(dice.randint(0, 9)))
    pieces, end = read(cuts)
    each, same = read(list(range(1, len(data))))
    assert end == same
    # A fault swallows what came in the same piece before it: the call ends anyway.
    assert each[: len(pieces)] == pieces
    assert isinstance(end, tuple) or each == pieces
    text = "".join(chr(dice.randrange(0x250)) for _ in range(dice.randint(0, 12)))
    decode_message(text.encode("latin-1", "ignore").decode("latin-1"))
    parse_timeout(text)


def once(dice: random.Random) -> None:
    """One conversation of each kind."""
    for end in ("server", "client"):
        if dice.random() < 0.5:
            check(end, mutate(dice.choice(seeds(end)), dice), dice)
        else:
            hello = frames.PREFACE + frames.settings({}) if end == "server" else b""
            check(end, hello + sentence(dice), dice)
    try:
        check_blocks(dice)
    except ConnectionFault as fault:
        raise AssertionError(f"hpack reads what we refuse: {fault}") from fault
    check_messages(dice)


def fuzz(seconds: float, seed: int) -> int:
    """Fuzz for so long; the number of rounds. Each has its own seed, which a failure shows."""
    tried = 0
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        number = seed + tried
        try:
            once(random.Random(number))
        except BaseException as error:
            error.add_note(f"seed {number}: python -m tests.wire.fuzz_wire 0.001 {number}")
            raise
        tried += 1
    return tried


if __name__ == "__main__":
    print(
        fuzz(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else time.time_ns() >> 20),
        "rounds of one server, one client, header blocks and messages",
    )
