"""What `status` and `top` draw, of what the admin page of a made-up fleet says."""

from typing import Any

import pytest

from epp_client.admin.live import Wanted
from epp_client.errors import AdminUnreachable
from epp_client.terminal.live import by_traffic
from epp_client.terminal.status import exit_code, screen
from epp_client.terminal.top import Shown, frame
from tests.admin.fleet import HOSTILE, Fleet
from tests.terminal.made import NOW, ZONE, drawn, live, seen, status


def test_a_quiet_sidecar_is_ok() -> None:
    fleet = Fleet(3)
    said = status(fleet, seen(fleet))
    assert exit_code(said) == 0
    shown = drawn(screen(said, "127.0.0.1:9902", 160, ZONE))
    assert shown.startswith("OK  3 pools, nothing to report\n")
    assert "epp-client 0.2.0, up 2 h 1 min, 2 workers, 1 Envoy connected" in shown
    assert "100 % steered, 0 % failed open, 0 % refused" in shown
    assert "team-0/model-000" in shown
    assert "more" not in shown


def test_a_sidecar_of_plain_python_is_told() -> None:
    fleet = Fleet(3)
    observer = seen(fleet)
    for compiled, line in ((True, "epp-client 0.2.0, up"), (False, "0.2.0 (not compiled), up")):
        said = status(fleet, observer, compiled=compiled)
        assert line in drawn(screen(said, "127.0.0.1:9902", 160, ZONE))


def test_trouble_has_its_pool_its_age_and_what_to_do() -> None:
    fleet = Fleet(30, troubled=True)
    observer = seen(fleet)
    said = status(fleet, observer, restarts=3, nacks=2.0, synced=False, notes={"hold": "no holder"})
    assert exit_code(said) == 2
    shown = drawn(screen(said, "127.0.0.1:9902", 160, ZONE))
    assert shown.startswith("FAILING  the sidecar is not ready: the API server")
    lines = shown.splitlines()
    (at,) = [n for n, line in enumerate(lines) if line.startswith("• team-0/model-000: all 12")]
    assert " (30 s). Look at the Pods that the pool's selector matches." in lines[at + 1]
    assert "docs/runbook.md#no-ready-endpoint" in lines[at + 1]
    assert "3 crashed, 1 Envoy connected, 2 configurations rejected, the pools have not" in shown
    assert "note: hold: no holder" in shown
    assert "objects: 1 error, 1 warning (/pools has all)" in shown
    assert "and 15 more pools: epp-client top, or the page at 127.0.0.1:9902" in shown
    assert len(lines) < 45


def test_a_degraded_sidecar_exits_with_1() -> None:
    fleet = Fleet(2)
    said = status(fleet, seen(fleet, envoys=0))
    assert exit_code(said) == 1
    shown = drawn(screen(said, "x", 80, ZONE))
    assert shown.startswith("DEGRADED  no Envoy is connected")


def test_warnings_alone_are_told() -> None:
    fleet = Fleet(1)
    said = status(fleet, seen(fleet), problems={"errors": 0, "warnings": 2, "first": []})
    assert "objects: 0 errors, 2 warnings" in drawn(screen(said, "x", 160, ZONE))


def test_a_sidecar_without_pools_says_so() -> None:
    fleet = Fleet(0)
    observer = seen(fleet)
    shown = drawn(screen(status(fleet, observer, workers=0.0), "x", 160, ZONE))
    assert "no pools" in shown
    assert "relays in the control process" in shown
    assert "no pools" in drawn(frame(live(fleet, observer), _shown()))


@pytest.mark.parametrize("said", [{}, {"judgement": {"level": "splendid"}}])
def test_an_older_sidecar_has_no_judgement(said: dict[str, object]) -> None:
    with pytest.raises(AdminUnreachable, match="older than this epp-client"):
        exit_code(said)


def _shown(**changes: Any) -> Shown:
    base = Shown("127.0.0.1:9902", NOW, 160, 40, zone=ZONE)
    return base._replace(**changes)


def test_pools_in_trouble_come_first_and_then_the_busiest() -> None:
    fleet = Fleet(12, troubled=True)
    rows = by_traffic(live(fleet, seen(fleet)).rows)
    keys = [(row["level"] != "failing", row["level"] == "ok") for row in rows]
    assert keys == sorted(keys)
    worst = [row["minute"]["requests"] for row in rows if row["level"] == "failing"]
    assert worst == sorted(worst, reverse=True)
    assert len(rows) == 12


def test_a_frame_has_a_line_for_each_pool_that_there_is_room_for() -> None:
    fleet = Fleet(30)
    state = live(fleet, seen(fleet))
    for height in (12, 24, 40):
        shown = drawn(frame(state, _shown(height=height))).splitlines()
        assert len(shown) <= height
        pools = sum("/model-" in line for line in shown)
        assert pools > height - 12
        more = [line for line in shown if line.startswith("and ")]
        assert more == (
            [f"and {30 - pools} more pools; --filter TEXT shows those with it in their names"]
            if pools < 30
            else []
        )
    whole = drawn(frame(state, _shown(height=None, keys=False)))
    assert whole.count("/model-") == 30
    assert "q quits" not in whole
    assert "all pools" in whole


