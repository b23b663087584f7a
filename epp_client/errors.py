"""The closed set of things that go wrong, as everyone downstream sees them.

A `Reason` is at once the metric label, the log field and the `x-inference-error` header that the
client reads. Foreign errors (gRPC statuses, socket errors, bad YAML) are translated into this set
once, in the shell where they enter; nothing above a shell ever sees them.
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

    # The endpoints that were chosen, as Envoy found them.
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
"""Of Envoy's answers in the place of an endpoint."""


class LeftOut(StrEnum):
    """What was left out of an answer of a picker's, because it breaks HTTP or cannot be applied."""

    HEADER_NAME = "header_name"
    """A name that is none, to be set or removed."""
    HEADER_VALUE = "header_value"
    """A control character in a value, or a path that is none."""
    PSEUDO_HEADER = "pseudo_header"
    """One that does not exist here, or that nobody may change."""
    CONNECTION_HEADER = "connection_header"
    """A header about the connection or the framing: `connection`, `upgrade`, `transfer-encoding` ..."""
    HEADER_LIMIT = "header_limit"
    """All changes of a response's headers or trailers: there would be more than Envoy takes."""
    STATUS = "status"
    """An HTTP status that does not exist."""
    REPLACEMENT = "replacement"
    """CONTINUE_AND_REPLACE without a body to put in place: the body stays."""


class EppClientError(Exception):
    """Base of every error this package raises on purpose; its text tells the user what to do."""


class ApiFault(StrEnum):
    """Why a call of the Kubernetes API failed."""

    GONE = "gone"
    """The resourceVersion or the continue token is too old: list anew."""
    CONFLICT = "conflict"
    """Somebody else wrote first, or the object to be created exists."""
    NOT_FOUND = "not_found"
    """The object, or its kind, does not exist."""
    FORBIDDEN = "forbidden"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"
    """No connection, no answer in time, a broken answer, or a server that starts or ends."""
    THROTTLED = "throttled"
    OTHER = "other"
    """Anything else, such as an object that the server finds invalid."""


class ManifestError(EppClientError):
    """A manifest that cannot be used; the text is `FILE:LINE KIND NS/NAME PATH: what is wrong`."""


class ApiError(EppClientError):
    """A call of the Kubernetes API that failed; the text says what was asked and what to do."""

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
    """A setting that cannot be used; the text names the key."""


class MalformedMessage(EppClientError):
    """Bytes that are not the protobuf message they should be, or a message that cannot be here."""


class EnvoyViolation(MalformedMessage):
    """Envoy broke the ext_proc protocol, by its bytes or by their order: the request is refused."""


class PickerViolation(MalformedMessage):
    """The picker did: the failure mode decides, or the rest goes on without it."""


class PeerUnreachable(EppClientError):
    """No connection to any address of the picker could be made in time."""
