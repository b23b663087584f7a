"""Unanswered body messages, against a plain list of their bytes."""

from hypothesis import given, settings
from hypothesis import strategies as st

from epp_client.ext_proc.messages import Phase, read_message
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.relay.originals import Originals
from epp_client.relay.retention import RetentionBudget

MANY = 500


def body(payload: bytes, *, end: bool = False) -> bytes:
    """A request-body message."""
    message = ProcessingRequest()
    message.request_body.body = payload
    message.request_body.end_of_stream = end
    return message.SerializeToString()


def test_a_long_body_whose_answers_are_one_message_behind() -> None:
    """What is answered is given back at once, and forgotten."""
    budget = RetentionBudget(1 << 20)
    originals = Originals(budget, 1 << 20)
    originals.keep(read_message(body(b"first")))
    last = b"first"
    for number in range(MANY):
        payload = b"%d" % number
        originals.keep(read_message(body(payload)))
        originals.consume(last, is_final=False)
        last = payload
        assert originals.count == 1
        assert budget.used == originals.retained == len(body(payload))
    assert originals.again() == [body(last)]
    assert originals.take() == (last, False, False)
    assert (originals.count, budget.used) == (0, 0)


@given(
    st.lists(st.binary(min_size=1, max_size=6), min_size=1, max_size=200),
    st.lists(st.integers(1, 9), max_size=400),
)
@settings(max_examples=80, deadline=None)
def test_answers_cut_elsewhere_leave_the_rest(pieces: list[bytes], cuts: list[int]) -> None:
    budget = RetentionBudget(1 << 20)
    originals = Originals(budget, 1 << 20)
    for piece in pieces:
        message = read_message(body(piece))
        assert message.phase is Phase.REQUEST_BODY
        originals.keep(message)
    whole = b"".join(pieces)
    at = 0
    for cut in cuts:
        answer = whole[at : at + cut]
        at += len(answer)
        if answer:
            originals.consume(answer, is_final=False)
    rest = b""
    while originals.count:
        rest += originals.take()[0]
    assert originals.intact
    assert rest == whole[at:]
    assert budget.used == originals.retained == 0
