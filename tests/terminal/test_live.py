"""The stream of `/live` as a state, and its age."""

import json
from datetime import UTC

import pytest

from epp_client.admin.live import LiveView, Wanted
from epp_client.errors import AdminUnreachable
from epp_client.terminal import live as live_module
from epp_client.terminal.live import Live, events, pool_name
from epp_client.terminal.watch import BEGIN, LOST, TOLD_FOR, Watch
from tests.admin.fleet import Fleet
from tests.terminal.made import head, seen


def test_server_sent_events_are_read_line_by_line() -> None:
    lines = [
        "retry: 2000",
        "",
        ": note",
        "event: head",
        'data: {"at":',
        "data: 1}",
        "",
        "data:[]",
        "",
    ]
    assert list(events(lines)) == [("head", {"at": 1}), ("message", [])]


def test_what_is_no_json_is_no_admin_page() -> None:
    with pytest.raises(AdminUnreachable, match="does not send the JSON"):
        list(events(["data: <html>", ""]))


def test_an_event_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_module, "MAX_TEXT", 100)
    with pytest.raises(AdminUnreachable, match="without an end"):
        list(events("data: " + "x" * 30 for _ in range(5)))


def test_the_state_follows_what_changes() -> None:
    """Whatever order the rows come in, and when a pool goes."""
    fleet = Fleet(20, troubled=True)
    observer = seen(fleet)
    view, state = LiveView(Wanted(limit=500)), Live()
    for _ in range(5):
        for name, data in view.messages(observer, head(fleet, observer)):
            state.take(name, json.loads(json.dumps(data)))
        fresh = Live()
        for name, data in LiveView(Wanted(limit=500)).messages(observer, head(fleet, observer)):
            fresh.take(name, data)
        assert state.rows == fresh.rows
        assert state.head == fresh.head
        gone = fleet.names.pop()
        fleet.store.adopt([], [str(gone)])
        fleet.work(True)
        again = seen(fleet, looks=2)
        observer = again
    assert len(state.rows) == 16
    assert {pool_name(row) for row in state.rows} == {str(name) for name in fleet.names} | {
        str(gone)
    }


def test_the_age_of_a_state_is_told() -> None:
    watch = Watch()
    assert watch.trouble(0) == ""
    watch.take(LOST, "nothing listens", 5)
    assert watch.trouble(6) == "No answer yet: nothing listens. Trying again."
    watch.take(BEGIN, None, 10)
    watch.take("head", _head(at=10, uptime=100), 10)
    assert watch.trouble(11) == ""
    watch.take(LOST, "closed", 12)
    assert (
        watch.trouble(75, UTC) == "No answer since 00:00:10+0000 (1 min 5 s): closed. Trying again."
    )
    # What was known is still shown.
    assert watch.live.head["uptime"] == 100


def test_a_restart_is_told_for_a_while() -> None:
    watch = Watch()
    watch.take(BEGIN, None, 10)
    watch.take("head", _head(at=10, uptime=100), 10)
    # The same process, connected again.
    watch.take(BEGIN, None, 20)
    watch.take("head", _head(at=20.3, uptime=110), 20)
    assert watch.trouble(21) == ""
    watch.take(BEGIN, None, 30)
    watch.take("head", _head(at=30, uptime=2), 30)
    said = "The sidecar has restarted: it runs since 00:00:28+0000."
    assert watch.trouble(31, UTC) == said
    assert watch.trouble(30 + TOLD_FOR + 1, UTC) == ""
    # Soon after the start: only the uptime tells.
    watch.take(BEGIN, None, 70)
    watch.take("head", _head(at=29.5, uptime=1), 70)
    assert watch.trouble(71, UTC) != ""


def test_a_frame_waits_for_everything_that_it_shows() -> None:
    watch = Watch()
    assert not watch.complete("")
    watch.take("head", _head(at=1, uptime=1), 1)
    assert not watch.complete("")
    watch.take("pools", {"rows": [{"namespace": "a", "name": "b"}], "order": ["a/b"]}, 1)
    assert watch.complete("")
    assert not watch.complete("a/b")
    watch.take("detail", {"pool": "a/b", "gone": True}, 1)
    assert watch.complete("a/b")
    watch.take("events", [], 1)
    empty = Watch()
    empty.take("head", {**_head(at=1, uptime=1), "pools": {"matching": 0}}, 1)
    assert empty.complete("")


def _head(*, at: float, uptime: float) -> dict[str, object]:
    return {"at": at, "uptime": uptime, "pools": {"matching": 1}}
