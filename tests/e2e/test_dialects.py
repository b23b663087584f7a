"""Every dialect of the Endpoint Picker Protocol through the real Envoy, both failure modes."""

import hashlib
from collections.abc import AsyncIterator

import httpx
import pytest
from openai import AsyncOpenAI

from testbed.stack import Stack

from .tools import echo

pytestmark = pytest.mark.asyncio(loop_scope="session")

SIZES = {"empty": 0, "1 KB": 1000, "5 MB": 5_000_000}
WORKING = (
    "pick-after-body",
    "pick-with-headers",
    "body-before-headers",
    "common-response",
    "chunked",
    "header-only",
    "metadata-only",
    "close-after-pick",
    "ignore-trailers",
    "duplicate-replies",
    "die-mid-response",
)
BROKEN = {
    # grpcio reports INTERNAL for a clean close that meets a write of ours on its way.
    "close-before-pick": "picker_closed picker_error",
    "no-endpoints-status": "picker_error",
    "garbage-bytes": "picker_protocol",
    "wrong-order": "picker_protocol",
    "disagree": "pick_disagrees",
    "pick-hostname": "pick_malformed",
    "pick-no-port": "pick_malformed",
    "pick-empty": "pick_missing",
    "pick-none": "pick_missing",
    "pick-10000": "pick_malformed",
    "pick-unicode": "pick_malformed",
    "pick-outside": "pick_outside_pool",
    "silent": "picker_timeout",
}


