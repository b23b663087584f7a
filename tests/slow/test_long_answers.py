"""Answers of a minute through the real Envoy, while nothing else happens: what busy suites never see.

An Envoy that ends its ext_proc streams gracefully (`ext_proc_graceful_grpc_close`) dies of SIGSEGV at
the end of such an answer. A server of ours that minds Envoy's keepalive pings cuts silent answers, and
the idle ADS stream, after 43 s.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import httpx
import pytest
from structlog.testing import capture_logs

from epp_client.settings import TransportName
from testbed.stack import Stack, running_stack

pytestmark = pytest.mark.timeout(180)

LONG = 54
"""Seconds from the beginning of the answer to its end; 50 and more killed Envoy."""
ANSWERS = {
    "chatty": {"stream": True, "max_tokens": LONG, "token_interval_ms": 1000},
    "silent": {"stream": True, "max_tokens": 1, "token_interval_ms": LONG * 1000},
}
POOLS = ("nopicker", "open", "close", "observe", "skip")


async def long_answer(client: httpx.AsyncClient, stack: Stack, pool: str, kind: str) -> bytes:
    url = f"{stack.pool_url(pool)}/v1/chat/completions"
    answer = await client.post(url, json=ANSWERS[kind])
    assert answer.status_code == 200, (pool, answer.text)
    return answer.content


async def long_answers(
    transport: TransportName, kinds: Sequence[str]
) -> Sequence[Mapping[str, Any]]:
    """One answer of each pool, all at once; the sidecar's log until Envoy was stopped."""
    async with (
        running_stack(transport=transport) as stack,
        httpx.AsyncClient(timeout=150) as client,
    ):
        with capture_logs() as logs:
            asked = [long_answer(client, stack, *which) for which in zip(POOLS, kinds, strict=True)]
            answers = await asyncio.gather(*asked, return_exceptions=True)
            for pool, answer in zip(POOLS, answers, strict=True):
                assert isinstance(answer, bytes), (pool, answer, stack.envoy.process.tail, logs)
                assert answer.endswith(b"data: [DONE]\n\n"), pool
            for pool in POOLS:
                assert (await client.get(f"{stack.pool_url(pool)}/health")).status_code == 200, pool
        assert await stack.envoy.process.stop() == 0, stack.envoy.process.tail
        return logs


@pytest.mark.parametrize("transport", TransportName)
async def test_envoy_outlives_a_long_answer_of_a_pool_that_nobody_else_asks(
    transport: TransportName,
) -> None:
    await long_answers(transport, ["silent", "chatty", "silent", "chatty", "silent"])


@pytest.mark.parametrize("transport", TransportName)
async def test_a_minute_of_silence_cuts_neither_a_response_nor_envoy_s_ads_stream(
    transport: TransportName,
) -> None:
    logs = await long_answers(transport, ["silent"] * len(POOLS))
    assert not [line for line in logs if "Envoy has" in line["event"]]
