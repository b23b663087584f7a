"""Lane: one direction of one HTTP message, from Envoy through the picker and back to Envoy.

It keeps what Envoy sent until the picker has answered it, turns every dialect of answers into the one
order that Envoy accepts (headers, streamed bodies, one end), and can take over at any moment: then
whatever is unanswered goes back unchanged. Pure; knows nothing of picks, deadlines or failure modes.
"""

from collections import deque
from typing import Final

from epp_client.errors import EppClientError, Reason
from epp_client.ext_proc.messages import Answer, BodyForm, Message, Phase, Reply, read_reply
from epp_client.ext_proc.replies import EMPTY, END_OF_REQUEST_BODY, streamed_body
from epp_client.relay.retention import RetentionBudget


class NotRetained(EppClientError):
    """What is asked for cannot be given: the original was too large to be kept."""


_LATER_ANSWERS: Final = {
    Answer.REQUEST_HEADERS: (Answer.REQUEST_BODY, Answer.REQUEST_TRAILERS),
    Answer.RESPONSE_HEADERS: (Answer.RESPONSE_BODY, Answer.RESPONSE_TRAILERS),
}


class Lane:
    """One direction of an exchange. Methods return the ProcessingResponses to send to Envoy now."""

    def __init__(self, answer: Answer, budget: RetentionBudget, limit: int) -> None:
        """`answer` is the lane's header answer (REQUEST_HEADERS or RESPONSE_HEADERS)."""
        self._headers_answer = answer
        self._body_answer, self._trailers_answer = _LATER_ANSWERS[answer]
        self._budget = budget
        self._limit = limit
        self._retained = 0

        self.begun = False
        """Envoy has sent the headers."""
        self.ended = False
        """Envoy has sent the last message of this direction."""
        self.has_trailers = False
        self.headers_sent = False
        """The header answer went to Envoy."""
        self.complete = False
        """Envoy has had every answer it waits for."""
        self.lost = False
        """A body outgrew its bound: originals are gone, taking over is impossible."""
        self.rewritten = False
        """The picker's body is not the original's."""
        self.headers_only = False
        """Envoy's message has neither body nor trailers."""
        self.answered_whole = False
        """The picker has said all about this direction, and is to hear no more of it."""

        self._bodies: deque[Message] = deque()
        self._offset = 0  # bytes of the first of _bodies that are answered already
        self._body_ended = False  # Envoy's own end, on headers or on a body
        self._body_done = False  # Envoy has had the body's last answer (trailers may be owed)
        self._picker_ended = False  # the picker has ended its body; what it replaces is dropped
        self._passing = False  # taken over: every message is answered as it comes
        self._headers_reply = EMPTY[answer]  # to headers that come then
        self._staged: list[Reply] = []
        self._staged_bytes = 0
        self._overdrawn = False  # what all exchanges may hold together is used up
        self._trailers_reply: bytes | None = None
        self._kept_whole = False  # with the header answer the rest goes on unchanged

    def pass_with(self, headers: bytes) -> None:
        """Answer the headers with this, if they come when the direction has been taken over."""
        self._headers_reply = headers

    # --- from Envoy ---

    def put(self, message: Message) -> list[bytes]:
        """Take Envoy's next message of this direction; answers it at once after `take_over`."""
        if message.phase is Phase.REQUEST_HEADERS or message.phase is Phase.RESPONSE_HEADERS:
            self.begun = True
            self.ended = self._body_ended = self.headers_only = message.end_of_stream
            if self._passing:
                self.headers_sent = True
                self._body_done = self.complete = message.end_of_stream
                return [self._headers_reply]
        elif message.phase is Phase.REQUEST_BODY or message.phase is Phase.RESPONSE_BODY:
            if message.end_of_stream:
                self.ended = self._body_ended = True
            if self._picker_ended:
                pass
            elif self._passing:
                return self._pass(message)
            else:
                self._keep(message)
        else:
            self.ended = self.has_trailers = True
        if self._passing or self._picker_ended:
            return self._settle([])
        return []

    def expect_end_answer(self) -> None:
        """A synthetic end of body went to the picker: what answers it is not for Envoy."""
        self._bodies.append(_SYNTHETIC_END)

    def _pass(self, message: Message) -> list[bytes]:
        out = [
            streamed_body(
                self._body_answer, message.raw[message.start : message.end], message.end_of_stream
            )
        ]
        if message.end_of_stream:
            self._body_done = self.complete = True
        return out

    def has_room(self, message: Message) -> bool:
        """Whether `put` can keep the message until it is answered."""
        size = len(message.raw)
        return self._passing or (
            self._retained + size <= self._limit and self._budget.has_room(size)
        )

    def _keep(self, message: Message) -> None:
        size = len(message.raw)
        if self.lost:
            return
        if not self.has_room(message):
            self.lost = True
            self.release()
            return
        self._budget.take(size)
        self._retained += size
        self._bodies.append(message)

    def _drop_first(self) -> Message:
        message = self._bodies.popleft()
        self._offset = 0
        if message is not _SYNTHETIC_END:
            self._retained -= len(message.raw)
            self._budget.give_back(len(message.raw))
        return message

    def release(self) -> None:
        """Forget every original; the lane can not take over any more."""
        self._bodies.clear()
        self._offset = 0
        self._budget.give_back(self._retained)
        self._retained = 0

    @property
    def retained(self) -> int:
        """Bytes of originals and of waiting answers held now."""
        return self._retained + self._staged_bytes

    # --- from the picker ---

    @property
    def owes(self) -> bool:
        """Whether the picker owes an answer to something that Envoy has sent."""
        if self.complete or self._passing:
            return False
        if self._picker_ended:
            return self.has_trailers
        return self.begun and (not self.headers_sent or bool(self._bodies) or self.ended)

    @property
    def staged_full(self) -> Reason | None:
        """Why no more body answers can wait for the header answer; None while they can."""
        if self._staged and self._staged_bytes > self._limit:
            return Reason.PICKER_PROTOCOL
        return Reason.OVERLOADED if self._overdrawn else None

    @property
    def staged_whole(self) -> bool:
        """Whether the staged answers make a whole body: nothing can go wrong with it any more."""
        if not self.ended:
            return False
        if self._kept_whole:
            return True
        if self._body_ended and not self._bodies and not self._staged and not self.lost:
            return True  # ended with the headers
        if self.has_trailers and self._trailers_reply is not None:
            return True
        if any(reply.end_of_stream for reply in self._staged):
            return True
        return (
            bool(self._bodies)
            and len(self._staged) >= len(self._bodies)
            and self._bodies[-1].end_of_stream
            and all(reply.form is not BodyForm.STREAMED for reply in self._staged)
        )

    def answer_headers(self, raw: bytes) -> list[bytes]:
        """Release the header answer and every body answer that waited for it.

        Raises:
            NotRetained: an answer means "unchanged", and the original is gone.
        """
        if self.headers_sent:
            return []
        if self._kept_whole:
            self._kept_whole = False
            if self.lost:
                raise NotRetained("a body that is to stay as it is was not kept")
            return self.take_over(raw)
        self.headers_sent = True
        staged = self._staged
        self.discard_staged()
        if self._body_ended and not self._bodies and not self.has_trailers and not self.lost:
            # Nothing but headers: one answer is all that Envoy takes.
            self._body_done = self.complete = True
            return [raw]
        out = [raw]
        for reply in staged:
            out += self._answer(reply)
        return self._settle(out)

    def answer_body(self, reply: Reply) -> list[bytes]:
        """Take one body answer; it waits when the header answer has not been released yet.

        Raises:
            NotRetained: the answer means "unchanged", and the original is gone.
        """
        if self.complete or self._passing:
            return []
        if not self.headers_sent:
            self._staged.append(reply)
            self.hold(reply.raw)
            return []
        return self._settle(self._answer(reply))

    def answer_whole(self, payload: bytes | None) -> list[bytes]:
        """Take `payload` for the whole body, None for the original; the picker says no more of it.

        Raises:
            NotRetained: the original is gone.
        """
        self.answered_whole = True
        if payload is None:
            if self.headers_sent:
                return self.take_over()
            self._kept_whole = True
            return []
        self._trailers_reply = EMPTY[self._trailers_answer]
        raw = streamed_body(self._body_answer, payload, True)
        return self.answer_body(read_reply(raw))

    def hold(self, raw: bytes) -> None:
        """Count an answer that waits, for the header answer or for the pick to be judged."""
        size = len(raw)
        self._overdrawn = not self._budget.has_room(size)
        self._budget.take(size)
        self._staged_bytes += size

    def answer_trailers(self, raw: bytes) -> list[bytes]:
        """Take the trailers answer; whatever of the body is unanswered goes before it unchanged."""
        if self.complete or self._passing or not self.has_trailers:
            return []
        self._trailers_reply = raw
        if self.headers_sent:
            return self._settle([])
        self.hold(raw)
        return []

    def _answer(self, reply: Reply) -> list[bytes]:
        if self._picker_ended or self._body_done:
            return []  # nothing is sent after the end
        if reply.form is BodyForm.STREAMED:
            self._consume(reply.raw[reply.start : reply.end], reply.end_of_stream)
            if not reply.end_of_stream:
                return [reply.raw]
            self._picker_ended = True
            if self._body_ended:
                self._body_done = self.complete = True
                return [reply.raw]
            # The end is not Envoy's yet, or trailers will be it.
            return self._piece(reply.raw[reply.start : reply.end])
        if not self._bodies:
            if self.lost:
                raise NotRetained("an unchanged body that was not kept")
            return []
        offset = self._offset
        original = self._drop_first()
        if reply.form is BodyForm.REPLACED:
            self.rewritten = True
            payload = reply.raw[reply.start : reply.end]
        else:
            payload = original.raw[original.start + offset : original.end]
        if original is _SYNTHETIC_END:
            self._picker_ended = True
            return self._piece(payload)
        if original.end_of_stream:
            self._picker_ended = self._body_done = self.complete = True
        return [streamed_body(self._body_answer, payload, original.end_of_stream)]

    def _piece(self, payload: bytes) -> list[bytes]:
        return [streamed_body(self._body_answer, payload, False)] if payload else []

    def _consume(self, payload: bytes, ended: bool) -> None:
        """Tick off the originals that `payload` answers: byte by byte while they are the same."""
        bodies = self._bodies
        at, size = 0, len(payload)
        while at < size and not self.rewritten and not self.lost:
            if not bodies:
                self.rewritten = True
                break
            first = bodies[0]
            start = first.start + self._offset
            count = min(first.end - start, size - at)
            piece = payload if count == size else payload[at : at + count]
            if not first.raw.startswith(piece, start):
                self.rewritten = True
                break
            at += count
            self._offset += count
            if start + count == first.end:
                if first.end_of_stream:
                    if at < size:
                        self.rewritten = True
                    break
                self._drop_first()
        if ended:
            self.release()
        elif self.rewritten and bodies and not bodies[0].end_of_stream:
            self._drop_first()  # a changed stream is taken to answer chunk for chunk
        while bodies and bodies[0].start == bodies[0].end and not bodies[0].end_of_stream:
            self._drop_first()

    def _settle(self, out: list[bytes]) -> list[bytes]:
        """`out`, and the end of what only we can end: a body that the picker ended early, and answered
        trailers."""
        if self._picker_ended and self._body_ended and not self._body_done:
            out.append(streamed_body(self._body_answer, b"", True))
            self._body_done = self.complete = True
        elif (
            self.has_trailers
            and not self.complete
            and (self._passing or self._trailers_reply is not None)
        ):
            if self.rewritten and not self._passing:
                self.release()  # the picker has said all that it makes of the body
            out += self._flush()
            out.append(self._trailers_reply or EMPTY[self._trailers_answer])
            self._body_done = self.complete = True
        return out

    def _flush(self) -> list[bytes]:
        """Every unanswered original, unchanged."""
        out: list[bytes] = []
        while self._bodies:
            offset = self._offset
            message = self._drop_first()
            if message is _SYNTHETIC_END:
                continue
            payload = message.raw[message.start + offset : message.end]
            out.append(streamed_body(self._body_answer, payload, message.end_of_stream))
            if message.end_of_stream:
                self._body_done = self.complete = True
        return out

    @property
    def waits_for_trailers_only(self) -> bool:
        """Whether the picker has answered all of the body and only owes the trailers."""
        return (
            self.has_trailers
            and self.headers_sent
            and not self.complete
            and (self._picker_ended or (not self._bodies and not self.lost))
        )

    # --- another try, or without the picker ---

    def restart(self) -> list[bytes]:
        """Forget what the picker has said, of which nothing was released; Envoy's body messages and
        the synthetic end, for a picker that is asked anew. Only while nothing is `lost`."""
        self.discard_staged()
        self._trailers_reply, self._kept_whole, self.answered_whole = None, False, False
        return [
            END_OF_REQUEST_BODY if message is _SYNTHETIC_END else message.raw
            for message in self._bodies
        ]

    @property
    def can_take_over(self) -> bool:
        """Whether the rest can go on unchanged and the whole is what the client or server sent."""
        return self.complete or self._passing or not (self.lost or self.rewritten)

    def discard_staged(self) -> None:
        """Forget body answers that Envoy has not seen: the original body takes their place."""
        self._budget.give_back(self._staged_bytes)
        self._staged, self._staged_bytes, self._overdrawn = [], 0, False

    def take_over(self, headers: bytes | None = None) -> list[bytes]:
        """Answer everything unanswered as it was sent, and from now on every message as it comes.

        `headers` is the header answer where none was released yet; one that changes nothing by
        default. A body that the picker has changed goes on at the next original chunk.
        """
        if self._passing:
            return []
        out: list[bytes] = []
        if self.begun and not self.headers_sent:
            out += self.answer_headers(headers or EMPTY[self._headers_answer])
        self._passing = True
        if self._picker_ended:
            self.release()
        return self._settle(out + self._flush())

    def abandon(self) -> None:
        """Envoy waits for no answer of this direction any more."""
        self.discard_staged()
        self.release()
        self._passing = self.headers_sent = self._body_done = self.complete = True

    @property
    def passing(self) -> bool:
        """Whether the lane has been taken over."""
        return self._passing


_SYNTHETIC_END: Final = Message(Phase.REQUEST_BODY, True, b"", 0, 0)
