"""Which modes are suggested: only what all requests so far speak for."""

import pytest

from epp_client.observe.advice import ENOUGH, advice
from epp_client.pool.settings import Modes, RequestMode, ResponseMode
from epp_client.relay.uses import Use

HEADERS = Modes(RequestMode.HEADERS)
OBSERVE = Modes(response=ResponseMode.OBSERVE)
SKIP = Modes(response=ResponseMode.SKIP)


@pytest.mark.parametrize(
    ("modes", "uses", "steered", "wanted"),
    [
        (Modes(), {}, 1000, []),
        (Modes(), {Use.IGNORED: ENOUGH}, ENOUGH, ["response-mode: skip"]),
        (OBSERVE, {Use.IGNORED: ENOUGH}, ENOUGH, ["response-mode: skip"]),
        (SKIP, {Use.IGNORED: ENOUGH}, ENOUGH, []),
        (Modes(), {Use.IGNORED: ENOUGH - 1}, 1000, []),
        (Modes(), {Use.IGNORED: 1000, Use.READ: 1}, 1001, []),
        (Modes(), {Use.IGNORED: 1000, Use.READ: ENOUGH}, 1100, ["response-mode: observe"]),
        (Modes(), {Use.READ: ENOUGH}, ENOUGH, ["response-mode: observe"]),
        (OBSERVE, {Use.READ: ENOUGH}, ENOUGH, []),
        (Modes(), {Use.READ: 1000, Use.CHANGED: 1}, 1001, []),
        (Modes(), {Use.BODY_UNWANTED: ENOUGH}, ENOUGH, ["request-mode: headers"]),
        (Modes(), {Use.BODY_UNWANTED: ENOUGH}, ENOUGH + 1, []),
        (Modes(), {Use.BODY_UNWANTED: ENOUGH - 1}, ENOUGH - 1, []),
        (HEADERS, {Use.BODY_UNWANTED: ENOUGH}, ENOUGH, []),
        (
            Modes(),
            {Use.BODY_UNWANTED: ENOUGH, Use.IGNORED: ENOUGH},
            ENOUGH,
            ["response-mode: skip", "request-mode: headers"],
        ),
    ],
)
def test_advice(modes: Modes, uses: dict[Use, int], steered: int, wanted: list[str]) -> None:
    found = advice(modes, uses, steered)
    assert [text.partition("epp-client.dev/")[2].partition(" would")[0] for text in found] == wanted
