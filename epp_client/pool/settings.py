"""Settings of one pool: deadlines, limits, response handling, TLS to the picker.

The defaults come from the command line; annotations `epp-client.dev/<name>` on the InferencePool
override them one by one.
"""

import re
from enum import StrEnum
from functools import cache, cached_property
from typing import Annotated, Final, NamedTuple

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from epp_client.pool.request_settings import RequestSettings
from epp_client.pool.selector import Selector, parse_selector
from epp_client.tls_settings import ClientTls

Seconds = Annotated[float, Field(gt=0, le=3600, allow_inf_nan=False)]

ANNOTATION_PREFIX = "epp-client.dev/"


STEERING_HEADERS: Final = (
    # llm-d's routing sidecar connects to the addresses in these.
    "x-data-parallel-host-port",
    "x-encoder-hosts-ports",
    "x-kv-cache-source-host-port",
    "x-prefiller-host-port",
    "x-prefiller-url",
    # vLLM, SGLang and Dynamo choose a rank or worker by these.
    "x-data-parallel-rank",
    "x-dp-rank",
    "x-dynamo-routing-mode",
    "x-dynamo-token-data",
    "x-prefill-dp-rank",
    "x-prefill-instance-id",
    "x-worker-instance-id",
)
"""Request headers from pickers to model servers, which clients must not send. Objectives, fairness ids,
SLOs, sessions and `EPP-Profile` are not in it: clients send them to the picker."""

DESTINATION_PREFIX: Final = "x-gateway-destination-endpoint"
"""Prefix of the headers of the Endpoint Picker Protocol, always removed from clients' requests."""

_HEADER_NAME: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")


def _header_names(value: object) -> object:
    """Lower-case names of a list, or of a text with commas."""
    names = value.split(",") if isinstance(value, str) else value
    if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
        return value
    found = dict.fromkeys(lower for name in names if (lower := name.strip().lower()))
    for name in found:
        if not _HEADER_NAME.fullmatch(name):
            raise ValueError(f"{name!r} is not a header name")
    return tuple(found)


@cache
def _usual_tls() -> ClientTls:
    return ClientTls()


def _selector(text: str) -> str:
    parse_selector(text)
    return text


class RequestMode(StrEnum):
    """What the picker gets of requests."""

    RELAY = "relay"
    """The picker sees every request message and may change it."""
    HEADERS = "headers"
    """The picker gets the headers alone, and picks by them."""


class ResponseMode(StrEnum):
    """What the picker may do with responses."""

    RELAY = "relay"
    """The picker sees every response message and may change it."""
    OBSERVE = "observe"
    """Envoy is answered at once, and the picker gets a copy."""
    SKIP = "skip"
    """The picker does not see the response. The sidecar gets its headers alone: they say which endpoint
    served, and whether it failed."""
    NONE = "none"
    """The sidecar does not see the response either."""

    @property
    def shown(self) -> bool:
        """Whether the picker sees the response."""
        return self is ResponseMode.RELAY or self is ResponseMode.OBSERVE


class Modes(NamedTuple):
    """What the picker of a pool gets."""

    request: RequestMode = RequestMode.RELAY
    response: ResponseMode = ResponseMode.RELAY

    @property
    def whole(self) -> bool:
        """Whether Envoy has to send everything."""
        return self.request is RequestMode.RELAY and self.response.shown


class EvictionMode(StrEnum):
    """What happens if a picker sends an ImmediateResponse during a response."""

    RESET = "reset"
    """The response is reset, so that the model server stops."""
    FINISH = "finish"
    """The response continues to its end."""


class PoolSettings(BaseModel):
    """Settings of one pool. Times are in seconds, sizes in bytes. The docstrings are the help of
    `serve`."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    connect_timeout: Seconds = 1.0
    """Seconds to connect to a picker."""
    pick_timeout: Seconds = 300.0
    """Seconds from the end of the request to the pick, including queueing in the picker; a later answer is
    ignored. Also the longest time without progress while the request is still being sent."""
    response_timeout: Seconds = 10.0
    """Seconds without progress of the response while the picker owes an answer to it (to a chunk of an
    event stream, or at the end of another body). After that the response passes without the picker."""
    max_retained_body: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    """Bytes of one request body retained for a replay. A larger body is relayed but cannot be replayed."""
    max_body_growth: Annotated[int, Field(ge=0)] = 16 * 1024 * 1024
    """Bytes that a picker may add to a request and its response. Envoy buffers what the model server or the
    client does not read."""
    drain_grace: Annotated[float, Field(ge=0, le=3600)] = 5.0
    """Seconds that an endpoint stays a valid pick after it stopped being ready."""
    endpoint_wait: Annotated[float, Field(ge=0, le=10)] = 0.25
    """Seconds that a pick waits for its endpoint to appear in the table and in Envoy."""
    request_mode: RequestMode = RequestMode.RELAY
    """What pickers get of requests: `relay` (they may change them), `headers` (the headers alone, without
    the model's name in the body)."""
    response_mode: ResponseMode = ResponseMode.RELAY
    """What pickers get of responses: `relay` (they may change them), `observe` (they get copies), `skip`
    (nothing), `none` (nothing, and the sidecar does not learn which endpoint served, or failed)."""
    eviction: EvictionMode = EvictionMode.RESET
    """What happens when a picker evicts a request during its response: `reset` the response, or `finish`
    it."""
    strip_headers: Annotated[tuple[str, ...], BeforeValidator(_header_names)] = STEERING_HEADERS
    """Headers removed from clients' requests, separated by commas; empty: none. The destination headers are
    always removed."""
    local_pick_selector: Annotated[str, AfterValidator(_selector)] = "llm-d.ai/role!=prefill"
    """Label selector of the Pods that a local pick may choose: those that can answer a request alone."""
    tls: ClientTls = Field(default_factory=_usual_tls)

    @property
    def modes(self) -> Modes:
        """What the picker gets."""
        return Modes(self.request_mode, self.response_mode)

    @cached_property
    def local_pick(self) -> Selector:
        """`local_pick_selector`, parsed."""
        return parse_selector(self.local_pick_selector)

    @cached_property
    def of_requests(self) -> RequestSettings:
        """Those that each request reads."""
        # `re` searches for the common prefix first, so this is as fast as a search for one name.
        names = map(re.escape, (DESTINATION_PREFIX, *self.strip_headers))
        return RequestSettings(
            pick_timeout=self.pick_timeout,
            response_timeout=self.response_timeout,
            endpoint_wait=self.endpoint_wait,
            max_retained_body=self.max_retained_body,
            max_body_growth=self.max_body_growth,
            response_shown=self.response_mode.shown,
            response_changed=self.response_mode is ResponseMode.RELAY,
            stripped=re.compile("|".join(names).encode()),
        )
