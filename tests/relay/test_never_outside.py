"""Whatever a picker says, and however it spells it: Envoy is told of no address outside the pool."""

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE
from epp_client.pool.inference_pool import FailureMode
from epp_client.relay.actions import Arm, Disarm, Timer, ToEnvoy
from epp_client.relay.exchange import Exchange
from epp_client.relay.retention import RetentionBudget

from .conversation import A, B, C, body, snapshot, streamed, trailers

MEMBERS = {A, B, C}
ODD = st.sampled_from(
    [
        *("192.0.2.9:8000", "10.0.0.1:8001", "10.0.0.4:8000", "10.0.0.1", ":8000", "10.0.0.1:", ""),
        *(
            "[::ffff:10.0.0.1]:8000",
            "[::ffff:c000:209]:8000",
            "::ffff:10.0.0.1:8000",
            "[10.0.0.1]:8000",
        ),
        *("010.0.0.1:8000", "10.0.1:8000", "167772161:8000", "0x0a000001:8000", "10.0.0.1.:8000"),
        *("10.0.0.1:08000", "10.0.0.1:+8000", "10.0.0.1:8000\x00", "10.0.0.1:8000 192.0.2.9:80"),
        *(
            "user@10.0.0.1:8000",
            "http://10.0.0.1:8000",
            "10.0.0.1:8000/",
            "10.0.0.1:8000#192.0.2.9:80",
        ),
        *(
            "１0.0.0.1:8000",
            "localhost:8000",
            "169.254.169.254:80",
            "/run/x.sock",
            "10.0.0.1%eth0:8000",
        ),
        *(
            "10.0.0.1:73536",
            "10.0.0.1;8000",
            "10.0.0.1:8000;192.0.2.9:80",
            "10.0.0.1:8000\t,\t192.0.2.9:80",
        ),
    ]
)
ADDRESS = st.one_of(st.sampled_from(sorted(MEMBERS)), ODD, st.text(max_size=20))
TEXT = st.lists(ADDRESS, max_size=4).map(",".join)
NAME = st.sampled_from(
    [DESTINATION, DESTINATION.upper(), DESTINATION.title(), "x-other", DESTINATION + " "]
)


@st.composite
def replies(draw: st.DrawFn) -> bytes:
    """An answer to the request's headers or body, with destinations wherever there is room."""
    reply = ProcessingResponse()
    kind = draw(
        st.sampled_from(["request_headers", "request_headers", "request_body", "request_trailers"])
    )
    part = getattr(reply, kind)
    part.SetInParent()
    mutation = part.header_mutation if kind == "request_trailers" else part.response.header_mutation
    for name, text in draw(st.lists(st.tuples(NAME, TEXT), max_size=3)):
        option = mutation.set_headers.add()
        option.header.key = name
        if draw(st.booleans()):
            option.header.raw_value = text.encode("utf-8", "surrogatepass")
        else:
            option.header.value = text.replace("\ud800", "")
    for text in draw(st.lists(TEXT, max_size=2)):
        fields = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value.fields
        fields[DESTINATION].string_value = text
    if kind == "request_body":
        part.response.body_mutation.streamed_response.body = b"x"
    return reply.SerializeToString()


def addresses(raw: bytes) -> set[str]:
    """What Envoy may steer a request by: metadata until the response, and the header of a header answer
    (that of a later one comes after Envoy has gone on)."""
    reply = ProcessingResponse.FromString(raw)
    found: list[str] = []
    for option in reply.request_headers.response.header_mutation.set_headers:
        if option.header.key.lower() == DESTINATION:
            found.append(option.header.raw_value.decode() or option.header.value)
    lb = reply.dynamic_metadata.fields.get(LB_NAMESPACE)
    if lb is not None and DESTINATION in lb.struct_value.fields:
        found.append(lb.struct_value.fields[DESTINATION].string_value)
    return {address for text in found for address in text.split(",")}


@given(st.lists(replies(), max_size=6), st.sampled_from(list(FailureMode)), st.data())
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_envoy_is_told_of_members_only(
    said: list[bytes], mode: FailureMode, data: st.DataObject
) -> None:
    exchange = Exchange(
        snapshot(mode),
        local_pick=lambda *_: (B,),
        budget=RetentionBudget(1 << 20),
        trailers_expected=True,
    )
    headers = ProcessingRequest()
    for name in (DESTINATION, DESTINATION.title()):
        headers.request_headers.headers.headers.add(key=name, raw_value=b"192.0.2.9:8000")
    told: list[bytes] = []
    armed: set[Timer] = set()

    def do(actions: list[object]) -> None:
        for action in actions:
            match action:
                case ToEnvoy(message):
                    told.append(message)
                case Arm(timer, _):
                    armed.add(timer)
                case Disarm(timer):
                    armed.discard(timer)

    do([*exchange.from_envoy(headers.SerializeToString())])
    steps: list[bytes | Timer] = [
        *said,
        body(b"hello"),
        trailers(),
        streamed(b"x"),
        Timer.ENDPOINT,
        Timer.PICK,
    ]
    for step in data.draw(st.permutations(steps)) if data.draw(st.booleans()) else steps:
        if exchange.closed:
            break
        if isinstance(step, Timer):
            if step in armed:
                armed.discard(step)
                do([*exchange.timer_rang(step)])
        elif step in (body(b"hello"), trailers()):
            do([*exchange.from_envoy(step)])
        else:
            do([*exchange.from_picker(step)])
    for raw in told:
        assert addresses(raw) <= MEMBERS, ProcessingResponse.FromString(raw)
