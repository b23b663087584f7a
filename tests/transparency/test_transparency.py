"""While the picker is healthy, a request has the outcome that it has with Envoy and the picker alone."""

import json
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from epp_client.pool.inference_pool import AppProtocol
from epp_client.settings import TransportName, UpstreamMode
from testbed.conversation import Behaviour, as_go_writes
from testbed.dialects import DIALECTS
from tests.transparency.completions import check_completions
from tests.transparency.differences import DIFFERENCES, explained
from tests.transparency.matrix import ALONE_FAILS, Case, Failure, cases
from tests.transparency.outcome import shortened
from tests.transparency.page import COMMAND, PAGE, generated
from tests.transparency.run import PATIENCE, both
from tests.transparency.sites import Setting, Site, running_site

# A case may be the first to start its Envoys.
pytestmark = pytest.mark.timeout(180)
with_site = pytest.mark.asyncio(loop_scope="session")

CASES = cases()
ONLY_TRAILERS = "13.3: Envoy gets the empty body before trailers that had none, and refuses it"
used: set[str] = set()
ran: set[Case] = set()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site() -> AsyncIterator[Site]:
    # Some pickers never answer a response; those that do take milliseconds.
    async with running_site(response_timeout=4.0) as running:
        yield running


@with_site
@pytest.mark.parametrize("case", CASES, ids=str)
async def test_the_outcome_is_as_without_us(site: Site, case: Case) -> None:
    ran.add(case)
    alone, with_us = await both(site, case)
    assert alone["client.end"] in ("complete", "nothing"), "Envoy alone must serve every case"
    unexplained, why = explained(case, alone, with_us)
    used.update(why)
    assert unexplained == {}
    if case.request == "http-1.0":
        assert with_us["client.status"] == "426"


def test_every_difference_is_used() -> None:
    if ran != set(CASES):
        pytest.skip("only a part of the matrix was run")
    assert {entry.name for entry in DIFFERENCES} == used


@with_site
@pytest.mark.parametrize("transport", list(TransportName))
@pytest.mark.parametrize(
    "failure", ALONE_FAILS, ids=lambda failure: f"{failure.dialect}-{failure.answer}"
)
async def test_what_fails_with_envoy_alone_works_with_us(
    request: pytest.FixtureRequest, site: Site, failure: Failure, transport: TransportName
) -> None:
    mode = UpstreamMode.OVERRIDE_HOST
    case = Case(failure.dialect, failure.request, failure.answer, AppProtocol.H2C, mode, transport)
    if failure.answer == "only-trailers":
        request.applymarker(pytest.mark.xfail(strict=True, reason=ONLY_TRAILERS))
    silent = failure.outcome == "silent"
    alone, with_us = await both(site, case, patience_alone=2.0 if silent else PATIENCE)
    assert failure.outcome in (alone["client.end"], alone.get("client.status"))
    assert with_us["client.status"] == "200"
    assert with_us["client.end"] == "complete"
    wanted = b"".join(case.request_kind.body)
    if DIALECTS[failure.dialect](Behaviour()).encodes_json:
        wanted = as_go_writes({**json.loads(wanted), "model": "adapter-name"})
    assert with_us["model.body"] == shortened(wanted)


@with_site
@pytest.mark.parametrize("transport", list(TransportName))
async def test_a_hundred_streamed_completions_lose_nothing(transport: TransportName) -> None:
    setting = Setting(AppProtocol.HTTP, UpstreamMode.OVERRIDE_HOST, transport)
    async with running_site() as site:
        await check_completions(site, setting, "llm-d-0.10", renames=True, restores=True)


def test_the_page_of_the_docs_is_generated() -> None:
    assert PAGE.read_text() == generated(PAGE.read_text()), f"run `{COMMAND}`"
