"""Two ends of ours, calls, pauses, resets and goodbyes in any order: nothing is lost or stays counted.

What the fuzz target does not reach: its owners never pause, and its peers are not ours.
"""

import random
from collections.abc import Callable
from typing import Any

import pytest

from epp_client.wire.http2.connection import Http2Connection
from epp_client.wire.http2.inbox import CONNECTION_WINDOW, STREAM_WINDOW
from epp_client.wire.status import OK
from epp_client.wire.transport import Stream

from .owners import Joined, Owner

SIZES = (0, 1, 300, 5_000, 40_000, 300_000)


class Call:
    """One call, what was said on it, and what may still be said."""

    def __init__(self, both: Joined, number: int) -> None:
        self.client = both.open()
        self.number = number
        self.asked: list[bytes] = []
        self.answered: list[bytes] = []
        self.asking = self.answering = True
        self.cut = False

    def server(self, both: Joined) -> Owner | None:
        """The server's end, once it has heard of the call."""
        found = both.owners
        return found[self.number] if self.number < len(found) else None


class Talk:
    """Random events on one connection; bytes move in pieces, as the dice have it."""

    def __init__(self, seed: int) -> None:
        self.dice = random.Random(seed)
        self.both = Joined()
        self.calls: list[Call] = []
        self.wires = {"to server": b"", "to client": b""}
        self.goodbye = False

    def message(self) -> bytes:
        return self.dice.randbytes(1) * self.dice.choice(SIZES)

    def open(self) -> None:
        if self.both.client.usable and len(self.calls) < 5:
            self.calls.append(Call(self.both, len(self.calls)))

    def ask(self, call: Call) -> None:
        if call.asking:
            call.asked.append(self.message())
            stream_of(call.client).send(call.asked[-1])

    def asked(self, call: Call) -> None:
        if call.asking:
            call.asking = False
            stream_of(call.client).finish()

    def answer(self, call: Call) -> None:
        owner = call.server(self.both)
        if owner is not None and call.answering:
            call.answered.append(self.message())
            stream_of(owner).send(call.answered[-1])

    def end(self, call: Call) -> None:
        owner = call.server(self.both)
        if owner is not None and call.answering:
            call.answering = call.asking = False
            stream_of(owner).finish(OK)

    def cut(self, call: Call) -> None:
        owner = self.dice.choice((call.client, call.server(self.both)))
        if owner is not None and self.dice.random() < 0.3:
            call.cut, call.asking, call.answering = True, False, False
            stream_of(owner).cancel()

    def pause(self, call: Call) -> None:
        for owner in (call.client, call.server(self.both)):
            if owner is not None and self.dice.random() < 0.5:
                stream_of(owner).pause_reading()

    def resume(self, call: Call) -> None:
        for owner in (call.client, call.server(self.both)):
            if owner is not None:
                stream_of(owner).resume_reading()

    def leave(self, call: Call) -> None:
        """One of the ends takes no more calls."""
        if self.dice.random() < 0.05:
            self.goodbye = True
            self.dice.choice((self.both.client, self.both.server)).drain()

    def move(self) -> None:
        """A piece of what is on its way, either way; the sockets fill up and empty as they please."""
        client, server = self.both.client, self.both.server
        for name, source, target in (
            ("to server", client, server),
            ("to client", server, client),
        ):
            source.flowing = self.dice.random() < 0.8
            source.pump()
            wire = self.wires[name] + source.take()
            size = self.dice.choice((0, 1, 100, 20_000, 1 << 20))
            target.receive(wire[:size])
            self.wires[name] = wire[size:]

    def step(self) -> None:
        events: list[Callable[[Call], None]] = [
            self.ask, self.ask, self.asked, self.answer, self.answer, self.answer, self.end,
            self.cut, self.pause, self.pause, self.resume, self.leave,
        ]  # fmt: skip
        if not self.calls or self.dice.random() < 0.1:
            self.open()
        elif self.dice.random() < 0.5:
            self.move()
        else:
            self.dice.choice(events)(self.dice.choice(self.calls))

    def finish(self) -> None:
        """Everybody says what is left to say and reads to the end."""
        client, server = self.both.client, self.both.server
        for goodbye in (self.asked, self.end):
            client.flowing = server.flowing = True
            server.receive(self.wires["to server"])
            client.receive(self.wires["to client"])
            self.wires = {"to server": b"", "to client": b""}
            for call in self.calls:
                self.resume(call)
            self.both.run()
            for call in self.calls:
                self.resume(call)
                goodbye(call)
            self.both.run()


def stream_of(owner: Owner) -> Stream:
    assert owner.stream is not None
    return owner.stream


def windows(sender: Http2Connection[Any], reader: Http2Connection[Any]) -> None:
    """What was sent has been given back, or waits to be."""
    assert sender.send_window + reader.unacked == CONNECTION_WINDOW
    for number, stream in sender.streams.items():
        if number in reader.streams:
            assert stream.send_window + reader.streams[number]._unacked == STREAM_WINDOW


@pytest.mark.parametrize("seed", range(60))
def test_any_order_loses_nothing_and_leaves_nothing(seed: int) -> None:
    talk = Talk(seed)
    for _ in range(talk.dice.randint(20, 400)):
        talk.step()
        for end in (talk.both.client, talk.both.server):
            assert talk.goodbye or not end.closed
            assert end.held >= 0
            assert end.assembled >= 0
    talk.finish()
    client, server = talk.both.client, talk.both.server
    for call in talk.calls:
        owner = call.server(talk.both)
        if call.cut:
            assert call.client.messages == call.answered[: len(call.client.messages)]
        else:
            assert call.client.messages == call.answered
            assert call.client.status == OK
        if owner is not None:
            assert owner.messages == call.asked[: len(owner.messages)]
    for end in (client, server):
        assert talk.goodbye or not end.closed
        assert (end.held, end.assembled, end.tally.assembled, end.streams) == (0, 0, 0, {})
        assert not end.blocked
    assert client.closed == talk.goodbye
    if not talk.goodbye:
        windows(client, server)
        windows(server, client)
