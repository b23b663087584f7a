"""Lane: one direction of one HTTP message, from Envoy through the picker and back to Envoy.

It retains what Envoy sent until the picker has answered it. It turns every dialect of answers into the only
order that Envoy accepts: headers, streamed bodies, one end. It can take over at any time: then everything
that is unanswered goes back unchanged. Pure. It does not know picks, deadlines or failure modes.
"""

from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.errors import EppClientError, Reason
from epp_client.ext_proc.messages import Answer, BodyForm, Message, Phase, Reply, read_reply
from epp_client.ext_proc.replies import EMPTY, streamed_body
from epp_client.relay.actions import Outbox
from epp_client.relay.lane_states import Answered, Received, Source, Whole
from epp_client.relay.originals import Originals
from epp_client.relay.retention import RetentionBudget


class NotRetained(EppClientError):
    """The original is needed, but it was too large to be retained."""


_REQUEST: Final = Answer.REQUEST_HEADERS
_REQUEST_BODY: Final = Answer.REQUEST_BODY
_REQUEST_TRAILERS: Final = Answer.REQUEST_TRAILERS
_RESPONSE_BODY: Final = Answer.RESPONSE_BODY
_RESPONSE_TRAILERS: Final = Answer.RESPONSE_TRAILERS
_UNCHANGED: Final = EMPTY[Answer.REQUEST_HEADERS], EMPTY[Answer.RESPONSE_HEADERS]


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Lane:
    """One direction of an exchange."""

    def __init__(self, answer: Answer, out: Outbox, budget: RetentionBudget, limit: int) -> None:
        """`answer` is the kind of the lane's header answer: REQUEST_HEADERS or RESPONSE_HEADERS. Messages
        to Envoy are added to `out`."""
        self._out = out
        self._headers_answer = answer
        request = answer is _REQUEST
        self._body_answer = _REQUEST_BODY if request else _RESPONSE_BODY
        self._trailers_answer = _REQUEST_TRAILERS if request else _RESPONSE_TRAILERS
        self._budget = budget
        self._limit = limit

        self.received = Received.NOTHING
        self.answered = Answered.NOTHING
        self.source = Source.PICKER
        self.originals = Originals(budget, limit)
        self.headers = b""
        """Envoy's headers message."""
        self.trailers = b""
        """Envoy's trailers message."""

        self._whole = Whole.NO
        # The answer to headers that arrive after the lane was taken over.
        self._headers_reply = _UNCHANGED[0] if request else _UNCHANGED[1]
        # Body answers that wait for the header answer.
        self._staged: list[Reply] = []
        self._staged_bytes = 0
        # Whether the budget of all exchanges is used up.
        self._overdrawn = False
        self._trailers_reply: bytes | None = None

    # --- state ---

    @property
    def begun(self) -> bool:
        """Whether Envoy has sent the headers."""
        return self.received is not Received.NOTHING

    @property
    def open(self) -> bool:
        """Whether Envoy has begun and not ended."""
        return self.received is Received.OPEN

    @property
    def ended(self) -> bool:
        """Whether Envoy has sent the last message."""
        return not (self.received is Received.OPEN or self.received is Received.NOTHING)

    @property
    def has_trailers(self) -> bool:
        """Whether Envoy has sent trailers."""
        return self.received is Received.ENDED_BY_TRAILERS

    @property
    def headers_sent(self) -> bool:
        """Whether the header answer was sent to Envoy."""
        return self.answered is not Answered.NOTHING

    @property
    def complete(self) -> bool:
        """Whether Envoy has got every answer that it needs."""
        return self.answered is Answered.ALL

    @property
    def passing(self) -> bool:
        """Whether the lane has been taken over."""
        return self.source is Source.ORIGINAL or self.source is Source.ORIGINAL_DROPPED

    @property
    def lost(self) -> bool:
        """Whether the body was larger than its bound, so that the originals are lost."""
        return self.originals.lost

    @property
    def answered_whole(self) -> bool:
        """Whether the picker has answered this direction as a whole, and gets no more messages of it."""
        return self._whole is not Whole.NO

    @property
    def retained(self) -> int:
        """Bytes of originals and of waiting answers that are retained now."""
        return self.originals.retained + self._staged_bytes

    @property
    def owes(self) -> bool:
        """Whether the picker owes an answer to something that Envoy has sent."""
        if self.answered is Answered.ALL or self.passing:
            return False
        if self.source is Source.PICKER_ENDED:
            return self.received is Received.ENDED_BY_TRAILERS
        return self.begun and (
            self.answered is Answered.NOTHING or self.originals.count > 0 or self.ended
        )

    @property
    def waits_for_trailers_only(self) -> bool:
        """Whether the picker has answered all of the body and only owes the trailers."""
        if self.received is not Received.ENDED_BY_TRAILERS or self.answered is not Answered.HEADERS:
            return False
        originals = self.originals
        return (
            self.source is Source.PICKER_ENDED
            or self.source is Source.ORIGINAL_DROPPED
            or (originals.count == 0 and not originals.lost)
        )

    @property
    def can_take_over(self) -> bool:
        """Whether the rest can be sent unchanged, and the receiver then gets what the sender sent."""
        return self.answered is Answered.ALL or self.passing or self.originals.intact

    # --- from Envoy ---

    def pass_with(self, headers: bytes) -> None:
        """Set the answer to headers that arrive after the lane was taken over."""
        self._headers_reply = headers

    def put(self, message: Message) -> None:
        """Add Envoy's next message of this direction. After `take_over` it is answered at once."""
        phase = message.phase
        if phase is Phase.REQUEST_HEADERS or phase is Phase.RESPONSE_HEADERS:
            self.headers = message.raw
            self.received = Received.ENDED_BY_HEADERS if message.end_of_stream else Received.OPEN
            if self.passing:
                self.answered = Answered.ALL if message.end_of_stream else Answered.HEADERS
                self._out.send(self._headers_reply)
            return
        if phase is Phase.REQUEST_BODY or phase is Phase.RESPONSE_BODY:
            if message.end_of_stream:
                self.received = Received.ENDED_BY_BODY
            if self.source is Source.PICKER:
                self.originals.keep(message)
                return
            if self.source is Source.ORIGINAL:
                self._send_body(message.raw[message.start : message.end], message.end_of_stream)
                return
        else:
            self.trailers = message.raw
            self.received = Received.ENDED_BY_TRAILERS
        if self.source is not Source.PICKER:
            self._settle()

    def expect_end_answer(self) -> None:
        """A synthetic end of the body was sent to the picker. Its answer must not go to Envoy."""
        self.originals.keep_synthetic_end()

    def has_room(self, message: Message) -> bool:
        """Whether `put` can keep the message until it is answered."""
        return self.passing or self.originals.has_room(len(message.raw))

    def _send_body(self, payload: bytes, is_final: bool) -> None:
        if is_final:
            self.answered = Answered.ALL
        self._out.send(streamed_body(self._body_answer, payload, is_final))

    # --- from the picker ---

    @property
    def staged_full(self) -> Reason | None:
        """Why no more body answers may wait for the header answer. None if they may."""
        if self._staged and self._staged_bytes > self._limit:
            return Reason.PICKER_PROTOCOL
        return Reason.OVERLOADED if self._overdrawn else None

    @property
    def staged_whole(self) -> bool:
        """Whether the staged answers are a complete body, so a failure of the picker cannot break it."""
        if not self.ended:
            return False
        if self._whole is Whole.KEPT:
            return True
        originals, staged = self.originals, self._staged
        if self.received is Received.ENDED_BY_TRAILERS:
            if self._trailers_reply is not None:
                return True
        elif not originals.count and not staged and not originals.lost:
            # Envoy's message ended with its headers.
            return True
        for reply in staged:
            if reply.end_of_stream:
                return True
        if not originals.has_end or len(staged) < originals.count:
            return False
        return not any(reply.form is BodyForm.STREAMED for reply in staged)

    def answer_headers(self, raw: bytes) -> None:
        """Release the header answer and every body answer that waited for it.

        Raises:
            NotRetained: an answer means "unchanged", and the original is lost.
        """
        if self.answered is not Answered.NOTHING:
            return
        originals = self.originals
        if self._whole is Whole.KEPT:
            self._whole = Whole.YES
            if originals.lost:
                raise NotRetained("the unchanged body is needed, but was not retained")
            self.take_over(raw)
            return
        self.answered = Answered.HEADERS
        staged = self._staged
        self.discard_staged()
        if originals.lost:
            for reply in staged:
                self._check_retained(reply)
        self._out.send(raw)
        if self.ended and not (self.has_trailers or originals.count or originals.lost):
            # The message has headers only, so Envoy expects one answer.
            self.answered = Answered.ALL
            return
        for reply in staged:
            self._answer(reply)
        self._settle()

    def answer_body(self, reply: Reply) -> None:
        """Add one body answer. It waits if the header answer was not released yet.

        Raises:
            NotRetained: the answer means "unchanged", and the original is lost.
        """
        if self.answered is Answered.ALL or self.passing:
            return
        if self.answered is Answered.NOTHING:
            self._staged.append(reply)
            self.hold(reply.raw)
            return
        self._answer(reply)
        self._settle()

    def answer_whole(self, payload: bytes | None) -> None:
        """Answer the whole body with `payload`, or with the original if it is None. The picker does not
        answer the body again.

        Raises:
            NotRetained: the original is lost.
        """
        self._whole = Whole.YES
        if payload is not None:
            self._trailers_reply = EMPTY[self._trailers_answer]
            self.answer_body(read_reply(streamed_body(self._body_answer, payload, True)))
        elif self.answered is Answered.NOTHING:
            self._whole = Whole.KEPT
        else:
            self.take_over()

    def hold(self, raw: bytes) -> None:
        """Count an answer that waits for the header answer or until the pick is judged."""
        size = len(raw)
        self._overdrawn = not self._budget.has_room(size)
        self._budget.take(size)
        self._staged_bytes += size

    def answer_trailers(self, raw: bytes) -> None:
        """Add the trailers answer. The unanswered rest of the body is sent before it, unchanged."""
        if self.answered is Answered.ALL or self.passing or not self.has_trailers:
            return
        self._trailers_reply = raw
        if self.answered is Answered.NOTHING:
            self.hold(raw)
        else:
            self._settle()

    def _answer(self, reply: Reply) -> None:
        if self.source is Source.PICKER_ENDED or self.answered is Answered.ALL:
            # Nothing is sent after the end.
            return
        originals = self.originals
        if reply.form is BodyForm.STREAMED:
            payload = reply.raw[reply.start : reply.end]
            originals.consume(payload, is_final=reply.end_of_stream)
            if not reply.end_of_stream:
                self._out.send(reply.raw)
                return
            self.source = Source.PICKER_ENDED
            if self.ended and not self.has_trailers:
                self.answered = Answered.ALL
                self._out.send(reply.raw)
            elif payload:
                # Envoy has not sent the end yet, or the trailers are the end.
                self._send_body(payload, False)
            return
        self._check_retained(reply)
        if originals.count == 0:
            return
        payload, is_final, synthetic = originals.take()
        if reply.form is BodyForm.REPLACED:
            originals.rewritten()
            payload = reply.raw[reply.start : reply.end]
        if is_final or synthetic:
            self.source = Source.PICKER_ENDED
        if payload or not synthetic:
            self._send_body(payload, is_final)

    def _check_retained(self, reply: Reply) -> None:
        if self.originals.lost and reply.form is not BodyForm.STREAMED:
            raise NotRetained("an answer is about a chunk of a body that was not retained")

    def _settle(self) -> None:
        """Send an end that the picker does not send: of a body that it ended early, and of trailers."""
        if self.answered is Answered.ALL:
            return
        if self.received is Received.ENDED_BY_TRAILERS:
            passing = self.passing
            if passing or self._trailers_reply is not None:
                if not (passing or self.originals.intact):
                    # The picker changed the body, and its answers are complete.
                    self.originals.release()
                self._flush()
                self._out.send(self._trailers_reply or EMPTY[self._trailers_answer])
                self.answered = Answered.ALL
        elif (
            self.source is Source.PICKER_ENDED or self.source is Source.ORIGINAL_DROPPED
        ) and self.ended:
            self._send_body(b"", True)

    def _flush(self) -> None:
        """Send every unanswered original, unchanged."""
        while self.originals.count:
            payload, is_final, synthetic = self.originals.take()
            if not synthetic:
                self._send_body(payload, is_final)

    # --- retry, or continue without the picker ---

    def restart(self) -> list[bytes]:
        """Drop the picker's answers, none of which was released. Returns Envoy's body messages and the
        synthetic end, to ask a picker again. Call it only while nothing is `lost`."""
        self.discard_staged()
        self._trailers_reply, self._whole = None, Whole.NO
        return self.originals.again()

    def discard_staged(self) -> None:
        """Drop body answers that were not sent to Envoy: the original body replaces them."""
        if self._staged_bytes:
            self._budget.give_back(self._staged_bytes)
            self._staged, self._staged_bytes, self._overdrawn = [], 0, False

    def take_over(self, headers: bytes | None = None) -> None:
        """Answer everything that is unanswered unchanged, and every later message when it arrives.

        `headers` is the header answer, used if none was released yet. The default changes nothing. A body
        that the picker has changed continues with the next original chunk.
        """
        if self.passing:
            return
        if self.begun and self.answered is Answered.NOTHING:
            self.answer_headers(headers or EMPTY[self._headers_answer])
            if self.passing:
                return
        if self.source is Source.PICKER_ENDED:
            self.source = Source.ORIGINAL_DROPPED
            self.originals.release()
        else:
            self.source = Source.ORIGINAL
            self._flush()
        self._settle()

    def abandon(self) -> None:
        """Envoy does not need any more answers of this direction."""
        self.release()
        self.source, self.answered = Source.ORIGINAL, Answered.ALL

    def release(self) -> None:
        """Drop everything that is retained. After this the lane cannot take over."""
        self.discard_staged()
        self.originals.release()
