"""The report of a small recorded run: every table, every plot, the ratios that are promised."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.measure import busy, ratios, summary
from benchmarks.report import MUST, bounds, markdown, within, write

RECORDED = Path(__file__).parent / "recorded.json"
PROMISED = {
    "cpu_per_request_vs_nghttpx",
    "cpu_per_request_vs_grpcio",
    "throughput_vs_direct",
    "cpu_per_request_vs_tonic",
    "cpu_per_request_vs_grpc_go",
    "path_cpu_vs_direct",
    "path_cpu_vs_nghttpx",
    "path_cpu_vs_tonic",
    "path_cpu_vs_grpc_go",
    "cpu_per_chunk_vs_nghttpx",
    "chunk_delay_over_nghttpx_ms_64",
    "p99_churn_vs_quiet",
}


@pytest.fixture
def recorded() -> dict[str, Any]:
    """What one quick run has written."""
    values: dict[str, Any] = json.loads(RECORDED.read_text())
    return values


def test_the_promised_ratios_are_written(recorded: dict[str, Any], tmp_path: Path) -> None:
    write(recorded, tmp_path)
    written = json.loads((tmp_path / "results.json").read_text())
    assert written["ratios"].keys() >= PROMISED
    assert {"machine", "versions", "skipped", "failures"} <= written.keys()


def test_the_report_has_a_table_for_each_part(recorded: dict[str, Any]) -> None:
    text = markdown(recorded)
    for heading in (
        "POSTs",
        "Prompts",
        "Streamed",
        "Who was busy",
        "A pool of",
        "Memory",
        "From the",
    ):
        assert f"## {heading}" in text
    for name in PROMISED:
        assert f"`{name}`" in text
    assert all(line.count("|") > 2 for line in text.splitlines() if line.startswith("|"))


def test_what_was_skipped_or_failed_is_told(recorded: dict[str, Any]) -> None:
    recorded |= {"skipped": {"nghttpx": "apt-get install x"}, "failures": ["native /a: {'503': 2}"]}
    text = markdown(recorded)
    assert "SKIPPED nghttpx: `apt-get install x`" in text
    assert "native /a: {'503': 2}" in text


def judged(name: str, value: float) -> str:
    known = bounds(name)
    assert known is not None
    return within(value, name, *known)


def test_a_missed_figure_is_called_missed_at_every_load() -> None:
    must, moonshot = MUST["cpu_per_request_vs_nghttpx"]
    assert judged("cpu_per_request_vs_nghttpx", moonshot) == "moonshot"
    assert judged("cpu_per_request_vs_nghttpx", must) == "must"
    assert judged("cpu_per_request_vs_nghttpx_64", must + 0.1) == "**missed**"
    assert judged("throughput_vs_direct", 0.89) == "**missed**"
    assert judged("throughput_vs_direct_16", 0.91) == "moonshot"
    assert judged("throughput_vs_direct_64", 0.91) == "**missed**"
    assert bounds("throughput_nghttpx_vs_direct_64") is None


def test_ratios_are_taken_within_a_round() -> None:
    runs = [
        {"a": {"cpu": 2.0, "busy": {"x": 0.5}}, "b": {"cpu": 1.0, "busy": {}}},
        {"a": {"cpu": 8.0, "busy": {"x": 0.7}}, "b": {"cpu": 2.0, "busy": {}}},
    ]
    assert ratios(runs, "cpu", "a", "b") == [2.0, 4.0]
    assert ratios(runs, "cpu", "a", "absent") == []
    assert summary(runs)["a"]["cpu"] == {"median": 5.0, "min": 2.0, "max": 8.0}
    assert busy(runs)["a"] == {"x": 0.6}


def test_every_plot_is_drawn_twice(recorded: dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'epp-client[bench]'")
    from benchmarks.plots import draw

    draw(recorded, tmp_path)
    drawn = {path.name for path in tmp_path.iterdir()}
    for name in ("headline", "streams", "prompts", "churn"):
        assert {f"{name}.png", f"{name}.svg"} <= drawn
