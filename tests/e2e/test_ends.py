"""How Envoy ends its ext_proc streams: it resets them once all is answered. To nobody is that a failure."""

import asyncio

import httpx
import pytest

from epp_client.settings import TransportName
from testbed.stack import Stack, inference_pool, running_stack

from .tools import add_objects, echo, metrics, record_of, recording_picker, settled, until, value

pytestmark = pytest.mark.asyncio(loop_scope="session")
MODES = ("relay", "observe", "skip")
SIZES = {"nothing": 0, "a byte": 1, "many messages": 300_000}


async def cancelled(client: httpx.AsyncClient, stack: Stack) -> float:
    return value(await metrics(client, stack), "epp_client_requests", outcome="cancelled")


async def test_a_stream_that_ends_after_its_last_answer_is_a_normal_end_for_all(
    transport: TransportName, client: httpx.AsyncClient
) -> None:
    pools = [f"ends-{mode}" for mode in MODES]
    async with running_stack(transport=transport, routes_to=pools) as stack:
        port = int(stack.endpoints[0].rpartition(":")[2])
        async with recording_picker("picker-ends", list(stack.endpoints)) as (objects, records):
            for mode, name in zip(MODES, pools, strict=True):
                annotations = {"epp-client.dev/response-mode": mode}
                objects.append(
                    inference_pool(name, port, "picker-ends", "FailClose", annotations=annotations)
                )
            add_objects(stack, objects)
            for name in pools:
                await until(client, stack, name, lambda answer: answer.status_code == 200)
            await settled(stack)
            before = await cancelled(client, stack)
            asked = [
                (name, size, f"{name} {kind}") for name in pools for kind, size in SIZES.items()
            ]
            answers = await asyncio.gather(
                *(echo(client, stack, name, bytes(size), x_mark=mark) for name, size, mark in asked)
            )
            assert {answer.status_code for answer in answers} == {200}
            await settled(stack)
            assert await cancelled(client, stack) == before
            for _, _, mark in asked:
                assert (await record_of(records, mark)).finished, mark
