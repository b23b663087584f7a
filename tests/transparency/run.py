"""Runs one case one way, and waits until everything about it is over."""

import asyncio

from epp_client.pool.settings import Modes, ResponseMode
from tests.transparency.client import ask
from tests.transparency.kinds import ANSWER, CASE
from tests.transparency.matrix import Case
from tests.transparency.outcome import Outcome, outcome_of
from tests.transparency.sites import Setting, Site

PATIENCE = 40.0
"""Seconds for the whole answer."""
_SETTLING = 30.0


async def both(site: Site, case: Case, patience_alone: float = PATIENCE) -> tuple[Outcome, Outcome]:
    """The outcomes without and with epp-client."""
    # Envoy alone has no `observe` and no `none`.
    response = ResponseMode.RELAY if case.modes.response.shown else ResponseMode.SKIP
    alone = Setting(case.protocol, case.mode, None, Modes(case.modes.request, response))
    with_us = Setting(case.protocol, case.mode, case.transport, case.modes)
    return await one(site, case, alone, patience_alone), await one(site, case, with_us)


async def one(
    site: Site, case: Case, setting: Setting, patience: float = PATIENCE, *, keep: bool = False
) -> Outcome:
    """The outcome one way; after `patience` seconds it is `silent`.

    With `keep` the picker's conversations stay, for who wants more of them.
    """
    name = str(case)
    address = await site.address(setting)
    extra = (
        (CASE, name),
        (ANSWER, case.answer),
        ("x-picker-dialect", case.dialect),
        ("test-epp-endpoint-selection", site.endpoints[1]),
        ("x-gateway-model-name-rewrite", "adapter-name"),
    )
    client = await ask(address, case.request_kind, extra, site.model.client_of(name), patience)
    conversations = site.picker.conversations
    async with asyncio.timeout(_SETTLING):
        for conversation in conversations:
            await conversation.ended.wait()
    outcome = outcome_of(
        client,
        site.model.seen.pop(name, []),
        [(c.asked, c.answered) for c in conversations],
        held_back=name in site.model.held_back,
    )
    site.model.begun.pop(name, None)
    site.model.held_back.discard(name)
    if not keep:
        conversations.clear()
    return outcome
