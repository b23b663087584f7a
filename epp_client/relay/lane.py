"""Lane: one direction of one HTTP message, from Envoy through the picker and back to Envoy.

It keeps what Envoy sent until the picker has answered it, turns every dialect of answers into the one
order that Envoy accepts (headers, streamed bodies, one end), and can take over at any moment: then
whatever is unanswered goes back unchanged. Pure; knows nothing of picks, deadlines or failure modes.
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
    """What is asked for cannot be given: the original was too large to be kept."""


_LATER_ANSWERS: Final = {
    Answer.REQUEST_HEADERS: (Answer.REQUEST_BODY, Answer.REQUEST_TRAILERS),
    Answer.RESPONSE_HEADERS: (Answer.RESPONSE_BODY, Answer.RESPONSE_TRAILERS),
}


@final
@mypyc_attr(acyclic=True)
class Lane:
    """One direction of an exchange."""

    def __init__(self, answer: Answer, out: Outbox, budget: RetentionBudget, limit: int) -> None:
        """`answer` is the lane's header answer (REQUEST_HEADERS or RESPONSE_HEADERS); what is sent to Envoy
        goes into `out`."""
        self._out = out
        self._headers_answer = answer
        self._body_answer, self._trailers_answer = _LATER_ANSWERS[answer]
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
        # The answer to headers that come after the lane was taken over.
        self._headers_reply = EMPTY[answer]
        # Body answers that wait for the header answer.
        self._staged: list[Reply] = []
        self._staged_bytes = 0
        # Whether the budget of all exchanges is used up.
        self._overdrawn = False
        self._trailers_reply: bytes | None = None

    # --- where it stands ---

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
        """Whether Envoy has been sent the header answer."""
        return self.answered is not Answered.NOTHING

    @property
    def complete(self) -> bool:
        """Whether Envoy has had every answer that it waits for."""
        return self.answered is Answered.ALL

    @property
    def passing(self) -> bool:
        """Whether the lane has been taken over."""
        return self.source is Source.ORIGINAL or self.source is Source.ORIGINAL_DROPPED

    @property
    def lost(self) -> bool:
        """Whether the body outgrew its bound, so that the originals are gone."""
        return self.originals.lost

    @property
    def answered_whole(self) -> bool:
        """Whether the picker has said all about this direction, and is told no more of it."""
        return self._whole is not Whole.NO

    @property
    def retained(self) -> int:
        """Bytes of originals and of waiting answers held now."""
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
        """Whether the rest can go on unchanged and the whole is what the client or server sent."""
        return self.answered is Answered.ALL or self.passing or self.originals.intact

    # --- from Envoy ---

    def pass_with(self, headers: bytes) -> None:
        """Answer the headers with this, if they come when the direction has been taken over."""
        self._headers_reply = headers

    def put(self, message: Message) -> None:
        """Take Envoy's next message of this direction; answers it at once after `take_over`."""
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
        """A synthetic end of body went to the picker: what answers it is not for Envoy."""
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
        """Why no more body answers can wait for the header answer; None while they can."""
        if self._staged and self._staged_bytes > self._limit:
            return Reason.PICKER_PROTOCOL
        return Reason.OVERLOADED if self._overdrawn else None

    @property
    def staged_whole(self) -> bool:
        """Whether the staged answers make a whole body: nothing can go wrong with it any more."""
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
            NotRetained: an answer means "unchanged", and the original is gone.
        """
        if self.answered is not Answered.NOTHING:
            return
        originals = self.originals
        if self._whole is Whole.KEPT:
            self._whole = Whole.YES
            if originals.lost:
                raise NotRetained("a body that is to stay as it is was not kept")
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
            # Nothing but headers: one answer is all that Envoy takes.
            self.answered = Answered.ALL
            return
        for reply in staged:
            self._answer(reply)
        self._settle()

    def answer_body(self, reply: Reply) -> None:
        """Take one body answer; it waits when the header answer has not been released yet.

        Raises:
            NotRetained: the answer means "unchanged", and the original is gone.
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
        """Take `payload` for the whole body, None for the original; the picker says no more of it.

        Raises:
            NotRetained: the original is gone.
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
        """Count an answer that waits, for the header answer or for the pick to be judged."""
        size = len(raw)
        self._overdrawn = not self._budget.has_room(size)
        self._budget.take(size)
        self._staged_bytes += size

    def answer_trailers(self, raw: bytes) -> None:
        """Take the trailers answer; whatever of the body is unanswered goes before it unchanged."""
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
                # Envoy has not sent the end yet, or trailers will be it.
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
            raise NotRetained("an answer is about a chunk of a body that was not kept")

    def _settle(self) -> None:
        """Send the ends that only we can send: of a body that the picker ended early, and of trailers."""
        if self.answered is Answered.ALL:
            return
        if self.received is Received.ENDED_BY_TRAILERS:
            passing = self.passing
            if passing or self._trailers_reply is not None:
                if not (passing or self.originals.intact):
                    # The picker has said all that it makes of the body.
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

    # --- another try, or without the picker ---

    def restart(self) -> list[bytes]:
        """Forget what the picker has said, of which nothing was released; Envoy's body messages and
        the synthetic end, for a picker that is asked anew. Only while nothing is `lost`."""
        self.discard_staged()
        self._trailers_reply, self._whole = None, Whole.NO
        return self.originals.again()

    def discard_staged(self) -> None:
        """Forget body answers that Envoy has not seen: the original body takes their place."""
        if self._staged_bytes:
            self._budget.give_back(self._staged_bytes)
            self._staged, self._staged_bytes, self._overdrawn = [], 0, False

    def take_over(self, headers: bytes | None = None) -> None:
        """Answer everything unanswered as it was sent, and from now on every message as it comes.

        `headers` is the header answer where none was released yet; one that changes nothing by
        default. A body that the picker has changed goes on at the next original chunk.
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
        """Envoy waits for no answer of this direction any more."""
        self.release()
        self.source, self.answered = Source.ORIGINAL, Answered.ALL

    def release(self) -> None:
        """Forget everything that is kept; the lane cannot take over any more."""
        self.discard_staged()
        self.originals.release()