def test_a_narrow_terminal_has_fewer_columns() -> None:
    fleet = Fleet(3)
    state = live(fleet, seen(fleet))
    heads = {}
    for width in (80, 110, 160):
        shown = drawn(frame(state, _shown(width=width)), width)
        (heads[width],) = [line for line in shown.splitlines() if line.startswith("STATE")]
        # Nothing is cut.
        assert "team-0/model-000 " in shown
        assert "…" not in heads[width]
    assert {"STATE", "POOL", "REQ/S", "STEERED", "OPEN", "REFUSED", "READY"} < set(
        heads[80].split()
    )
    assert [("ERRORS" in heads[w], "REASON" in heads[w]) for w in (80, 110, 160)] == [
        (False, False),
        (True, False),
        (True, True),
    ]


def test_a_frame_before_the_first_answer() -> None:
    from epp_client.terminal.live import Live

    assert "waiting for the sidecar" in drawn(frame(Live(), _shown()))
    lost = drawn(frame(Live(), _shown(trouble="No answer yet: nothing listens. Trying again.")))
    assert "No answer yet" in lost
    assert "waiting" not in lost


def test_a_filter_that_matches_nothing_is_no_sidecar_without_pools() -> None:
    fleet = Fleet(2)
    state = live(fleet, seen(fleet), Wanted("nothing-like-it"))
    assert "no pool matches" in drawn(frame(state, _shown()))


def test_a_pool_has_its_pickers_and_endpoints() -> None:
    fleet = Fleet(3, troubled=True)
    fleet.recorded.traffic["team-0/model-000"]["10.0.0.3:8000"].failed = 7
    wanted = Wanted("team-0/model-000", 500, ("team-0/model-000",))
    shown = drawn(frame(live(fleet, seen(fleet), wanted), _shown(pool="team-0/model-000")))
    lines = shown.splitlines()
    assert any(line.startswith("picker 10.200.0.0:9002  silent  check 2 ms") for line in lines)
    (heads,) = [n for n, line in enumerate(lines) if line.startswith("ENDPOINT")]
    # That in trouble first.
    assert lines[heads + 1].startswith("10.0.0.3:8000")
    assert lines[heads + 1].split()[-2:] == ["7", "0"]
    assert sum(line.startswith("10.0.0.") for line in lines) == 12
    assert HOSTILE in shown


def test_a_pool_with_many_endpoints_shows_those_that_there_is_room_for() -> None:
    fleet = Fleet(1, endpoints=1_000)
    wanted = Wanted("team-0/model-000", 500, ("team-0/model-000",))
    state = live(fleet, seen(fleet), wanted)
    state.detail["pickers"] = state.detail["pickers"] * 30
    shown = drawn(frame(state, _shown(pool="team-0/model-000", height=30))).splitlines()
    assert len(shown) <= 30
    assert any(line.startswith("and ") and "more endpoints" in line for line in shown)
    assert any("more addresses of the picker" in line for line in shown)


def test_a_picker_says_its_last_error_and_a_pool_its_picker_s_problem() -> None:
    fleet = Fleet(3, troubled=True)
    wanted = Wanted("", 500, ("team-0/model-000",))
    state = live(fleet, seen(fleet), wanted)
    state.detail["pickers"] = [
        {
            "address": "a:1",
            "state": "unreachable",
            "error": "\x1brefused",
            "errorAt": 1_800_000_000,
            "checkSeconds": None,
        },
        {
            "address": "b:1",
            "state": "serving",
            "error": "old",
            "errorAt": None,
            "checkSeconds": None,
        },
    ]
    state.rows[0]["picker"]["problem"] = "no Service"
    shown = drawn(frame(state, _shown(pool="team-0/model-000")))
    assert "picker a:1  unreachable  last error at 08:00:00+0000: \\x1brefused" in shown
    assert "picker b:1  serving  last error: old" in shown


def test_a_pool_that_is_not_there_is_said_to_be_gone() -> None:
    fleet = Fleet(1)
    state = live(fleet, seen(fleet), Wanted("", 500, ("a/b",)))
    assert "no pool a/b is served" in drawn(frame(state, _shown(pool="a/b")))
    state.detail = {}
    assert "waiting for the pool" in drawn(frame(state, _shown(pool="a/b")))
    state.detail = {"pickers": [], "endpoints": [], "endpointsMatching": 0}
    assert "no endpoint matches" in drawn(frame(state, _shown(pool="a/b")))


def test_an_endpoint_without_traffic_has_no_share() -> None:
    fleet = Fleet(1)
    state = live(fleet, seen(fleet), Wanted("", 500, ("team-0/model-000",)))
    state.detail["endpoints"][0] |= {"share": None, "since": 0, "state": "draining"}
    shown = drawn(frame(state, _shown(pool="team-0/model-000")))
    (line,) = [one for one in shown.splitlines() if "draining" in one and one.startswith("10.")]
    assert line.split()[3:6:2] == ["-", "-"]


def test_colours_are_the_level_s() -> None:
    fleet = Fleet(30, troubled=True)
    observer = seen(fleet)
    assert "\x1b[1;31mFAILING" in drawn(screen(status(fleet, observer), "x", 160), colours=True)
