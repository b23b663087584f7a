"""What a user may tune for one pool: deadlines, bounds, response handling, TLS to the picker.

The defaults come from the command line; annotations `epp-client.dev/<name>` on the InferencePool
override them one by one.
"""

import re
from enum import StrEnum
from functools import cached_property
from typing import Annotated, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from epp_client.pool.selector import Selector, parse_selector
from epp_client.tls_settings import ClientTls

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]

ANNOTATION_PREFIX = "epp-client.dev/"


STEERING_HEADERS: Final = (
    # llm-d's routing sidecar connects to what these name.
    "x-data-parallel-host-port",
    "x-encoder-hosts-ports",
    "x-kv-cache-source-host-port",
    "x-prefiller-host-port",
    "x-prefiller-url",
    # vLLM, SGLang and Dynamo choose a rank or a worker by these.
    "x-data-parallel-rank",
    "x-dp-rank",
    "x-dynamo-routing-mode",
    "x-dynamo-token-data",
    "x-prefill-dp-rank",
    "x-prefill-instance-id",
    "x-worker-instance-id",
)
"""Request headers that a picker says to the model servers, and a client must not.

Objectives, fairness ids, SLOs, sessions and `EPP-Profile` are a client's legitimate input to the picker."""

DESTINATION_PREFIX: Final = "x-gateway-destination-endpoint"
"""Begins the names of what the Endpoint Picker Protocol says; stripped from what clients send, always."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


def _header_names(value: object) -> object:
    """Lower-case names, of a list or of a text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        return value
    found = dict.fromkeys(lower for name in names if (lower := name.strip().lower()))
    for name in found:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of a header")
    return tuple(found)


def _selector(text: str) -> str:
    parse_selector(text)
    return text


class ResponseMode(StrEnum):
    """What the picker gets to do with responses."""

    RELAY = "relay"
    """The picker sees every response message and may change it."""
    OBSERVE = "observe"
    """Envoy is answered at once; the picker gets a copy."""
    SKIP = "skip"
    """The picker sees nothing of the response."""


class EvictionMode(StrEnum):
    """What a picker's ImmediateResponse amid a response does."""

    RESET = "reset"
    """The response is reset, so that the model server stops."""
    FINISH = "finish"
    """The response goes on to its end."""


class PoolSettings(BaseModel):
    """Settings of one pool. Times in seconds, sizes in bytes. The docstrings are the help of `serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    connect_timeout: Seconds = 1.0
    """Seconds for reaching a picker."""
    pick_timeout: Seconds = 300.0
    """Seconds from the end of the request to the pick, queueing included; a late answer is no answer. While
    the request is being sent: how long nothing of it moves."""
    response_timeout: Seconds = 10.0
    """Seconds in which nothing of the response moves while the picker owes an answer: to a chunk of an
    event stream, to a plain body at its end. After it the rest passes through."""
    max_retained_body: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    """Bytes of one request body kept for a replay; a larger one still flows, but cannot be replayed."""
    max_body_growth: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    """Bytes that a picker may answer beyond what Envoy has sent of a request and its response: Envoy keeps
    what the model server or the client does not take."""
    drain_grace: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """Seconds that an endpoint which stopped being ready stays a valid pick."""
    endpoint_wait: Annotated[float, Field(ge=0, le=10)] = 0.25
    """Seconds that a pick may wait for the table, or Envoy, to learn of its endpoint."""
    response_mode: ResponseMode = ResponseMode.RELAY
    """What pickers get to do with responses: change them, see copies, or nothing."""
    eviction: EvictionMode = EvictionMode.RESET
    """What a picker's ImmediateResponse amid a response does."""
    strip_headers: Annotated[tuple[str, ...], BeforeValidator(_header_names)] = STEERING_HEADERS
    """Request headers that are taken out of what clients send, with commas; empty: none. The destination
    headers always are."""
    local_pick_selector: Annotated[str, AfterValidator(_selector)] = "llm-d.ai/role!=prefill"
    """Labels of the Pods that may be picked without the picker: those that can answer alone."""
    tls: ClientTls = ClientTls()

    @cached_property
    def local_pick(self) -> Selector:
        """`local_pick_selector`, read."""
        return parse_selector(self.local_pick_selector)

    @cached_property
    def strip_pattern(self) -> re.Pattern[bytes]:
        """Finds the name of one of `strip_headers`, or of a destination header, in a message of Envoy's.
        Envoy has names in lower case.

        What all names begin with is looked for first: this costs no more than a search for one name.
        """
        names = map(re.escape, (DESTINATION_PREFIX, *self.strip_headers))
        return re.compile("|".join(names).encode())
