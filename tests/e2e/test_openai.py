"""The `openai` package as the client: whole answers, and refusals in the shape that it knows."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from openai import AsyncOpenAI, InternalServerError, RateLimitError

from testbed.stack import Stack

pytestmark = pytest.mark.asyncio(loop_scope="session")


@pytest_asyncio.fixture(loop_scope="session", params=["open", "close", "h2c", "observe", "skip"])
async def openai(stack: Stack, request: pytest.FixtureRequest) -> AsyncIterator[AsyncOpenAI]:
    """A client of each pool that retries nothing by itself."""
    base = stack.pool_url(request.param) + "/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0, timeout=60) as session:
        yield session


async def chat(openai: AsyncOpenAI, dialect: str, **more: str) -> str:
    """The text of one answer that is not streamed."""
    answer = await openai.chat.completions.create(
        model="demo",
        messages=[{"role": "user", "content": "hi"}],
        max_tokens=12,
        extra_headers={"x-picker-dialect": dialect, **more},
    )
    return answer.choices[0].message.content or ""


@pytest.mark.parametrize("dialect", ["pick-after-body", "silent-response", "common-response"])
async def test_a_whole_answer(stack: Stack, openai: AsyncOpenAI, dialect: str) -> None:
    for wanted in stack.endpoints:
        steer = {"test-epp-endpoint-selection": wanted}
        assert await chat(openai, dialect, **steer) == f"Hello from {wanted}"


async def test_a_picker_that_sheds_load_is_a_rate_limit(openai: AsyncOpenAI) -> None:
    with pytest.raises(RateLimitError) as caught:
        await chat(openai, "refuse-429")
    assert "x-inference-error" not in caught.value.response.headers


@pytest.mark.parametrize("streamed", [False, True])
async def test_our_refusal_is_an_error_that_it_can_read(stack: Stack, streamed: bool) -> None:
    """Also where a stream was asked for: the refusal comes before the first event."""
    base = stack.pool_url("close") + "/v1"
    async with AsyncOpenAI(base_url=base, api_key="none", max_retries=0, timeout=60) as openai:
        with pytest.raises(InternalServerError) as caught:
            await openai.chat.completions.create(
                model="demo",
                messages=[{"role": "user", "content": "hi"}],
                stream=streamed,
                extra_headers={"x-picker-dialect": "pick-outside"},
            )
    refusal = caught.value
    assert refusal.status_code == 503
    assert refusal.type == "endpoint_picker_unavailable"
    assert refusal.response.headers["x-inference-error"] == "pick_outside_pool"
    assert "outside the InferencePool" in refusal.message
