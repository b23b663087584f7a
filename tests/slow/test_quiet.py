"""The quiet profile sees what it is there for: an Envoy that dies of a long answer."""

from collections import Counter

import pytest

from chaos.quiet import quiet
from chaos.run import Tell, Told
from epp_client.settings import TransportName, UpstreamMode
from testbed.deaths import DEATHS

pytestmark = pytest.mark.timeout(400)

GRACEFUL_CLOSE = "envoy.reloadable_features.ext_proc_graceful_grpc_close"
"""With it Envoy 1.37 to 1.40 dies when a response ends 50 s or more after it began, in quiet."""


def shown(_: str) -> tuple[Told, Tell]:
    def progress(_: float, __: Counter[str]) -> None:
        pass

    return progress, print


@pytest.mark.parametrize("fatal", [True, False])
async def test_a_minute_of_quiet_tells_an_envoy_that_dies_of_it_from_one_that_does_not(
    fatal: bool,
) -> None:
    combination = (TransportName.NATIVE, UpstreamMode.OVERRIDE_HOST)
    [stack] = await quiet(65.0, [combination], {"": ""}, {GRACEFUL_CLOSE: fatal}, 1, shown)
    died = [death for death in stack.deaths if death.name == "envoy"]
    asked, idle = stack.gateways
    if fatal:
        assert "died of SIGSEGV, without being told to end" in str(died[0])
        assert died[0].pid == asked.envoy.process.pid
        assert str(died[0]) in stack.failures
    else:
        assert stack.failures == []
        assert Counter(line["outcome"] for line in asked.lines) == {"answered": len(asked.lines)}
        # one of each pool, at the end
        assert len(idle.lines) == 5
    # they are in the stack's report
    assert DEATHS == []
