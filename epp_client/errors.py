"""The closed sets of reasons, and the exceptions that the package raises on purpose.

A `Reason` is at once the metric label, the log field and the `x-inference-error` header that the client
reads. Foreign errors (gRPC statuses, socket errors, bad YAML) are translated into these once, where they
enter.
"""

from enum import StrEnum
from typing import Final


class Reason(StrEnum):
    """Why a request was refused or served without its picker.

    The docstring of a member is its text in docs/reference/reasons.md: what has happened. `ADVICE` says
    what to do.
    """

    # The pool, as this sidecar knows it.
    POOL_NOT_NAMED = "pool_not_named"
    """Envoy's route sets no `x-inference-pool`."""
    POOL_UNKNOWN = "pool_unknown"
    """The route names a pool that this sidecar does not know."""
    POOL_NOT_SYNCED = "pool_not_synced"
    """The pools have not been read yet."""
    NO_READY_ENDPOINT = "no_ready_endpoint"
    """No Pod of the pool is Ready."""
    SUBSET_EMPTY = "subset_empty"
    """No endpoint in the subset hint is in the pool."""

    # The picker, as a peer.
    PICKER_UNRESOLVED = "picker_unresolved"
    """The picker's Service is missing, is of type ExternalName or of another kind, lacks the port, or has
    no ready address."""
    PICKER_UNREACHABLE = "picker_unreachable"
    """No connection to the picker within `connect-timeout`."""
    PICKER_UNHEALTHY = "picker_unhealthy"
    """No replica of the picker can be asked: each is a standby, answers nothing, or fails its picks."""
    PICKER_TIMEOUT = "picker_timeout"
    """The picker made no pick within `pick-timeout`."""
    PICKER_ERROR = "picker_error"
    """The picker ended the stream with a gRPC error. Some pickers report "no endpoints" this way."""
    PICKER_CLOSED = "picker_closed"
    """The picker closed the stream before it made a pick."""
    PICKER_PROTOCOL = "picker_protocol"
    """The picker broke the ext_proc protocol, or answered more than `max-body-growth` allows (the log line
    then has a `hint`)."""

    # The pick, as a value.
    PICK_MISSING = "pick_missing"
    """The picker's answer names no endpoint."""
    PICK_MALFORMED = "pick_malformed"
    """The picker's answer names something that is not `ip:port`."""
    PICK_DISAGREES = "pick_disagrees"
    """The header and the metadata of the picker's answer name different endpoints."""
    PICK_OUTSIDE_POOL = "pick_outside_pool"
    """The picker named an endpoint that is not in the pool."""
    PICK_OUTSIDE_SUBSET = "pick_outside_subset"
    """The picker named an endpoint that the subset hint excludes."""

    # The chosen endpoints, as Envoy reports them.
    ENDPOINT_UNREACHABLE = "endpoint_unreachable"
    """No endpoint of the pick accepted a connection. No model server has seen the request."""
    ENDPOINT_BROKE_OFF = "endpoint_broke_off"
    """The endpoint closed or reset the connection before it answered, or its answer was not HTTP. It may
    have worked on the request."""
    ENDPOINT_TIMEOUT = "endpoint_timeout"
    """No answer within one of Envoy's timeouts."""

    # This sidecar and its Envoy.
    BODY_NOT_RETAINED = "body_not_retained"
    """The picker failed, and the request body was not retained: it was larger than `max-retained-body`, or
    `--max-retained-total` was used up."""
    OVERLOADED = "overloaded"
    """One worker has more than `--max-exchanges` requests, or the memory for bodies is used up
    (`epp_client_retained_bytes`)."""
    ENVOY_PROTOCOL = "envoy_protocol"
    """Envoy's ext_proc filter is not in full-duplex mode, or the peer is not Envoy."""


