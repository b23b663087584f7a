"""Rewrites a picker's answers for Envoy: adds the judged destination, and removes everything else that
could change where the request goes. Pure."""

from collections.abc import MutableMapping, Sequence
from typing import Final, NamedTuple

from google.protobuf.struct_pb2 import Value

from epp_client.errors import LeftOut, PickerViolation
from epp_client.ext_proc.pb.ext_proc_pb2 import CommonResponse, HeaderMutation, ProcessingResponse
from epp_client.ext_proc.plain import plain_pick
from epp_client.ext_proc.replies import MARKS_NAMESPACE, OVERWRITE, mark_picker_said
from epp_client.picker.mutations import MAX_HEADER_BYTES, Omissions, Part, leave_out, sanitise
from epp_client.picker.pick import Pick, read_pick, texts
from epp_client.picker.protocol import DESTINATION, LB_NAMESPACE, SERVED, parse_reply

CONTINUE_AND_REPLACE: Final = 1
_DESTINATION_BYTES: Final = DESTINATION.encode()
_LB_BYTES: Final = LB_NAMESPACE.encode()


_NONE: Final = 0
"""ProcessingMode.BodySendMode."""


class Replacement(NamedTuple):
    """The body in a header answer with CONTINUE_AND_REPLACE. The picker does not answer the body again."""

    payload: bytes | None
    """The new body. None: the body does not change."""


class HeaderReply:
    """A picker's header answer. It is parsed only if it is not plain or has to be changed."""

    __slots__ = ("_reply", "_text", "body_unwanted", "pick", "raw", "replacement")

    def __init__(
        self, raw: bytes, original: bytes, omissions: Omissions, *, headers_only: bool
    ) -> None:
        """`original` is Envoy's message with the request headers. `headers_only`: the request has neither
        body nor trailers. `omissions` counts what is left out.

        Raises:
            PickerViolation: `raw` is not a ProcessingResponse, or has more headers than Envoy accepts.
        """
        self.raw = raw
        self._text = plain_pick(raw, _LB_BYTES, _DESTINATION_BYTES)
        self._reply: ProcessingResponse | None = None
        self.pick: Pick | None
        self.replacement: Replacement | None = None
        self.body_unwanted = False
        """Whether the picker asks for no body of the request. It is not heard, see `strip_control`."""
        if self._text is not None:
            self.pick = Pick(self._text)
            return
        self._reply = reply = parse_reply(raw)
        common = reply.request_headers.response
        sanitise(common.header_mutation, original, Part.REQUEST, omissions)
        self.replacement = take_replacement(common, omissions, headers_only=headers_only)
        self.body_unwanted = (
            reply.HasField("mode_override") and reply.mode_override.request_body_mode == _NONE
        )
        strip_control(reply)
        self.pick = read_pick(reply)

    def steered(self, keys: Sequence[str], stripped: Sequence[str]) -> bytes:
        """The answer with the judged destination in its header and metadata."""
        if self._text is not None and not stripped and self._text == ",".join(keys):
            return self.raw
        reply = parse_reply(self.raw) if self._reply is None else self._reply
        return steer(reply, keys, stripped)


def take_replacement(
    common: CommonResponse, omissions: Omissions, *, headers_only: bool
) -> Replacement | None:
    """Remove CONTINUE_AND_REPLACE from a header answer. Returns its replacement, or None if it has none.

    In full-duplex mode Envoy 1.40 replaces the body only if the picker sends no further answer about it. If
    the answer has no new body, Envoy empties the body. So the sidecar replaces the body itself. It leaves
    only a message without a body to Envoy, which can add one.
    """
    if common.status != CONTINUE_AND_REPLACE:
        return None
    mutation = common.body_mutation
    kind = mutation.WhichOneof("mutation")
    payload: bytes | None = None
    if kind == "body":
        payload = mutation.body
    elif kind == "clear_body" and mutation.clear_body:
        payload = b""
    if headers_only and payload is not None:
        return None
    common.status = 0
    common.ClearField("body_mutation")
    if payload is None:
        leave_out(omissions, LeftOut.REPLACEMENT, "CONTINUE_AND_REPLACE")
    return None if headers_only else Replacement(payload)


def strip_control(reply: ProcessingResponse) -> None:
    """Remove settings of the ext_proc stream. Envoy's stream belongs to the sidecar, not to the picker.

    With `override_message_timeout` Envoy would ignore the rest of the message.
    """
    reply.ClearField("mode_override")
    reply.ClearField("override_message_timeout")
    reply.ClearField("request_drain")


def response_headers_reply(
    raw: bytes, original: bytes, omissions: Omissions, limit: int, *, headers_only: bool
) -> tuple[bytes, Replacement | None]:
    """A picker's answer to response headers as it is sent to Envoy, and its new body if it has one. `limit`
    is the largest size of the headers that Envoy accepts, in bytes.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse.
    """
    reply = parse_reply(raw)
    common = reply.response_headers.response
    if not _fits(common.header_mutation, original, Part.RESPONSE, omissions, limit):
        common.ClearField("header_mutation")
    replacement = take_replacement(common, omissions, headers_only=headers_only)
    _strip_steering(reply)
    return reply.SerializeToString(), replacement


