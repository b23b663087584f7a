"""Exchange: the automaton of one request between Envoy and the pool's endpoint picker.

Messages, closings and rung timers go in; actions come out. Pure: no asyncio, no sockets, no clock, no
randomness. Two rules hold in every state: Envoy is answered in the only order it accepts, exactly
once; and whatever the picker does, the request either goes on whole or is refused with a reason, and
a response that has begun goes on.

The request phase holds everything back until the pick is judged. Once the request has ended, the
picker's whole answer is awaited (its burst of body chunks included), so that a picker dying half-way
leaves the original body to be replayed. A request that is still being sent streams through.
"""

from collections.abc import Callable

from epp_client.errors import MalformedMessage, Reason
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_message, read_reply
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.ext_proc.replies import END_OF_REQUEST_BODY, refusal
from epp_client.picker.protocol import (
    LocalPick,
    Pick,
    RequestHeaders,
    Verdict,
    destination_reply,
    is_grpc,
    judge,
    parse_reply,
    prepare_request_headers,
    read_pick,
    read_served,
    steer,
)
from epp_client.pool.inference_pool import FailureMode
from epp_client.pool.settings import ResponseMode
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.relay.actions import (
    Action,
    Arm,
    CancelPicker,
    Disarm,
    FinishEnvoy,
    FinishPicker,
    OpenPicker,
    Timer,
    ToEnvoy,
    ToPicker,
)
from epp_client.relay.lane import Lane, NotRetained
from epp_client.relay.outcome import Outcome
from epp_client.relay.retention import RetentionBudget


