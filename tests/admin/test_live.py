"""What an open page is sent: at first everything that it shows, then what has changed."""

import json
from typing import Any

from epp_client.admin.described import described, endpoint_json
from epp_client.admin.live import MAX_ENDPOINTS, MAX_OPEN, LiveView, Wanted, endpoints, pickers
from epp_client.errors import Reason
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import Decision, News, Traffic
from epp_client.observe.observer import Observer
from epp_client.observe.traffic import PoolTraffic
from epp_client.picker.health import AddressNote, Health
from epp_client.pool.problems import Problem, Severity
from epp_client.relay.outcome import Outcome
from tests.observe.made import LLAMA, PICKER, QWEN, look, pool

Messages = dict[str, Any]


class Sidecar:
    """An observer of two pools, and pages that look at it."""

    def __init__(self) -> None:
        self.observer = Observer()
        self.counters = Counters()
        self.at = 1_000.0
        self.pools = [pool(LLAMA), pool(QWEN)]
        self.problems: tuple[Problem, ...] = ()

    def goes_on(self, seconds: float = 2.0) -> None:
        self.at += seconds
        seen = look(*self.pools, at=self.at, counters=self.counters, problems=self.problems)
        self.observer.looked(seen)

    def sends(self, page: LiveView) -> Messages:
        """The messages of one look, as the page reads them."""
        return json.loads(json.dumps(dict(page.messages(self.observer, {"version": "1"}))))  # type: ignore[no-any-return]


def steered(numbers: Counters, pool: str, count: int) -> None:
    for _ in range(count):
        numbers.pool(pool).outcome(Outcome.STEERED)
        numbers.pool(pool).picked(0.01)


def test_before_the_first_look_nothing_is_sent() -> None:
    assert Sidecar().sends(LiveView(Wanted())) == {}


def test_a_new_page_gets_everything_and_then_only_the_rows_that_have_changed() -> None:
    sidecar, page = Sidecar(), LiveView(Wanted())
    sidecar.goes_on()
    first = sidecar.sends(page)
    assert first["pools"]["order"] == [LLAMA, QWEN]
    assert [row["name"] for row in first["pools"]["rows"]] == ["llama", "qwen"]
    assert first["head"]["version"] == "1"
    assert first["head"]["judgement"]["level"] == "ok"
    sidecar.goes_on()
    assert "pools" not in sidecar.sends(page)
    sidecar.counters.pool(QWEN).in_flight = 3
    sidecar.goes_on()
    changed = sidecar.sends(page)["pools"]
    assert [(row["name"], row["inFlight"]) for row in changed["rows"]] == [("qwen", 3)]
    assert "order" not in changed


def test_a_page_whose_search_finds_no_pool_is_told_so() -> None:
    sidecar = Sidecar()
    sidecar.goes_on()
    sent = sidecar.sends(LiveView(Wanted(query="no such pool")))
    assert sent["pools"] == {"rows": [], "order": []}
    assert sent["head"]["pools"] == {"total": 2, "matching": 0, "offset": 0}


def test_a_pool_in_trouble_moves_to_the_front() -> None:
    sidecar, page = Sidecar(), LiveView(Wanted())
    sidecar.goes_on()
    sidecar.sends(page)
    sidecar.pools[1] = pool(QWEN, ready=())
    sidecar.goes_on()
    sent = sidecar.sends(page)
    assert sent["pools"]["order"] == [QWEN, LLAMA]
    assert [event["subject"] for event in sent["events"]] == [QWEN]


def test_an_open_pool_has_what_was_chosen_for_it_its_pickers_and_its_endpoints() -> None:
    sidecar, page = Sidecar(), LiveView(Wanted(open=(LLAMA,)))
    broken = Problem(Severity.WARNING, "spec is odd", f"InferencePool {LLAMA}")
    sidecar.problems = (broken, Problem(Severity.WARNING, "another", f"InferencePool {QWEN}"))
    sidecar.observer.heard(
        News([], 0, {}, {LLAMA: {PICKER: AddressNote("connection refused", 990.0, 0.004)}})
    )
    sidecar.goes_on()
    detail = sidecar.sends(page)["detail"]
    assert detail["about"]["selector"] == {"app": "llama"}
    assert detail["about"]["problems"] == [str(broken)]
    assert detail["about"]["settings"]["tls"]["mode"]
    (picker,) = detail["pickers"]
    assert (picker["address"], picker["error"], picker["errorAt"]) == (
        PICKER,
        "connection refused",
        990.0,
    )
    assert detail["endpointCount"] == 2
    sidecar.goes_on()
    assert "detail" not in sidecar.sends(page)
    del sidecar.pools[0]
    sidecar.goes_on()
    assert sidecar.sends(page)["detail"] == {"pool": LLAMA, "gone": True}


