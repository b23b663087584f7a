"""What only a picker may say is taken out of what clients send."""

import pytest

from epp_client.ext_proc.pb.ext_proc_pb2 import ProcessingRequest
from epp_client.picker.preparation import prepare_request_headers
from epp_client.pool.parse import settings_from
from epp_client.pool.settings import STEERING_HEADERS, PoolSettings
from tests.relay.conversation import snapshot

LEGITIMATE = (
    "epp-profile",
    "x-gateway-inference-objective",
    "x-llm-d-inference-fairness-id",
    "x-llm-d-inference-objective",
    "x-llm-d-model-name-rewrite",
    "x-llm-d-slo-ttft-ms",
    "x-request-id",
    "x-session-id",
    "x-session-token",
    "x-slo-tpot-ms",
)
"""A client's input to the picker."""


def asked(*pairs: tuple[str, str]) -> bytes:
    """A request-headers message."""
    message = ProcessingRequest()
    for key, value in pairs:
        message.request_headers.headers.headers.add(key=key, raw_value=value.encode())
    return message.SerializeToString()


def names(raw: bytes) -> list[str]:
    """The names of a message's headers."""
    message = ProcessingRequest.FromString(raw)
    return [header.key for header in message.request_headers.headers.headers]


@pytest.mark.parametrize("name", [*STEERING_HEADERS, "x-gateway-destination-endpoint-scores"])
def test_a_steering_header_goes_to_nobody(name: str) -> None:
    raw = asked((name, "192.0.2.1:1"), ("x-kept", "yes"))
    prepared = prepare_request_headers(raw, snapshot())
    assert names(prepared.raw) == ["x-kept"]
    assert prepared.stripped == (name,)


@pytest.mark.parametrize("name", LEGITIMATE)
def test_a_client_s_input_to_the_picker_passes(name: str) -> None:
    raw = asked((name, "1"))
    prepared = prepare_request_headers(raw, snapshot())
    assert (prepared.raw, prepared.stripped) == (raw, ())


def test_a_value_that_looks_like_one_changes_nothing() -> None:
    raw = asked(("access-control-request-headers", "x-prefiller-host-port"))
    prepared = prepare_request_headers(raw, snapshot())
    assert (prepared.raw, prepared.stripped) == (raw, ())


def test_the_list_can_be_changed() -> None:
    pool = snapshot(strip_headers="x-mine, X-Other")
    raw = asked(("x-mine", "1"), ("x-other", "2"), ("x-prefiller-host-port", "3"))
    prepared = prepare_request_headers(raw, pool)
    assert names(prepared.raw) == ["x-prefiller-host-port"]
    assert prepared.stripped == ("x-mine", "x-other")


def test_an_empty_list_strips_the_destination_alone() -> None:
    raw = asked(("x-prefiller-host-port", "3"), ("x-gateway-destination-endpoint", "4"))
    prepared = prepare_request_headers(raw, snapshot(strip_headers=""))
    assert names(prepared.raw) == ["x-prefiller-host-port"]


def test_an_annotation_replaces_the_default() -> None:
    settings, faults = settings_from(
        {"epp-client.dev/strip-headers": "x-mine,x-yours"}, PoolSettings()
    )
    assert (settings.strip_headers, faults) == (("x-mine", "x-yours"), [])
    settings, faults = settings_from({"epp-client.dev/strip-headers": "x mine"}, PoolSettings())
    assert settings.strip_headers == STEERING_HEADERS
    assert "'x mine' is not a header name" in str(faults[0])
