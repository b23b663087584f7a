"""Whether the hot path is compiled is known, and said when `serve` and the demo start."""

import importlib.machinery
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

import epp_client.relay
from epp_client import app
from epp_client.version import VERSION, hot_path_compiled
from testbed import demo


@pytest.mark.parametrize(
    ("files", "compiled"),
    [
        (("exchange.py",), False),
        # A wheel has both, and Python takes the compiled one.
        (("exchange.py", f"exchange{importlib.machinery.EXTENSION_SUFFIXES[0]}"), True),
        ((), False),
    ],
)
def test_the_hot_path_is_compiled_if_python_would_load_a_library(
    files: tuple[str, ...], compiled: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for file in files:
        (tmp_path / file).touch()
    monkeypatch.setattr(epp_client.relay, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, "epp_client.relay.exchange", raising=False)
    assert hot_path_compiled() is compiled


def test_serve_logs_one_line_about_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for compiled in (True, False):
        monkeypatch.setattr(app, "hot_path_compiled", lambda answer=compiled: answer)
        with capture_logs() as logs:
            app.say_whether_compiled()
        [line] = logs
        assert line["version"] == VERSION
        if compiled:
            assert (line["log_level"], line["event"]) == ("info", "the hot path is compiled")
        else:
            assert line["log_level"] == "warning"
            assert line["event"].startswith("the hot path is not compiled: a request takes")
            assert "`pip install .`" in line["hint"]


def test_the_demo_says_what_plain_python_costs_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(demo, "hot_path_compiled", lambda: True)
    assert demo.hot_path_line() == "the sidecar's hot path is compiled"
    monkeypatch.setattr(demo, "hot_path_compiled", lambda: False)
    assert "not compiled: a request takes about four times the CPU; run" in demo.hot_path_line()
