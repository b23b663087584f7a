"""Gateways that hide answers from the picker, or change what passes through."""

from typing import Any

from epp_client.envoy import gateway_actions
from epp_client.ext_proc.messages import Answer, Message, Phase, Reply, read_reply
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingResponse
from epp_client.ext_proc.replies import EMPTY
from epp_client.picker.protocol import parse_request
from epp_client.pool.inference_pool import AppProtocol
from epp_client.relay import response_phase
from epp_client.relay.lane import Lane
from epp_client.relay.originals import Originals
from epp_client.relay.phases import ExchangePhase
from epp_client.relay.state import State
from epp_client.relay.transitions import ON_MESSAGE, ON_REPLY
from epp_client.xds import ads
from testbed.steps import unchanged
from testbed.strict.mutants.registry import mutant, replace

_RELAYING = ExchangePhase.RELAYING
_CHUNK = 64 * 1024
_UNCHANGED = unchanged(response=True).SerializeToString()


@mutant(
    "response-not-asked",
    {"response-headers-seen": "mark is False", "response-body-seen": "no header of the picker"},
)
def response_not_asked() -> None:
    """The picker sees nothing of the response."""

    def skip(state: State, message: Message) -> None:
        state.response.take_over()
        response_phase.pass_response(state, message)

    ON_MESSAGE[Phase.RESPONSE_HEADERS][_RELAYING] = skip
    ON_MESSAGE[Phase.RESPONSE_BODY][_RELAYING] = response_phase.pass_response
    ON_MESSAGE[Phase.RESPONSE_TRAILERS][_RELAYING] = response_phase.pass_response


@mutant("response-changes-lost", {"response-body-seen": "the body is not the picker's"})
def response_changes_lost() -> None:
    """The response body is the model server's, whatever the picker made of it."""

    def keep(state: State, _: Reply) -> None:
        response_phase.response_reply(state, read_reply(_UNCHANGED))

    ON_REPLY[Answer.RESPONSE_BODY][_RELAYING] = keep


@mutant("served-untold", {"response-headers-seen": "missing envoy lb metadata"})
def served_untold() -> None:
    """The picker is not told which endpoint served."""

    def make(original: Any) -> Any:
        def read_served(raw: bytes) -> tuple[str | None, bytes]:
            served, told = original(raw)
            message = parse_request(told)
            message.ClearField("metadata_context")
            return served, message.SerializeToString()

        return read_served

    replace(response_phase, "read_served", make)


def _cut(original: Any) -> Any:
    def take(originals: Originals) -> tuple[bytes, bool, bool]:
        payload, ends, synthetic = original(originals)
        return payload[:_CHUNK], ends, synthetic

    return take


@mutant("bodies-cut", {"request-bodies": "others arrived", "response-bodies": "others arrived"})
def bodies_cut() -> None:
    """Chunks of bodies end after 64 KiB."""
    replace(Originals, "take", _cut)

    def make(original: Any) -> Any:
        return lambda lane, payload, is_final: original(lane, payload[:_CHUNK], is_final)

    replace(Lane, "_send_body", make)


@mutant("responses-buffered", {"streams": "buffered"})
def responses_buffered() -> None:
    """The chunks of a response are held back until its end."""
    relay, held = response_phase.relay_response, dict[int, list[Message]]()

    def hold(state: State, message: Message) -> None:
        waiting = held.setdefault(id(state), [])
        waiting.append(message)
        if message.end_of_stream:
            for one in held.pop(id(state)):
                relay(state, one)

    ON_MESSAGE[Phase.RESPONSE_BODY][_RELAYING] = hold


@mutant("protocol-ignored", {"h2c": "HTTP/1.1 instead of HTTP/2", "trailers": "UNAVAILABLE"})
def protocol_ignored() -> None:
    """Model servers are always asked with HTTP/1.1."""

    def make(original: Any) -> Any:
        return lambda pool, protocol, mode: original(pool, AppProtocol.HTTP, mode)

    replace(ads, "serialized_cluster", make)


@mutant("retries-with-trailers", {"request-trailers": "bytes were sent"})
def retries_with_trailers() -> None:
    """Envoy keeps the body of every request for retries, and sends it again before trailers."""
    replace(gateway_actions, "pool_routes", lambda f: lambda route, terms: f(route, terms)[-1:])


@mutant("trailers-lost", {"trailers": "UNKNOWN"})
def trailers_lost() -> None:
    """Trailers arrive without the status of a call."""
    reply = ProcessingResponse()
    removed = reply.response_trailers.header_mutation.remove_headers
    removed.extend(("grpc-status", "grpc-message"))
    lost = reply.SerializeToString()
    EMPTY[Answer.RESPONSE_TRAILERS] = lost

    def make(original: Any) -> Any:
        def answer_trailers(lane: Lane, raw: bytes) -> None:
            original(lane, lost if lane._headers_answer is Answer.RESPONSE_HEADERS else raw)

        return answer_trailers

    replace(Lane, "answer_trailers", make)