def payload(size: int) -> bytes:
    return bytes(range(256)) * (size // 256) + b"x" * (size % 256)


async def steered(
    stack: Stack, client: httpx.AsyncClient, dialect: str, pool: str, size: int
) -> httpx.Response:
    """The answer of the endpoint that was asked for, which got the whole body."""
    body, wanted = payload(size), stack.endpoints[1]
    answer = await echo(
        client, stack, pool, body, x_picker_dialect=dialect, test_epp_endpoint_selection=wanted
    )
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-model-server"] == wanted
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    return answer


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("pool", ["open", "close", "h2c", "observe", "skip"])
@pytest.mark.parametrize("dialect", WORKING)
async def test_a_working_dialect_steers_with_the_body_whole(
    stack: Stack, client: httpx.AsyncClient, dialect: str, pool: str, size: int
) -> None:
    await steered(stack, client, dialect, pool, size)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
@pytest.mark.parametrize("dialect", BROKEN)
async def test_fail_open_loses_nothing(
    stack: Stack, client: httpx.AsyncClient, dialect: str, size: int
) -> None:
    body = payload(size)
    answer = await echo(client, stack, "open", body, x_picker_dialect=dialect)
    assert answer.status_code == 200
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()


@pytest.mark.parametrize(("dialect", "reason"), BROKEN.items(), ids=BROKEN.keys())
async def test_fail_close_refuses_with_the_reason(
    stack: Stack, client: httpx.AsyncClient, dialect: str, reason: str
) -> None:
    answer = await echo(client, stack, "close", b"hello", x_picker_dialect=dialect)
    assert answer.status_code == 503
    assert answer.headers["x-inference-error"] in reason.split()
    error = answer.json()["error"]
    assert error["code"] == answer.headers["x-inference-error"]
    assert error["type"] == "endpoint_picker_unavailable"


async def test_a_picker_that_dies_within_its_body_answer(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    body = payload(100_000)
    answer = await echo(client, stack, "open", body, x_picker_dialect="die-mid-body")
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    answer = await echo(client, stack, "close", body, x_picker_dialect="die-mid-body")
    assert answer.headers["x-inference-error"] == "picker_error"


@pytest.mark.parametrize("pool", ["open", "close"])
@pytest.mark.parametrize("status", [429, 503])
async def test_a_refusal_passes_through(
    stack: Stack, client: httpx.AsyncClient, status: int, pool: str
) -> None:
    answer = await echo(client, stack, pool, b"hello", x_picker_dialect=f"refuse-{status}")
    assert answer.status_code == status
    assert answer.text == "the picker refuses"


async def test_the_picker_may_rewrite_and_replace_the_body(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    body = b'{"model": "public-name"}'
    answer = await echo(client, stack, "close", body, x_picker_dialect="rewrite-body")
    rewritten = b'{"model": "adapter-name"}'
    assert answer.json()["sha256"] == hashlib.sha256(rewritten).hexdigest()
    answer = await echo(client, stack, "close", body, x_picker_dialect="replace-body")
    assert answer.json()["sha256"] == hashlib.sha256(b"other" * 9).hexdigest()


async def test_all_header_mutations_apply(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await echo(
        client, stack, "close", b"hello", x_picker_dialect="mutate", x_client_sent="no"
    )
    seen = answer.json()["headers"]
    assert seen["x-picker-added"] == "yes"
    assert "x-client-sent" not in seen


async def test_the_picker_may_rewrite_the_response(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await client.post(
        stack.pool_url("close") + "/v1/chat/completions",
        json={"model": "demo"},
        headers={"x-picker-dialect": "rewrite-response"},
    )
    assert answer.json()["choices"][0]["message"]["content"].startswith("Bonjour")


async def test_the_served_endpoint_is_told_to_the_picker(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    answer = await echo(client, stack, "close", b"hello")
    served = answer.headers["x-conformance-test-served-endpoint"]
    assert served == answer.headers["x-model-server"]


async def test_the_ordered_list_is_walked_to_a_host_that_is_up(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    body = payload(1_000_000)
    answer = await echo(
        client,
        stack,
        "close",
        body,
        x_picker_dialect="pick-list",
        x_picker_list=f"{stack.dead_endpoint},{stack.endpoints[2]}",
    )
    assert answer.headers["x-model-server"] == stack.endpoints[2]
    assert answer.json()["sha256"] == hashlib.sha256(body).hexdigest()
    assert answer.headers["x-conformance-test-served-endpoint"] == stack.endpoints[2]


async def test_clients_cannot_steer(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await echo(
        client,
        stack,
        "close",
        b"hello",
        x_gateway_destination_endpoint="192.0.2.1:1",
        x_gateway_destination_endpoint_served="192.0.2.1:1",
        test_epp_endpoint_selection=stack.endpoints[0],
    )
    assert answer.headers["x-model-server"] == stack.endpoints[0]
    seen = answer.json()["headers"]
    assert seen["x-gateway-destination-endpoint"] == stack.endpoints[0]
    assert "x-gateway-destination-endpoint-served" not in seen


@pytest.mark.parametrize("pool", ["open", "close", "h2c"])
async def test_chunked_uploads(stack: Stack, client: httpx.AsyncClient, pool: str) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for number in range(50):
            yield str(number).encode() * 1000

    digest = hashlib.sha256(b"".join([part async for part in chunks()])).hexdigest()
    answer = await client.post(stack.pool_url(pool) + "/echo", content=chunks())
    assert answer.json()["sha256"] == digest


@pytest.mark.parametrize("pool", ["open", "close", "h2c", "observe", "skip"])
@pytest.mark.parametrize("dialect", ["pick-after-body", "silent-response", "common-response"])
async def test_a_real_openai_client_streams(stack: Stack, dialect: str, pool: str) -> None:
    async with AsyncOpenAI(
        base_url=stack.pool_url(pool) + "/v1",
        api_key="none",
        max_retries=0,
        default_headers={"x-picker-dialect": dialect},
    ) as openai:
        stream = await openai.chat.completions.create(
            model="demo",
            messages=[{"role": "user", "content": "hi"}],
            stream=True,
            max_tokens=12,
        )
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "".join(f"token{n} " for n in range(12))


async def test_a_pool_without_a_picker_is_served_locally(
    stack: Stack, client: httpx.AsyncClient
) -> None:
    answer = await echo(client, stack, "nopicker", b"hello")
    assert answer.status_code == 200


async def test_an_unresolved_picker_is_said_to_be(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await echo(client, stack, "lost", b"hello")
    assert answer.headers["x-inference-error"] == "picker_unresolved"


async def test_get_requests_are_picked_for_too(stack: Stack, client: httpx.AsyncClient) -> None:
    answer = await client.get(
        stack.pool_url("close") + "/v1/models",
        headers={"test-epp-endpoint-selection": stack.endpoints[2]},
    )
    assert answer.headers["x-model-server"] == stack.endpoints[2]
