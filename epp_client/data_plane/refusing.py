"""Streams from Envoy that get no Exchange. They are refused when their first message arrives.

A stream that begins with a response is not refused. Envoy or another of its filters has answered the
client, and the sidecar passes that local reply through unchanged.
"""

from collections.abc import Callable

from epp_client.errors import EnvoyViolation, Reason
from epp_client.ext_proc.identity import identify
from epp_client.ext_proc.messages import Answer, Phase, read_message
from epp_client.ext_proc.replies import refusal
from epp_client.relay.actions import Outbox, ToEnvoy
from epp_client.relay.lane import Lane
from epp_client.relay.outcome import Outcome
from epp_client.relay.retention import RetentionBudget
from epp_client.wire.status import INTERNAL, OK, Status
from epp_client.wire.transport import NoOwner, Stream

_OF_RESPONSE = (Phase.RESPONSE_HEADERS, Phase.RESPONSE_BODY, Phase.RESPONSE_TRAILERS)


Ended = Callable[[Outcome, bytes], None]
"""Called with the outcome of a stream, and Envoy's first message; empty if none came."""


class Refusing(NoOwner):
    """Owner of a stream that the sidecar refuses, for `reason`. `outcome` is called once it is known."""

    def __init__(self, stream: Stream, reason: Reason, pool: str, outcome: Ended) -> None:
        self._stream = stream
        self._reason = reason
        self._pool = pool
        self._outcome: Ended | None = outcome
        self._reply: Lane | None = None
        self._out = Outbox()

    def message_received(self, message: bytes) -> None:
        """Refuse the stream at its first message. Every message of a local reply is sent back unchanged."""
        try:
            read = read_message(message)
            if self._outcome is None and self._reply is None:
                # The stream was refused before.
                return
            if self._reply is None and read.phase is Phase.RESPONSE_HEADERS:
                self._decided(Outcome.LOCAL_REPLY, message)
                self._reply = Lane(Answer.RESPONSE_HEADERS, self._out, RetentionBudget(0), 0)
                self._reply.take_over()
            if self._reply is not None:
                if read.phase not in _OF_RESPONSE:
                    raise EnvoyViolation("a request message after a response message")
                self._reply.put(read)
                for action in self._out.take():
                    if isinstance(action, ToEnvoy):
                        self._stream.send(action.message)
                return
        except EnvoyViolation:
            if self._reply is not None:
                self._stream.finish(Status(INTERNAL, "not an ext_proc message"))
                return
        self._decided(Outcome.REFUSED, message)
        caller = identify(message)
        answer = refusal(self._reason, self._pool, grpc=caller.grpc, request_id=caller.request_id)
        self._stream.send(answer)
        self._stream.finish(OK)

    def half_closed(self) -> None:
        self._decided(Outcome.REFUSED)
        self._stream.finish(OK)

    def closed(self, status: Status) -> None:
        del status
        self._decided(Outcome.CANCELLED)

    def pause_writing(self) -> None:
        """The backlog to Envoy is full: read nothing more from Envoy, because every message is answered."""
        self._stream.pause_reading()

    def resume_writing(self) -> None:
        """See `pause_writing`."""
        self._stream.resume_reading()

    def _decided(self, outcome: Outcome, message: bytes = b"") -> None:
        if self._outcome is not None:
            tell, self._outcome = self._outcome, None
            tell(outcome, message)
