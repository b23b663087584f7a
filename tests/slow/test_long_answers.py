"""Answers of a minute through the real Envoy, while nothing else happens: what busy suites never see.

An Envoy that ends its ext_proc streams gracefully (`ext_proc_graceful_grpc_close`) dies of SIGSEGV at
the end of such an answer.
"""

import asyncio

import httpx
import pytest

from epp_client.demo.stack import Stack, running_stack
from epp_client.settings import TransportName

pytestmark = pytest.mark.timeout(180)

LONG = 54
"""Seconds from the beginning of the answer to its end; 50 and more killed Envoy."""
ANSWERS = {
    "chatty": {"stream": True, "max_tokens": LONG, "token_interval_ms": 1000},
    "silent": {"stream": True, "max_tokens": 2, "token_interval_ms": LONG * 500},
}
POOLS = {
    "nopicker": "silent",
    "open": "chatty",
    "close": "silent",
    "observe": "chatty",
    "skip": "silent",
}


async def long_answer(client: httpx.AsyncClient, stack: Stack, pool: str, kind: str) -> bytes:
    url = f"{stack.pool_url(pool)}/v1/chat/completions"
    answer = await client.post(url, json=ANSWERS[kind])
    assert answer.status_code == 200, (pool, answer.text)
    return answer.content


@pytest.mark.parametrize("transport", TransportName)
async def test_envoy_outlives_a_long_answer_of_a_pool_that_nobody_else_asks(
    transport: TransportName,
) -> None:
    async with (
        running_stack(transport=transport) as stack,
        httpx.AsyncClient(timeout=150) as client,
    ):
        asked = [long_answer(client, stack, pool, kind) for pool, kind in POOLS.items()]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        for pool, answer in zip(POOLS, answers, strict=True):
            assert isinstance(answer, bytes), (pool, answer, stack.envoy.process.tail)
            assert answer.endswith(b"data: [DONE]\n\n"), pool
        for pool in POOLS:
            assert (await client.get(f"{stack.pool_url(pool)}/health")).status_code == 200, pool
        assert await stack.envoy.process.stop() == 0, stack.envoy.process.tail
