"""Owners of streams that write down what they are told, and two ends joined without a socket."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from epp_client.wire.http2.client import ClientConnection
from epp_client.wire.http2.outbox import Shell
from epp_client.wire.http2.server import ServerConnection
from epp_client.wire.status import OK, Status
from epp_client.wire.transport import Stream, StreamEvents

PATH = "/test.Echo/Talk"


def raise_it(error: Exception) -> None:
    raise error


@dataclass
class Owner(StreamEvents):
    """Writes down everything; told to echo, it sends back what it gets and ends when the peer does."""

    echo: bool = False
    stream: Stream | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    messages: list[bytes] = field(default_factory=list)
    half: bool = False
    status: Status | None = None
    pauses: int = 0
    resumes: int = 0
    on_change: Callable[[], None] = lambda: None

    def message_received(self, message: bytes) -> None:
        assert not self.half
        assert self.status is None
        self.messages.append(message)
        if self.echo and self.stream is not None:
            self.stream.send(message)
        self.on_change()

    def half_closed(self) -> None:
        assert not self.half
        self.half = True
        if self.echo and self.stream is not None:
            self.stream.finish(OK)
        self.on_change()

    def closed(self, status: Status) -> None:
        assert self.status is None
        self.status = status
        self.on_change()

    def pause_writing(self) -> None:
        self.pauses += 1

    def resume_writing(self) -> None:
        self.resumes += 1
        self.on_change()


class Accepting:
    """An `Accept` that keeps every owner it makes."""

    def __init__(self, echo: bool = False) -> None:
        self.owners: list[Owner] = []
        self._echo = echo

    def __call__(self, stream: Stream, path: str, metadata: Mapping[str, str]) -> StreamEvents:
        owner = Owner(self._echo, stream, dict(metadata) | {"path": path})
        self.owners.append(owner)
        return owner


class Joined:
    """A client and a server connection; `run` moves bytes, in pieces of `piece`, until both are still."""

    def __init__(self, echo: bool = False, piece: int = 1 << 20) -> None:
        self.accepting = Accepting(echo)
        self.piece = piece
        self.server = ServerConnection(self.accepting, lambda: 0.0, Shell(), raise_it)
        self.client = ClientConnection("http", "a:1", lambda: 0.0, Shell(), raise_it)
        self.run()

    @property
    def owners(self) -> list[Owner]:
        return self.accepting.owners

    def open(self) -> Owner:
        owner = Owner()
        owner.stream = self.client.open(PATH, {"x-inference-pool": "default/p"}, owner)
        return owner

    def run(self) -> None:
        moved = True
        while moved:
            moved = False
            for source, target in ((self.client, self.server), (self.server, self.client)):
                source.pump()
                data = source.take()
                for start in range(0, len(data), self.piece):
                    target.receive(data[start : start + self.piece])
                moved = moved or bool(data)