def trailers_reply(raw: bytes, original: bytes, omissions: Omissions) -> bytes:
    """A picker's answer to trailers as it is sent to Envoy.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse.
    """
    reply = parse_reply(raw)
    request = reply.HasField("request_trailers")
    trailers = reply.request_trailers if request else reply.response_trailers
    if not _fits(trailers.header_mutation, original, Part.TRAILERS, omissions):
        trailers.ClearField("header_mutation")
    _strip_steering(reply)
    return reply.SerializeToString()


def _fits(
    mutation: HeaderMutation,
    original: bytes,
    part: Part,
    omissions: Omissions,
    limit: int = MAX_HEADER_BYTES,
) -> bool:
    """Sanitise `mutation`. Returns whether Envoy would accept the result. A response, or a request that was
    released, is not refused because of it."""
    try:
        sanitise(mutation, original, part, omissions, limit)
    except PickerViolation as error:
        leave_out(omissions, LeftOut.HEADER_LIMIT, str(error))
        return False
    return True


def steer(reply: ProcessingResponse, keys: Sequence[str], stripped: Sequence[str]) -> bytes:
    """The picker's header answer with the judged destination in its header and metadata.

    A picker chooses endpoints, never routes: with `clear_route_cache` its other changes could choose a
    route to a cluster that does not belong to this pool.
    """
    text = ",".join(keys)
    fields = reply.dynamic_metadata.fields
    _strip_metadata(fields)
    response = reply.request_headers.response
    response.clear_route_cache = False
    metadata = fields[LB_NAMESPACE].struct_value.fields[DESTINATION]
    mutation = response.header_mutation
    named = [o for o in mutation.set_headers if o.header.key.lower() == DESTINATION]
    said = [metadata.string_value, *(value for option in named for value in texts(option))]
    if stripped or any(value != text for value in said):
        metadata.string_value = text
        for option in named:
            mutation.set_headers.remove(option)
        _set_destination(mutation, text, stripped)
    return reply.SerializeToString()


def _strip_metadata(fields: MutableMapping[str, Value]) -> None:
    """Remove what only Envoy or the sidecar may set: the served endpoint, and our marks."""
    # Reading a missing key from a map of messages would add the key.
    if MARKS_NAMESPACE in fields:
        del fields[MARKS_NAMESPACE]
    if LB_NAMESPACE in fields:
        fields[LB_NAMESPACE].struct_value.fields.pop(SERVED, None)


def body_reply(raw: bytes) -> tuple[Pick | None, bytes]:
    """The pick in a picker's answer to a body, and the answer as it is sent to Envoy, without the pick.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse.
    """
    reply = parse_reply(raw)
    pick = read_pick(reply)
    _strip_steering(reply)
    return pick, reply.SerializeToString()


def _strip_steering(reply: ProcessingResponse) -> None:
    """Remove everything that could change the destination. For all answers but those to request headers.

    Envoy applies the metadata of every answer, even after our answer has named the judged endpoints. A
    retry reads the metadata again.
    """
    strip_control(reply)
    fields = reply.dynamic_metadata.fields
    _strip_metadata(fields)
    if LB_NAMESPACE in fields:
        fields[LB_NAMESPACE].struct_value.fields.pop(DESTINATION, None)
    if reply.HasField("request_body"):
        reply.request_body.response.clear_route_cache = False
        mutation = reply.request_body.response.header_mutation
    elif reply.HasField("request_trailers"):
        mutation = reply.request_trailers.header_mutation
    else:
        return
    for option in [o for o in mutation.set_headers if o.header.key.lower() == DESTINATION]:
        mutation.set_headers.remove(option)


def destination_reply(keys: Sequence[str], stripped: Sequence[str], picker_said: str = "") -> bytes:
    """A header answer of our own that sends the request to `keys`. `picker_said` goes to the access log."""
    text = ",".join(keys)
    reply = ProcessingResponse()
    mark_picker_said(reply, picker_said)
    _set_destination(reply.request_headers.response.header_mutation, text, stripped)
    lb = reply.dynamic_metadata.fields[LB_NAMESPACE].struct_value
    lb.fields[DESTINATION].string_value = text
    return reply.SerializeToString()


def _set_destination(mutation: HeaderMutation, text: str, stripped: Sequence[str]) -> None:
    # Envoy removes headers before it sets any, so one mutation can replace the client's header with ours.
    mutation.remove_headers.extend(stripped)
    option = mutation.set_headers.add(append_action=OVERWRITE)
    option.header.key = DESTINATION
    option.header.raw_value = text.encode()
