"""The closed sets of reasons, and the exceptions that the package raises on purpose.

A `Reason` is at once the metric label, the log field and the `x-inference-error` header that the client
reads. Foreign errors (gRPC statuses, socket errors, bad YAML) are translated into these once, where they
enter.
"""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why a request was refused or served without its picker."""

    # The pool, as this sidecar knows it.
    POOL_NOT_NAMED = "pool_not_named"
    POOL_UNKNOWN = "pool_unknown"
    POOL_NOT_SYNCED = "pool_not_synced"
    NO_READY_ENDPOINT = "no_ready_endpoint"
    SUBSET_EMPTY = "subset_empty"

    # The picker, as a peer.
    PICKER_UNRESOLVED = "picker_unresolved"
    PICKER_UNREACHABLE = "picker_unreachable"
    PICKER_UNHEALTHY = "picker_unhealthy"
    PICKER_TIMEOUT = "picker_timeout"
    PICKER_ERROR = "picker_error"
    PICKER_CLOSED = "picker_closed"
    PICKER_PROTOCOL = "picker_protocol"

    # The pick, as a value.
    PICK_MISSING = "pick_missing"
    PICK_MALFORMED = "pick_malformed"
    PICK_DISAGREES = "pick_disagrees"
    PICK_OUTSIDE_POOL = "pick_outside_pool"
    PICK_OUTSIDE_SUBSET = "pick_outside_subset"

    # The chosen endpoints, as Envoy reports them.
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    ENDPOINT_BROKE_OFF = "endpoint_broke_off"
    ENDPOINT_TIMEOUT = "endpoint_timeout"

    # This sidecar and its Envoy.
    BODY_NOT_RETAINED = "body_not_retained"
    OVERLOADED = "overloaded"
    ENVOY_PROTOCOL = "envoy_protocol"


ENDPOINT_REASONS: Final = (
    Reason.ENDPOINT_UNREACHABLE,
    Reason.ENDPOINT_TIMEOUT,
    Reason.ENDPOINT_BROKE_OFF,
)
"""Reasons for which Envoy answers a request itself, in place of the endpoint."""


class LeftOut(StrEnum):
    """What the sidecar drops from a picker's answer, because it breaks HTTP or cannot be applied."""

    HEADER_NAME = "header_name"
    """An invalid header name, to be set or removed."""
    HEADER_VALUE = "header_value"
    """A header value with a control character, or an invalid `:path`."""
    PSEUDO_HEADER = "pseudo_header"
    """A pseudo-header that this message does not have, or that must not change."""
    CONNECTION_HEADER = "connection_header"
    """A header about the connection or the framing: `connection`, `upgrade`, `transfer-encoding` ..."""
    HEADER_LIMIT = "header_limit"
    """All changes of a response's headers or trailers, because they would exceed Envoy's limits."""
    STATUS = "status"
    """An invalid HTTP status."""
    REPLACEMENT = "replacement"
    """CONTINUE_AND_REPLACE without a new body: the original body stays."""


class EppClientError(Exception):
    """Base of every error that this package raises on purpose. Its text tells the user what to do."""


class ApiFault(StrEnum):
    """Why a call of the Kubernetes API failed."""

    GONE = "gone"
    """The resourceVersion or the continue token is too old: list again."""
    CONFLICT = "conflict"
    """Another client wrote first, or the object to create exists already."""
    NOT_FOUND = "not_found"
    """The object, or its kind, does not exist."""
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"
    """No connection, no answer in time, a broken answer, or a server that is starting or stopping."""
    THROTTLED = "throttled"
    OTHER = "other"
    """Any other failure, such as an object that the server rejects as invalid."""


class ManifestError(EppClientError):
    """An invalid manifest. The text is `FILE:LINE KIND NS/NAME PATH: what is wrong`."""


class ApiError(EppClientError):
    """A call of the Kubernetes API that failed. The text says which call, and what to do."""

    def __init__(
        self,
        fault: ApiFault,
        text: str,
        status: int | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text)
        self.fault = fault
        self.status = status
        """The HTTP status, when there was an answer."""
        self.retry_after = retry_after
        """Seconds that the server asked us to wait."""


class SettingsError(EppClientError):
    """An invalid setting. The text names the key."""


class MalformedMessage(EppClientError):
    """Bytes that are not the expected protobuf message, or a message that the protocol forbids here."""


class EnvoyViolation(MalformedMessage):
    """Envoy broke the ext_proc protocol, by its bytes or by their order. The request is refused."""


class PickerViolation(MalformedMessage):
    """The picker broke the ext_proc protocol. The failure mode decides, or the lane is taken over."""


class PeerUnreachable(EppClientError):
    """No address of the picker could be connected to in time."""