ADVICE: Final = {
    Reason.POOL_NOT_NAMED: "Generate the bootstrap with `epp-client envoy-config`.",
    Reason.POOL_UNKNOWN: "Create the pool, correct the route, or check `--namespace` and `--pool`.",
    Reason.POOL_NOT_SYNCED: (
        "Wait a few seconds. If it lasts, look at `/readyz`, the RBAC rules and the API server."
    ),
    Reason.NO_READY_ENDPOINT: "Look at the Pods that the pool's selector matches.",
    Reason.SUBSET_EMPTY: "Whoever sets `x-gateway-destination-endpoint-subset` has an old list.",
    Reason.PICKER_UNRESOLVED: "`/pools` and `epp-client check` say which.",
    Reason.PICKER_UNREACHABLE: "Check the NetworkPolicy, the port and the TLS mode of the pool.",
    Reason.PICKER_UNHEALTHY: (
        "`/pools` shows the state of each replica. Read the picker's log. The sidecar keeps "
        "checking it."
    ),
    Reason.PICKER_TIMEOUT: (
        "The picker is overloaded, or `pick-timeout` is shorter than its queue. The log line "
        "has a `hint`."
    ),
    Reason.PICKER_ERROR: "The log line has the gRPC status. Read the picker's log.",
    Reason.PICKER_CLOSED: (
        "The picker restarts, or the Service does not lead to an endpoint picker."
    ),
    Reason.PICKER_PROTOCOL: (
        "Ask it with `epp-client pick`. Check that the port is the ext_proc port."
    ),
    Reason.PICK_MISSING: "Check the picker's configuration.",
    Reason.PICK_MALFORMED: "The picker must name addresses, not host names.",
    Reason.PICK_DISAGREES: "This is a bug of the picker.",
    Reason.PICK_OUTSIDE_POOL: (
        "The picker watches other Pods (check its `--pool-name`), or its view is old. Compare "
        "with `/pools`."
    ),
    Reason.PICK_OUTSIDE_SUBSET: "The picker ignores the hint.",
    Reason.ENDPOINT_UNREACHABLE: "Look at the Pod that the access log names in `served`.",
    Reason.ENDPOINT_BROKE_OFF: "Read the log of the Pod that the access log names in `served`.",
    Reason.ENDPOINT_TIMEOUT: (
        "Look at the model server, or raise `envoy-config --request-timeout` or `--idle-timeout`."
    ),
    Reason.BODY_NOT_RETAINED: "Raise them, and the memory limit with them.",
    Reason.OVERLOADED: "Add workers or gateways.",
    Reason.ENVOY_PROTOCOL: "Generate the bootstrap with `epp-client envoy-config`.",
}
"""What to do about each reason, for a person."""

PICK_REASONS: Final = frozenset(reason for reason in Reason if reason.startswith("pick_"))
"""The sidecar refuses the pick, but the picker has answered, so it works."""

ENDPOINT_REASONS: Final = (
    Reason.ENDPOINT_UNREACHABLE,
    Reason.ENDPOINT_TIMEOUT,
    Reason.ENDPOINT_BROKE_OFF,
)
"""Reasons for which Envoy answers a request itself, instead of the endpoint."""


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
    """The Role lacks a right; the log names the verb and the resource."""
    UNAUTHORIZED = "unauthorized"
    """The token is not accepted."""
    UNREACHABLE = "unreachable"
    """No connection, no answer in time, a broken answer, or a server that is starting or stopping."""
    THROTTLED = "throttled"
    """The server asks for fewer calls."""
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


class AdminUnreachable(EppClientError):
    """The admin page of a sidecar does not answer, or not as expected. The text says what to do."""


class MalformedMessage(EppClientError):
    """Bytes that are not the expected protobuf message, or a message that the protocol forbids here."""


class EnvoyViolation(MalformedMessage):
    """Envoy broke the ext_proc protocol, by its bytes or by their order. The request is refused."""


class PickerViolation(MalformedMessage):
    """The picker broke the ext_proc protocol. The failure mode decides, or the lane is taken over."""


class PeerUnreachable(EppClientError):
    """No address of the picker could be connected to in time."""
