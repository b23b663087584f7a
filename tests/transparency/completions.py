"""Streamed chat completions through a picker, many at once: none loses anything, the picker sees all."""

import asyncio
from dataclasses import replace

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

from tests.transparency.client import ask
from tests.transparency.kinds import ANSWER, ANSWERS, CASE, REQUESTS
from tests.transparency.picker import Conversation
from tests.transparency.sites import Address, Setting, Site

STREAMED = 100
AT_ONCE = 10
PATIENCE = 30.0
# GAIE's EPP 1.5.0 takes a path with a query for another API, and refuses the body: 400.
_REQUEST = replace(REQUESTS["1-kb"], path="/v1/chat/completions")
_SENT = b"".join(ANSWERS["sse"].body)


async def check_completions(
    site: Site,
    setting: Setting,
    dialect: str,
    *,
    renames: bool,
    restores: bool,
    chooses: bool = False,
) -> None:
    """Send STREAMED of them and check each end of each.

    `renames`: the picker gives the model the name that a header asks for. `restores`: it gives the response
    the public name. `chooses`: it scores the endpoints, and takes no header's word.

    Raises:
        AssertionError: something is lost, or went past the picker.
    """
    address = await site.address(setting)
    turn = asyncio.Semaphore(AT_ONCE)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_complete(site, address, dialect, turn, number))
            for number in range(STREAMED)
        ]
    bodies = [task.result() for task in tasks]
    wanted = _SENT.replace(b"adapter-name", b"public-name") if restores else _SENT
    assert set(bodies) == {wanted}
    name = b'"adapter-name"' if renames else b'"public-name"'
    for number in range(STREAMED):
        (request,) = site.model.seen.pop(str(number))
        chosen = dict(request.headers)["x-gateway-destination-endpoint"]
        assert name in request.body
        if chooses:
            assert chosen in site.endpoints
        else:
            assert chosen == site.endpoints[number % 2]
    assert len(site.picker.conversations) == STREAMED
    for conversation in site.picker.conversations:
        await _check_seen(conversation)
    assert await _counted(site, setting) == {"steered": STREAMED}


async def _complete(
    site: Site, address: Address, dialect: str, turn: asyncio.Semaphore, number: int
) -> bytes:
    extra = (
        (CASE, str(number)),
        (ANSWER, "sse"),
        ("x-picker-dialect", dialect),
        ("test-epp-endpoint-selection", site.endpoints[number % 2]),
        ("x-gateway-model-name-rewrite", "adapter-name"),
    )
    began = site.model.client_of(str(number))
    async with turn:
        client = await ask(address, _REQUEST, extra, began, PATIENCE)
    assert client is not None
    assert (client.end, client.start["status"]) == ("complete", "200"), client
    return bytes(client.body)


async def _check_seen(conversation: Conversation) -> None:
    async with asyncio.timeout(PATIENCE):
        await conversation.ended.wait()
    parts = [message.response_body for message in conversation.asked]
    assert b"".join(part.body for part in parts) == _SENT
    assert [part.end_of_stream for part in parts].count(True) == 1


async def _counted(site: Site, setting: Setting) -> dict[str, float]:
    """What became of the requests and of the responses that passed the picker by, without zeros."""
    url = f"http://{site.sidecars[setting].admin_address}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        families = {f.name: f for f in text_string_to_metric_families(await answer.text())}
    counted: dict[str, float] = {}
    for name in ("epp_client_requests", "epp_client_response_passthrough"):
        for sample in families[name].samples:
            if sample.value and sample.name.endswith("_total"):
                what = sample.labels.get(
                    "outcome", f"past the picker: {sample.labels.get('reason')}"
                )
                counted[what] = counted.get(what, 0) + sample.value
    return counted