def test_a_page_follows_a_few_pools_at_most() -> None:
    sidecar = Sidecar()
    names = [f"default/m{number}" for number in range(MAX_OPEN + 2)]
    sidecar.pools = [pool(name) for name in names]
    sidecar.goes_on()
    sent = LiveView(Wanted(open=tuple(names))).messages(sidecar.observer, {})
    assert sum(kind == "detail" for kind, _ in sent) == MAX_OPEN


def test_the_history_is_whole_at_first_and_grows_by_its_new_points() -> None:
    sidecar, page = Sidecar(), LiveView(Wanted(open=(LLAMA,)))
    sidecar.goes_on()
    assert "history" not in sidecar.sends(page)
    for _ in range(6):
        steered(sidecar.counters, LLAMA, 12)
        sidecar.goes_on()
    first = sidecar.sends(page)["history"]
    assert first["whole"]
    assert set(first["series"]) == {"", LLAMA}
    assert first["series"][LLAMA]["steered"] == [6.0, 6.0]
    assert "history" not in sidecar.sends(page)
    for _ in range(3):
        sidecar.goes_on()
    later = sidecar.sends(page)["history"]
    assert not later["whole"]
    assert later["series"][LLAMA]["steered"] == [0]
    assert later["series"][LLAMA]["pick_p99"] == [None]


def test_each_decision_is_sent_once_and_failures_that_were_too_many_are_counted() -> None:
    sidecar, page = Sidecar(), LiveView(Wanted())
    made = Decision(1_000.0, LLAMA, Outcome.REFUSED, Reason.PICKER_TIMEOUT, "id-1")
    sidecar.observer.heard(News([made], 3, {}, {}))
    sidecar.goes_on()
    sent = sidecar.sends(page)
    assert [one["request_id"] for one in sent["decisions"]] == ["id-1"]
    assert sent["head"]["missed"] == 3
    sidecar.goes_on()
    assert "decisions" not in sidecar.sends(page)


def traffic(picked: int, failed: int = 0, unreachable: int = 0) -> Traffic:
    made = Traffic()
    made.picked, made.failed, made.unreachable = picked, failed, unreachable
    return made


def test_endpoints_that_fail_come_first_then_those_that_drain_then_the_busiest() -> None:
    minute = {
        "10.0.0.1:8000": traffic(5),
        "10.0.0.2:8000": traffic(80),
        "10.0.0.3:8000": traffic(15, failed=1),
    }
    seen = PoolTraffic(minute, minute, {"10.0.0.1:8000": 900.4})
    found = endpoints(pool(LLAMA, ready=(1, 2, 3), draining=(4,)), seen)
    order = [(one["pod"], one["share"]) for one in found["endpoints"]]
    assert order == [("pod-3", 0.15), ("pod-4", 0.0), ("pod-2", 0.8), ("pod-1", 0.05)]
    assert found["endpoints"][-1]["since"] == 900


def test_endpoints_are_bounded_and_found_by_address_or_pod() -> None:
    many = pool(LLAMA, ready=range(1, 251))
    nothing = PoolTraffic({}, {}, {})
    all_ = endpoints(many, nothing)
    assert (all_["endpointCount"], len(all_["endpoints"])) == (250, MAX_ENDPOINTS)
    assert all(one["share"] is None for one in all_["endpoints"])
    found = endpoints(many, nothing, "pod-250")
    assert (found["endpointsMatching"], found["endpoints"][0]["endpoint"]) == (1, "10.0.0.250:8000")


def test_a_picker_that_was_never_asked_has_no_error() -> None:
    (one,) = pickers(pool(LLAMA), {}, {})
    assert one == {
        "address": PICKER,
        "state": str(Health.UNTRIED),
        "error": "",
        "errorAt": None,
        "checkSeconds": None,
    }
    assert pickers(pool(LLAMA, pickers=None), {}, {}) == []


def test_a_pool_is_described_with_its_picker_and_without_paths_of_keys() -> None:
    said = described(pool(LLAMA), (), {PICKER: Health.SILENT})
    assert (said["namespace"], said["name"]) == ("default", "llama")
    assert said["picker"] == {
        "addresses": [PICKER],
        "health": {PICKER: Health.SILENT},
        "problem": None,
    }
    assert set(said["settings"]["tls"]) == {"mode", "server_name", "own_ca", "client_certificate"}
    assert described(pool(LLAMA, pickers=None), (), {})["picker"] is None
    (one,) = [endpoint_json(each) for each in pool(LLAMA, ready=(1,)).table.by_key.values()]
    assert one == {"endpoint": "10.0.0.1:8000", "pod": "pod-1", "state": "ready"}
