"""A picker that asks Envoy for what it refuses: found by `make chaos` as requests lost without a reason."""

import httpx
import pytest

from testbed.stack import Stack
from tests.e2e.tools import echo

pytestmark = pytest.mark.asyncio(loop_scope="session")

REQUEST = ("oversized-mutation", "too-many-headers")
"""Dialects that cannot be followed in the request."""
PARTLY = ("invalid-mutation", "invalid-response-mutation")
"""Dialects of which the rest can be followed."""


@pytest.mark.parametrize("pool", ["open", "h2c"])
@pytest.mark.parametrize("dialect", [*REQUEST, *PARTLY])
async def test_fail_open_goes_on_without_it(
    stack: Stack, client: httpx.AsyncClient, dialect: str, pool: str
) -> None:
    answer = await echo(client, stack, pool, b"hello", x_picker_dialect=dialect)
    assert answer.status_code == 200
    assert answer.json()["size"] == 5


@pytest.mark.parametrize("dialect", REQUEST)
async def test_fail_close_refuses_with_the_reason(
    stack: Stack, client: httpx.AsyncClient, dialect: str
) -> None:
    answer = await echo(client, stack, "close", b"hello", x_picker_dialect=dialect)
    assert (answer.status_code, answer.headers["x-inference-error"]) == (503, "picker_protocol")


@pytest.mark.parametrize("dialect", PARTLY)
async def test_the_rest_of_an_answer_is_followed(
    stack: Stack, client: httpx.AsyncClient, dialect: str
) -> None:
    wanted = stack.endpoints[1]
    answer = await echo(
        client,
        stack,
        "close",
        b"hello",
        x_picker_dialect=dialect,
        test_epp_endpoint_selection=wanted,
    )
    assert (answer.status_code, answer.json()["size"]) == (200, 5)
    assert answer.headers["x-model-server"] == wanted
    # The picker still has its say in the response.
    assert answer.headers["x-conformance-test-served-endpoint"] == wanted
