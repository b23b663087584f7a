"""The Endpoint Picker Protocol (GAIE proposal 004): its keys, and the parsing of whole messages. Pure.

Used by `preparation` (what the picker gets), `pick` (reading its answer), `steering` (what Envoy gets),
`mutations` and `immediate` (the picker's changes).
"""

from typing import Final

from google.protobuf.message import DecodeError

from epp_client.errors import EnvoyViolation, PickerViolation
from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest, ProcessingResponse

DESTINATION: Final = "x-gateway-destination-endpoint"
SERVED: Final = "x-gateway-destination-endpoint-served"
SUBSET: Final = "x-gateway-destination-endpoint-subset"
LB_NAMESPACE: Final = "envoy.lb"
SUBSET_NAMESPACE: Final = "envoy.lb.subset_hint"
UPSTREAM_ADDRESS: Final = "upstream.address"


def parse_request(raw: bytes) -> ProcessingRequest:
    """Parse a whole message of Envoy.

    Raises:
        EnvoyViolation: `raw` is not a ProcessingRequest.
    """
    try:
        return ProcessingRequest.FromString(raw)
    except DecodeError as error:
        raise EnvoyViolation(str(error)) from error


def parse_reply(raw: bytes) -> ProcessingResponse:
    """Parse a whole message of a picker.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse.
    """
    try:
        return ProcessingResponse.FromString(raw)
    except DecodeError as error:
        raise PickerViolation(str(error)) from error
