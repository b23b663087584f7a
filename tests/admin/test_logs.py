"""Log lines as written, and the taming of repetition."""

import io
import json
import logging
import re
import sys
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from epp_client.errors import SettingsError
from epp_client.logs import Repeats, configure, form_of, set_level

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in [h for h in root.handlers if h not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    structlog.reset_defaults()


def lines(capsys: Capture) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().err.splitlines()]


def test_a_line_is_json_with_level_and_utc_time(capsys: Capture) -> None:
    configure()
    structlog.get_logger().info("serving", socket="/run/x.sock")
    (line,) = lines(capsys)
    assert str(line.pop("timestamp")).endswith("Z")
    assert line == {"event": "serving", "level": "info", "socket": "/run/x.sock"}


def test_libraries_write_the_same_form(capsys: Capture) -> None:
    configure()
    logging.getLogger("aiohttp.server").error("it %s", "broke")
    (line,) = lines(capsys)
    assert (line["event"], line["level"]) == ("it broke", "error")
    assert "timestamp" in line


def test_libraries_are_quiet_below_warning(capsys: Capture) -> None:
    configure(level="debug")
    logging.getLogger("asyncio").debug("Using selector")
    structlog.get_logger().debug("ours")
    assert [line["event"] for line in lines(capsys)] == ["ours"]


def test_the_level_holds_back_what_is_below(capsys: Capture) -> None:
    configure(level="warning")
    structlog.get_logger().info("no")
    structlog.get_logger().warning("yes")
    assert [line["event"] for line in lines(capsys)] == ["yes"]


@pytest.mark.parametrize("form", ["json", "console"])
def test_an_exception_is_written_with_its_traceback(capsys: Capture, form: str) -> None:
    configure(form)
    try:
        raise ValueError("odd")
    except ValueError:
        structlog.get_logger().exception("ours")
        logging.getLogger("aiohttp").exception("theirs")
    assert capsys.readouterr().err.count("ValueError: odd") == 2


def test_a_console_that_is_no_terminal_gets_no_colours(capsys: Capture) -> None:
    configure("console")
    structlog.get_logger().warning("plain", pool="default/llama")
    written = capsys.readouterr().err
    assert "\x1b" not in written
    assert "pool=default/llama" in written


def test_lines_for_people_begin_with_time_level_and_event(capsys: Capture) -> None:
    configure("console")
    structlog.get_logger().warning("picker is unreachable", pool="default/llama")
    line = capsys.readouterr().err
    assert re.match(
        r"\d{4}-\d\d-\d\d [0-2]\d:\d\d:\d\d[+-]\d{4} \[warning *\] picker is unreachable +pool=",
        line,
    ), line


@pytest.mark.parametrize(("terminal", "form"), [(True, "console"), (False, "json")])
def test_auto_is_for_people_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, form: str
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    assert form_of("auto") == form
    assert form_of("json") == "json"


def test_the_level_can_be_changed(capsys: Capture) -> None:
    configure(level="warning")
    log = structlog.get_logger()
    log.debug("before")
    set_level("debug")
    log.debug("after")
    logging.getLogger("asyncio").info("libraries stay quiet")
    set_level("warning")
    log.info("at the end")
    assert [line["event"] for line in lines(capsys)] == ["after"]
    with pytest.raises(SettingsError, match="log_level"):
        set_level("loud")


@pytest.mark.parametrize(
    ("arguments", "key"),
    [(("xml", "info"), "log_format"), (("json", "loud"), "log_level")],
)
def test_a_bad_setting_is_named(arguments: tuple[str, str], key: str) -> None:
    with pytest.raises(SettingsError, match=key):
        configure(*arguments)


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_the_first_is_written_at_once_and_then_one_line_per_interval() -> None:
    clock = Clock()
    repeats = Repeats(10, clock)
    said = []
    for clock.now in (0, 1, 9, 10, 11, 25):
        said.append(repeats.due("a"))
    assert said == [1, None, None, 3, None, 2]


def test_keys_do_not_hold_each_other_back() -> None:
    repeats = Repeats(10, Clock())
    assert [repeats.due(key) for key in "aba"] == [1, 1, None]


@given(st.floats(min_value=-1e9, max_value=1e9), st.floats(min_value=1e-3, max_value=1e4))
def test_the_first_is_never_held_back(now: float, interval: float) -> None:
    assert Repeats(interval, lambda: now).due("a") == 1


@given(st.lists(st.floats(min_value=0, max_value=30), max_size=60))
def test_every_event_is_counted_by_some_line(gaps: list[float]) -> None:
    clock = Clock()
    repeats = Repeats(10, clock)
    counted = 0
    for gap in gaps:
        clock.now += gap
        counted += repeats.due("a") or 0
    clock.now += 11
    counted += repeats.due("a") or 0
    assert counted == len(gaps) + 1


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_line_is_one_write(monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Control process and workers share stderr. Of a line and its end in two writes, another process's line
    may come between them; with PYTHONUNBUFFERED each write is a system call."""

    class Written(io.StringIO):
        def __init__(self) -> None:
            super().__init__()
            self.pieces: list[str] = []

        def write(self, text: str) -> int:
            self.pieces.append(text)
            return super().write(text)

    stderr = Written()
    monkeypatch.setattr(sys, "stderr", stderr)
    configure(form)
    structlog.get_logger().info("serving")
    logging.getLogger("asyncio").warning("slow")
    assert len(stderr.pieces) == 2
    assert all(piece.endswith("\n") for piece in stderr.pieces)
