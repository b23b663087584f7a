"""While the picker is healthy, a request has the outcome that it has with Envoy and the picker alone."""

import json
from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from epp_client.demo.dialects import DIALECTS, Behaviour, as_go_writes
from epp_client.pool.inference_pool import AppProtocol
from epp_client.settings import TransportName, UpstreamMode
from tests.transparency.differences import DIFFERENCES
from tests.transparency.faults import ONLY_TRAILERS, fault_of
from tests.transparency.matrix import ALONE_FAILS, Case, Failure, cases
from tests.transparency.outcome import differing, shortened
from tests.transparency.page import COMMAND, PAGE, generated
from tests.transparency.run import both
from tests.transparency.sites import Site, running_site

with_site = pytest.mark.asyncio(loop_scope="session")

CASES = cases()
used: set[str] = set()
ran: set[Case] = set()


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def site() -> AsyncIterator[Site]:
    async with running_site() as running:
        yield running


def _parameters() -> Sequence[object]:
    made = []
    for case in CASES:
        fault = fault_of(case)
        reason = fault and f"{fault.item}: {fault.what}"
        marks = [pytest.mark.xfail(strict=True, reason=reason)] if reason else []
        made.append(pytest.param(case, id=str(case), marks=marks))
    return made


@with_site
@pytest.mark.parametrize("case", _parameters())
async def test_the_outcome_is_as_without_us(site: Site, case: Case) -> None:
    ran.add(case)
    alone, with_us = await both(site, case)
    assert alone["client.end"] in ("complete", "nothing"), "Envoy alone must serve every case"
    unexplained = {}
    for field, values in differing(alone, with_us).items():
        why = [entry.name for entry in DIFFERENCES if entry.explains(case, field)]
        used.update(why)
        if not why:
            unexplained[field] = values
    assert unexplained == {}


def test_every_difference_is_used() -> None:
    if ran != set(CASES):
        pytest.skip("only a part of the matrix was run")
    assert {entry.name for entry in DIFFERENCES} == used


def _failures() -> Sequence[object]:
    made = []
    for failure in ALONE_FAILS:
        broken = failure.answer == "only-trailers"
        marks = [pytest.mark.xfail(strict=True, reason=ONLY_TRAILERS)] if broken else []
        made.append(pytest.param(failure, id=f"{failure.dialect}-{failure.answer}", marks=marks))
    return made


@with_site
@pytest.mark.parametrize("transport", list(TransportName))
@pytest.mark.parametrize("failure", _failures())
async def test_what_fails_with_envoy_alone_works_with_us(
    site: Site, failure: Failure, transport: TransportName
) -> None:
    mode = UpstreamMode.OVERRIDE_HOST
    case = Case(failure.dialect, failure.request, failure.answer, AppProtocol.H2C, mode, transport)
    alone, with_us = await both(site, case, patience_alone=2.0)
    assert failure.outcome in (alone["client.end"], alone.get("client.status"))
    assert with_us["client.status"] == "200"
    assert with_us["client.end"] == "complete"
    wanted = b"".join(case.request_kind.body)
    if DIALECTS[failure.dialect](Behaviour()).encodes_json:
        wanted = as_go_writes({**json.loads(wanted), "model": "adapter-name"})
    assert with_us["model.body"] == shortened(wanted)


def test_the_page_of_the_docs_is_generated() -> None:
    assert PAGE.read_text() == generated(PAGE.read_text()), f"run `{COMMAND}`"
