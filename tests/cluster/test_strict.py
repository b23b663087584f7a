"""Our own suite for gateways: our data plane passes it, and each mutant fails the checks meant for it."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from testbed.cluster.machine import Machine
from testbed.strict.checks import CHECKS
from testbed.strict.mutants import MUTANTS
from testbed.strict.proof import Proof, caught, proving
from testbed.strict.report import PASS

pytestmark = [pytest.mark.asyncio(loop_scope="session"), pytest.mark.timeout(300)]

PAIRS = [(name, check) for name, mutant in MUTANTS.items() for check in mutant.fails]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def proof(machine: Machine) -> AsyncIterator[Proof]:
    async with proving(machine, list(CHECKS.values())) as running:
        yield running


@pytest.mark.parametrize("name", CHECKS)
async def test_our_data_plane_passes(proof: Proof, name: str) -> None:
    result = await proof.right(CHECKS[name])
    assert result.outcome == PASS, result.text


@pytest.mark.parametrize(("name", "check"), PAIRS)
async def test_a_mutant_fails_because_of_its_fault(proof: Proof, name: str, check: str) -> None:
    mutant = MUTANTS[name]
    result = await proof.wrong(mutant, CHECKS[check])
    assert caught(mutant, result), f"{result.line}\n{proof.log()}"
