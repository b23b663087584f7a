"""Which modes would save a pool messages that its picker makes nothing of. Pure.

Only a suggestion: a mode is the user's decision, as a picker may change its mind.
"""

from collections.abc import Mapping
from typing import Final

from epp_client.pool.settings import ANNOTATION_PREFIX, Modes, RequestMode, ResponseMode
from epp_client.relay.uses import Use

ENOUGH: Final = 100
"""Requests that must have been seen."""


def advice(modes: Modes, uses: Mapping[Use, int], steered: int) -> list[str]:
    """What to set, one sentence each. `uses` and `steered` count requests since the start."""
    found = []
    ignored, read = uses.get(Use.IGNORED, 0), uses.get(Use.READ, 0)
    answered = ignored + read + uses.get(Use.CHANGED, 0)
    if modes.response.shown and answered >= ENOUGH and ignored == answered:
        found.append(
            f"the picker has ended its stream with each of {ignored:,} picks:"
            f" {ANNOTATION_PREFIX}response-mode: skip would save it and Envoy the response"
        )
    elif modes.response is ResponseMode.RELAY and read >= ENOUGH and ignored + read == answered:
        found.append(
            f"the picker has changed none of {answered:,} responses:"
            f" {ANNOTATION_PREFIX}response-mode: observe would not wait for it"
        )
    unwanted = uses.get(Use.BODY_UNWANTED, 0)
    if modes.request is RequestMode.RELAY and steered >= ENOUGH and unwanted == steered:
        found.append(
            f"the picker has asked for no body with each of {unwanted:,} picks (mode_override):"
            f" {ANNOTATION_PREFIX}request-mode: headers would not send it any"
        )
    return found
