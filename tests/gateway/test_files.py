"""Gateways and HTTPRoutes in manifest files: `check`, `routes`, and the source that serves them."""

import asyncio
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from epp_client.cli import app
from epp_client.gateway.world import GatewayResolution
from epp_client.manifests.lint import lint
from epp_client.manifests.source import ManifestSource
from epp_client.pool.problems import Severity
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore

EXAMPLE = Path(__file__).parents[2] / "config" / "gateway" / "example.yaml"


def run(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(app, [*map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def test_routes_prints_a_row_for_each_match_in_envoys_order() -> None:
    lines = run("routes", EXAMPLE).splitlines()
    assert lines[0] == "Gateway default/inference"
    assert lines[1].split() == ["LISTENER", "HOST", "MATCH", "TO", "FROM"]
    assert len(lines) == 8
    assert "pool default/llama 90 %, pool default/candidate 10 %" in lines[3]
    assert "redirect 301 https://docs.example.com" in lines[4]


def test_routes_as_json() -> None:
    [found] = json.loads(run("routes", EXAMPLE, "-o", "json"))
    assert found["gateway"] == "default/inference"
    first, second, *_ = found["routes"]
    assert first["match"]["headers"] == ["x-model=candidate"]
    assert second["backends"] == [
        {"target": "InferencePool default/llama", "weight": 90},
        {"target": "InferencePool default/candidate", "weight": 10},
    ]


def test_routes_without_a_gateway_fails(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    assert "no Gateway found" in run("routes", tmp_path, code=1)
    assert "no Gateway other/one found" in run("routes", EXAMPLE, "--gateway", "other/one", code=1)


def test_routes_of_one_of_several_gateways(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    (tmp_path / "a.yaml").write_text(text)
    second = text.split("---")[0].replace("name: inference", "name: second")
    (tmp_path / "b.yaml").write_text(second)
    both = run("routes", tmp_path)
    assert both.count("Gateway default/") == 2
    assert "no route is served" in both
    assert "inference" not in run("routes", tmp_path, "--gateway", "default/second")


def test_check_says_what_is_wrong_with_a_route_and_where(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    text = EXAMPLE.read_text()
    file.write_text(
        text.replace("name: page, port: 80}]\n    - m", "name: gone, port: 80}]\n    - m")
        .replace("type: ResponseHeaderModifier", "type: ExtensionRef")
        .replace("hostnames:", "hostname:")
    )
    found = {problem.field: problem for problem in lint([file], PoolSettings()).problems}
    gone = found["spec.rules[0].backendRefs[0]"]
    assert gone.severity is Severity.WARNING
    assert gone.text == "Service default/gone does not exist"
    lines = file.read_text().splitlines()
    assert gone.line is not None
    assert "name: gone" in lines[gone.line - 1]
    filtered = found["spec.rules[1].filters[0].type"]
    assert filtered.severity is Severity.ERROR
    assert filtered.line is not None
    assert "ExtensionRef" in lines[filtered.line - 1]
    assert "did you mean hostnames?" in found["spec.hostname"].text


def test_check_counts_what_is_served() -> None:
    assert "1 Gateway, 6 routes" in str(lint([EXAMPLE], PoolSettings()))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        (
            "{kind: ReferenceGrant, metadata: {name: a}, spec: {from: [], to: x}}",
            "spec.to",
        ),
        ("{kind: HTTPRoute, metadata: {name: a}, spec: {rules: 1}}", "spec.rules"),
        ("{kind: Gateway, metadata: {name: a}, spec: {listeners: 1}}", "spec.listeners"),
    ],
)
def test_wrong_types_are_errors_with_their_places(tmp_path: Path, text: str, field: str) -> None:
    file = tmp_path / "bad.yaml"
    file.write_text(EXAMPLE.read_text() + "---\n" + text)
    errors = [p for p in lint([file], PoolSettings()).problems if p.severity is Severity.ERROR]
    assert [problem.field for problem in errors] == [field]
    assert errors[0].line == len(file.read_text().splitlines())


async def test_an_edit_of_a_route_is_a_new_table(tmp_path: Path) -> None:
    file = tmp_path / "example.yaml"
    file.write_text(EXAMPLE.read_text())
    seen = asyncio.Queue[GatewayResolution | None]()
    clock = asyncio.get_running_loop().time
    source = ManifestSource(
        tmp_path, PoolStore(), PoolSettings(), clock, gateway_changed=seen.put_nowait
    )
    running = asyncio.create_task(source.run())
    try:
        first = await seen.get()
        assert first is not None
        assert len([*first.table.entries()]) == 6
        file.write_text(EXAMPLE.read_text().replace("weight: 90", "weight: 30"))
        async with asyncio.timeout(60):
            while (found := await seen.get()) is None or found.table == first.table:
                pass
        weights = [
            [backend.weight for backend in entry.action.backends]  # type: ignore[union-attr]
            for entry in found.table.entries()
            if entry.source == "HTTPRoute default/chat rules[0]"
        ]
        assert weights == [[30, 10], [30, 10]]
        file.write_text("")
        async with asyncio.timeout(60):
            while await seen.get() is not None:
                pass
    finally:
        running.cancel()
        await asyncio.wait({running})


async def test_several_gateways_are_an_error(tmp_path: Path) -> None:
    text = EXAMPLE.read_text()
    (tmp_path / "a.yaml").write_text(text)
    (tmp_path / "b.yaml").write_text(text.split("---")[0].replace("name: inference", "name: two"))
    store = PoolStore()
    seen: list[GatewayResolution | None] = []
    source = ManifestSource(
        tmp_path,
        store,
        PoolSettings(),
        asyncio.get_running_loop().time,
        gateway_changed=seen.append,
    )
    source.reload()
    assert seen == [None]
    assert any("has 2 Gateways (default/inference, default/two)" in p.text for p in store.problems)
