"""The page's figures are the runs'."""

from pathlib import Path
from typing import Any

import pytest

from chaos import figures

PAGE = Path(__file__).parents[2] / "docs/reliability.md"
ROW: dict[str, Any] = {
    "fault": "all",
    "windows": 2,
    "sent": 10,
    "answered": 7,
    "refused": {"picker_timeout": 1},
    "lost": 2,
    "breaches": 0,
}
RUN: dict[str, Any] = {
    "settings": {
        "command": "make chaos SEED=1",
        "seconds": 600,
        "requests per second": 40.0,
        "pools from": "api",
        "load": "2 on 2 cores",
    },
    "kept": True,
    "parts": {"native/override_host": {"total": ROW, "faults": {"picker killed": ROW}}},
    "trends": {
        "memory of control, MB": {"level": 90.0, "growth": 0.2, "allowed": 3.0},
        "descriptors of control": {"level": 30.0, "growth": 4.0, "allowed": 3.0},
    },
    "felt": {
        "native": {
            "p99_before": 0.04,
            "longest": 1.6,
            "until_normal": 1.7,
            "p99_after": 0.06,
            "waited": 55,
            "sent": 501,
            "lost": 0,
        }
    },
}
GATEWAY = {
    "sidecar": "grpcio/original_dst",
    "Envoy": "1.37.0",
    "asked": 5,
    "answered": 4,
    "refused": 0,
    "lost": 1,
    "longest": "61 s",
    "dead": 1,
    "ADS cut": 2,
    "relay cut": 0,
}
IDLE = {
    **GATEWAY,
    "Envoy": "1.37.0, idle",
    "asked": 2,
    "answered": 2,
    "lost": 0,
    "dead": 0,
    "ADS cut": 1,
}
QUIET: dict[str, Any] = {
    "settings": {"command": "make quiet SEED=1", "seconds": 120, "load": "2 on 2 cores"},
    "kept": False,
    "gateways": [GATEWAY, IDLE],
    "growth": {"grpcio/original_dst": {"memory of Envoy": {"growth": 4.0, "allowed": 3.0}}},
}


@pytest.mark.parametrize("name", ["chaos", "gateway", "quiet", "stopped", "soak"])
def test_the_page_has_a_place_for_each(name: str) -> None:
    once = figures.replaced(PAGE.read_text(), name, "| new |")
    assert "| new |" in once
    assert figures.replaced(once, name, "| new |") == once


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks for chaos"):
        figures.replaced("# a page", "chaos", "")


def test_runs_are_added_up() -> None:
    text = figures.chaos([RUN, {**RUN, "kept": False}])
    assert "| native/override_host | 10 | 7 | 1 | 2 | 0 |" in text
    assert "| **all** | 20 | 14 | 2 | 4 | 0 |" in text
    assert "| picker killed | 4 | 20 | 14 | 2 | 4 | 0 |" in text
    assert "`make chaos SEED=1` (40 requests a second, pools from api" in text
    assert text.count("the promise was kept") == 1
    assert text.count("**the promise was broken**") == 1


def test_a_curve_that_is_not_flat_is_called_so() -> None:
    text = figures.soak(RUN)
    assert "10 minutes of native/override_host, 10 requests: 7 answered" in text
    assert "| memory of control, MB | 90.0 | +0.2 | 3.0 | flat |" in text
    assert "| descriptors of control | 30.0 | +4.0 | 3.0 | **not flat** |" in text


def test_a_quiet_run_is_told_by_envoy() -> None:
    text = figures.quiet(QUIET)
    assert "2 Envoys behind 1 sidecars, 7 requests: 6 answered, 0 refused" in text
    assert "1 lost; 1 Envoys dead, 3 ADS streams and 0 connections" in text
    assert "| grpcio/original_dst | 1.37.0 | 5 | 4 | 0 | 1 | 61 s | 1 | 2 | 0 |" in text
    assert "| grpcio/original_dst | memory of Envoy | +4.0 | 3.0 | **not flat** |" in text
    assert "**the promise was broken**" in text


def test_a_stopped_picker_is_told_by_transport() -> None:
    assert "| native | 40 ms | 1.60 s | 1.70 s | 60 ms | 55 of 501 | 0 |" in figures.stopped(RUN)
