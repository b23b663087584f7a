"""The Endpoint Picker Protocol (GAIE proposal 004): its keys, and reading whole messages. Pure.

What is done with them: `preparation` (what the picker gets), `pick` (what it says), `steering` (what Envoy
gets of it), `mutations` and `immediate` (what of its changes can be made).
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
    """Parse a message of Envoy's whole.

    Raises:
        EnvoyViolation: `raw` is not a ProcessingRequest.
    """
    try:
        return ProcessingRequest.FromString(raw)
    except DecodeError as error:
        raise EnvoyViolation(str(error)) from error


def parse_reply(raw: bytes) -> ProcessingResponse:
    """Parse a picker's message whole.

    Raises:
        PickerViolation: `raw` is not a ProcessingResponse.
    """
    try:
        return ProcessingResponse.FromString(raw)
    except DecodeError as error:
        raise PickerViolation(str(error)) from error