class Exchange:
    """One request's exchange. Every method returns the actions to carry out, in order."""

    def __init__(
        self,
        snapshot: PoolSnapshot,
        *,
        local_pick: LocalPick,
        budget: RetentionBudget,
        trailers_expected: bool = True,
    ) -> None:
        """`trailers_expected`: False when this picker is known to ignore trailers."""
        self._snapshot = snapshot
        self._settings = snapshot.pool.settings
        self._failure_mode = snapshot.pool.failure_mode
        self._local_pick = local_pick
        self._trailers_expected = trailers_expected
        bound = self._settings.max_retained_body
        self._bound = bound
        self._request = Lane(Answer.REQUEST_HEADERS, budget, bound)
        self._response = Lane(Answer.RESPONSE_HEADERS, budget, bound)
        self._headers: RequestHeaders | None = None
        self._envoy_headers = b""

        self._header_reply: ProcessingResponse | None = None
        self._header_raw = b""
        self._pick: Pick | None = None
        self._keys: tuple[str, ...] = ()
        self._waiting_for_endpoint = False

        self._picker_open = False
        self._ignore_picker = False  # it still gets copies, but its answers come too late
        self._response_armed = False
        self._out: list[Action] = []

        self.outcome: Outcome | None = None
        """None until it is decided."""
        self.reason: Reason | None = None
        """Why it was refused or served without the picker."""
        self.passthrough: Reason | None = None
        """Why the picker had no say in (the rest of) the response."""
        self.endpoint: str | None = None
        """The served endpoint, or the destination endpoint while that is not known."""
        self.trailers_answered: bool | None = None
        """What this exchange saw of the picker's habit with trailers."""
        self.closed = False

    @property
    def request_ended(self) -> bool:
        """Whether Envoy has sent the whole request."""
        return self._request.ended

    @property
    def retained(self) -> int:
        """Bytes of bodies held now."""
        return self._request.retained + self._response.retained

    @property
    def observed(self) -> bool:
        """Whether the picker only gets copies: what it cannot take may be dropped."""
        return self._response.passing

    # --- events ---

    def from_envoy(self, raw: bytes) -> list[Action]:
        """Take one ProcessingRequest."""
        if self.closed:
            return []
        try:
            self._message(read_message(raw))
        except MalformedMessage:
            self._refuse(Reason.ENVOY_PROTOCOL)
        return self._take()

    def from_picker(self, raw: bytes) -> list[Action]:
        """Take one ProcessingResponse."""
        if self.closed or not self._picker_open or self._ignore_picker:
            return []
        return self._releasing(lambda: self._reply(read_reply(raw)))

    def picker_closed(self, reason: Reason | None) -> list[Action]:
        """The picker's stream is over: cleanly (None), or because of `reason`."""
        if self.closed or not self._picker_open:
            return []
        self._picker_open = False
        if reason is None and self._pick is not None and self._header_reply is not None:
            return self._releasing(self._closed_after_pick)
        self._without_picker(reason or Reason.PICKER_CLOSED, clean=reason is None)
        return self._take()

    def timer_rang(self, timer: Timer) -> list[Action]:
        """A deadline has passed."""
        if self.closed:
            return []
        if timer is Timer.PICK:
            self._drop_picker(Reason.PICKER_TIMEOUT)
        elif timer is Timer.ENDPOINT:
            self._waiting_for_endpoint = False
            return self._releasing(lambda: self._judge(last=True))
        else:
            self._response_armed = False
            self._response_overdue()
        return self._take()

    def pool_changed(self, snapshot: PoolSnapshot) -> list[Action]:
        """The pool has a newer snapshot: a pick is judged by the newest table. All else (failure
        mode, deadlines, picker) stays what it was when the request began."""
        if self.closed or self.outcome is not None:
            return []
        self._snapshot = snapshot
        if self._waiting_for_endpoint:
            return self._releasing(lambda: self._judge(last=False))
        return self._take()

    def _releasing(self, step: Callable[[], None]) -> list[Action]:
        """Take a step that may release the picker's answers, whose word is not to be trusted."""
        try:
            step()
        except MalformedMessage:
            self._drop_picker(Reason.PICKER_PROTOCOL)
        except NotRetained:
            self._drop_picker(Reason.BODY_NOT_RETAINED)
        return self._take()

    def envoy_closed(self) -> list[Action]:
        """Envoy has half-closed or reset its stream: nothing more will come or be read."""
        if self.closed:
            return []
        if self.outcome is None:
            self.outcome = Outcome.CANCELLED
        if self._picker_open:
            self._out.append(FinishPicker() if self._response.complete else CancelPicker())
        self._out.append(FinishEnvoy())
        self._close()
        return self._take()

    # --- Envoy's side ---

    def _message(self, message: Message) -> None:
        if message.phase is Phase.REQUEST_HEADERS:
            self._request_headers(message)
        elif self._headers is None:
            raise MalformedMessage("Envoy began with something else than request headers")
        elif message.phase is Phase.REQUEST_BODY or message.phase is Phase.REQUEST_TRAILERS:
            self._request_rest(message)
        else:
            self._response_message(message)

    def _request_headers(self, message: Message) -> None:
        if self._headers is not None:
            raise MalformedMessage("request headers came twice")
        self._envoy_headers = message.raw
        self._headers = headers = prepare_request_headers(message.raw, self._snapshot)
        self._request.put(message)
        if headers.subset is not None and not headers.subset.ready:
            self._refuse(Reason.SUBSET_EMPTY)
            return
        target = self._snapshot.picker
        if target is None:
            self._go_local(Outcome.LOCAL_PICK, None)
        elif not target.addresses:
            self._without_picker(Reason.PICKER_UNRESOLVED)
        else:
            self._picker_open = True
            self._out += (OpenPicker(), ToPicker(headers.raw))
            self._arm_pick()

    def _request_rest(self, message: Message) -> None:
        if self._request.ended:
            raise MalformedMessage("the request went on after its end")
        self._send(self._request.put(message))
        if not self._picker_open:
            return
        if message.phase is Phase.REQUEST_TRAILERS:
            # GAIE's picker picks at the end of the body and never looks at trailers.
            if not self._request.passing:
                self._request.expect_end_answer()
            self._out.append(ToPicker(END_OF_REQUEST_BODY))
        self._out.append(ToPicker(message.raw))
        self._arm_pick()
        if self._request.headers_sent:
            self._request_progress()

    def _arm_pick(self) -> None:
        if self._request.ended and not self._request.complete and not self._waiting_for_endpoint:
            self._out.append(Arm(Timer.PICK, self._settings.pick_timeout))

    def _response_message(self, message: Message) -> None:
        lane = self._response
        if message.phase is Phase.RESPONSE_HEADERS:
            if lane.begun:
                raise MalformedMessage("response headers came twice")
            served, raw = read_served(message.raw)
            if served is not None:
                self.endpoint = served
            if self.outcome is None:
                # An answer of Envoy's own, before there was a pick: nothing to steer any more.
                self._abandon_request()
            if self._settings.response_mode is not ResponseMode.RELAY and not lane.passing:
                lane.take_over()
        elif not lane.begun or lane.ended:
            raise MalformedMessage("a response message came out of order")
        else:
            raw = message.raw
        if not lane.has_room(message):
            # More than may be kept waits for the picker: the client shall not.
            self._response_overdue()
        self._send(lane.put(message))
        if not self._picker_open or self._settings.response_mode is ResponseMode.SKIP:
            return
        self._out.append(ToPicker(raw))
        if not lane.passing:
            self._response_progress(anew=False)

    def _abandon_request(self) -> None:
        self.outcome = Outcome.CANCELLED
        self._out.append(Disarm(Timer.PICK))
        if self._picker_open:
            self._picker_open = False
            self._out.append(CancelPicker())
        # Envoy has stopped waiting for answers to the request.
        self._request.take_over()
        self._response.take_over()

    # --- the picker's side ---

    def _reply(self, reply: Reply) -> None:
        answer = reply.answer
        if answer is Answer.IMMEDIATE:
            self._immediate(reply)
        elif answer is Answer.REQUEST_HEADERS:
            if self._header_reply is None and not self._request.headers_sent:
                self._header_reply = message = parse_reply(reply.raw)
                self._header_raw = reply.raw
                self._read_pick(message)
            # A second header answer is one too many, and changes nothing.
        elif answer is Answer.REQUEST_BODY:
            if reply.has_metadata and self._pick is None:
                self._read_pick(parse_reply(reply.raw))
            self._send(self._request.answer_body(reply))
            self._request_progress()
        elif answer is Answer.REQUEST_TRAILERS:
            self.trailers_answered = True
            self._send(self._request.answer_trailers(reply.raw))
            self._request_progress()
        elif self.outcome is None or not self._response.begun:
            raise MalformedMessage("the picker answered a response that has not begun")
        elif not self._response.passing:
            self._response_reply(reply)

    def _read_pick(self, message: ProcessingResponse) -> None:
        self._pick = read_pick(message) or self._pick
        self._request_progress()

    def _immediate(self, reply: Reply) -> None:
        """A refusal is an answer, also under FailOpen; but it may not break a flowing response."""
        if self._response.headers_sent or (self._response.begun and self._response.passing):
            raise MalformedMessage("an ImmediateResponse came after the response had begun")
        self.outcome = Outcome.REFUSED_BY_PICKER
        self._out += (ToEnvoy(reply.raw), FinishPicker(), FinishEnvoy())
        self._close()

    def _request_progress(self) -> None:
        """Do what has become possible in the request phase."""
        lane = self._request
        if lane.headers_sent:
            if lane.complete:
                self._out.append(Disarm(Timer.PICK))
                self._response_progress(anew=True)
            elif lane.waits_for_trailers_only and self._picker_open:
                self._out.append(Disarm(Timer.PICK))
                self._owed_trailers(lane)
            return
        if self._header_reply is None:
            if lane.staged_bytes > self._bound:
                self._drop_picker(Reason.PICKER_PROTOCOL)
        elif not self._keys:
            if self._pick is None:
                # The pick may still come with a body answer, but not once the body is whole.
                if lane.staged_whole:
                    self._drop_picker(Reason.PICK_MISSING)
            elif not self._waiting_for_endpoint:
                self._judge(last=False)
        elif not lane.ended or lane.staged_whole or lane.staged_bytes > self._bound:
            self._commit()

    def _judge(self, *, last: bool) -> None:
        assert self._pick is not None
        assert self._headers is not None
        verdict: Verdict = judge(self._pick, self._snapshot, self._headers.subset)
        wait = self._settings.endpoint_wait
        if verdict.may_change and not last and wait > 0:
            if not self._waiting_for_endpoint:
                self._waiting_for_endpoint = True
                self._out += (Disarm(Timer.PICK), Arm(Timer.ENDPOINT, wait))
            return
        if self._waiting_for_endpoint or last:
            self._waiting_for_endpoint = False
            self._out.append(Disarm(Timer.ENDPOINT))
            self._arm_pick()
        if verdict.problem is not None:
            self._drop_picker(verdict.problem)
            return
        self._keys = verdict.keys
        if not self._picker_open:
            self._closed_after_pick()
        else:
            self._request_progress()

    def _commit(self) -> None:
        """Release the picker's answer to Envoy: from here on the request is under way."""
        self._send(self._request.answer_headers(self._steered()))
        self._arm_pick()
        self._request_progress()
        self._maybe_skip_response()

    def _steered(self) -> bytes:
        """The picker's header answer with the judged pick in it."""
        assert self._header_reply is not None
        assert self._headers is not None
        self.outcome = Outcome.STEERED
        self.endpoint = self._keys[0]
        return steer(self._header_reply, self._header_raw, self._keys, self._headers.stripped)

    def _maybe_skip_response(self) -> None:
        if (
            self._settings.response_mode is ResponseMode.SKIP
            and self._request.complete
            and self._picker_open
        ):
            self._picker_open = False
            self._out.append(FinishPicker())

    def _response_reply(self, reply: Reply) -> None:
        lane = self._response
        if reply.answer is Answer.RESPONSE_HEADERS:
            self._send(lane.answer_headers(reply.raw))
        elif reply.answer is Answer.RESPONSE_BODY:
            self._send(lane.answer_body(reply))
            if lane.staged_bytes > self._bound:
                raise MalformedMessage("body answers without a header answer")
        else:
            self.trailers_answered = True
            self._send(lane.answer_trailers(reply.raw))
        self._response_progress(anew=True)

    def _response_progress(self, *, anew: bool) -> None:
        """Keep the deadline of what the picker owes; `anew` when it has just answered something."""
        lane = self._response
        if lane.waits_for_trailers_only:
            self._owed_trailers(lane)
        elif lane.owes and not lane.passing:
            if anew or not self._response_armed:
                self._response_armed = True
                self._out.append(Arm(Timer.RESPONSE, self._settings.response_timeout))
        elif self._response_armed:
            self._response_armed = False
            self._out.append(Disarm(Timer.RESPONSE))

    def _owed_trailers(self, lane: Lane) -> None:
        if not self._trailers_expected:
            self._send(lane.take_over())
        elif not self._response_armed:
            self._response_armed = True
            self._out.append(Arm(Timer.RESPONSE, self._settings.response_timeout))

    # --- when the picker fails ---

    def _response_overdue(self) -> None:
        for lane in (self._request, self._response):
            if lane.waits_for_trailers_only:
                self.trailers_answered = False
                self._send(lane.take_over())
                return
        if self._response.owes and not self._response.passing:
            # It still gets copies of the response (usage data), but has no say any more.
            self.passthrough = Reason.PICKER_TIMEOUT
            self._ignore_picker = True
            self._send(self._response.take_over())

    def _drop_picker(self, reason: Reason) -> None:
        """The picker is of no use any more: end its stream and go on without it."""
        if self._picker_open:
            self._picker_open = False
            self._out.append(CancelPicker())
        self._without_picker(reason)

    def _closed_after_pick(self) -> None:
        """A clean close after a pick: the picker wants nothing more of the request or response."""
        if self._request.headers_sent:
            self._without_picker(Reason.PICKER_CLOSED, clean=True)
        elif self._waiting_for_endpoint:
            return
        elif not self._keys:
            self._judge(last=False)
        else:
            if not self._request.staged_whole:
                if self._request.lost:
                    self._without_picker(Reason.PICKER_CLOSED)
                    return
                self._request.discard_staged()
            self._out.append(Disarm(Timer.PICK))
            self._send(self._request.take_over(self._steered()))
            self._send(self._response.take_over())

    def _without_picker(self, reason: Reason, *, clean: bool = False) -> None:
        """The failure mode decides before the commitment; after it, the rest goes on unchanged."""
        self._out += (Disarm(Timer.PICK), Disarm(Timer.ENDPOINT))
        self._waiting_for_endpoint = False
        if not self._request.headers_sent:
            if self._failure_mode is FailureMode.FAIL_CLOSE:
                self._refuse(reason)
            elif self._request.lost:
                self._refuse(Reason.BODY_NOT_RETAINED)
            else:
                self._go_local(Outcome.FAILED_OPEN, reason)
            return
        if not self._request.can_take_over and not self._response.begun:
            self._refuse(Reason.BODY_NOT_RETAINED if self._request.lost else reason)
            return
        if not (clean or self._response.complete or self._response.passing):
            self.passthrough = reason
        self._send(self._request.take_over())
        self._send(self._response.take_over())

    def _go_local(self, outcome: Outcome, reason: Reason | None) -> None:
        """Send the original request to an endpoint of our own choice."""
        assert self._headers is not None
        self._request.discard_staged()
        # A pick that was judged good stands, though the rest of the picker's answer is missing.
        keys = self._keys or self._local_pick(self._snapshot, self._headers.subset)
        if not keys:
            self._refuse(Reason.NO_READY_ENDPOINT)
            return
        self.outcome, self.reason = outcome, reason
        self.endpoint = keys[0]
        self._send(self._request.take_over(destination_reply(keys, self._headers.stripped)))
        self._send(self._response.take_over())

    def _refuse(self, reason: Reason) -> None:
        self.outcome, self.reason = Outcome.REFUSED, reason
        self.endpoint = None
        if self._picker_open:
            self._out.append(CancelPicker())
        if not self._response.headers_sent:
            name = str(self._snapshot.pool.name)
            self._out.append(ToEnvoy(refusal(reason, name, grpc=self._is_grpc())))
        self._out.append(FinishEnvoy())
        self._close()

    def _is_grpc(self) -> bool:
        return bool(self._envoy_headers) and is_grpc(self._envoy_headers)

    # --- the end ---

    def _send(self, messages: list[bytes]) -> None:
        self._out += [ToEnvoy(message) for message in messages]

    def _close(self) -> None:
        self.closed = True
        self._picker_open = False
        self._out += [Disarm(timer) for timer in Timer]
        self._request.release()
        self._response.release()

    def _take(self) -> list[Action]:
        out, self._out = self._out, []
        return out
