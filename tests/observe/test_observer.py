"""Looks, one after the other, as the process makes them."""

from epp_client.errors import Reason
from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import Decision, News, Traffic
from epp_client.observe.history import ALL
from epp_client.observe.judge import Level
from epp_client.observe.observer import Observer
from epp_client.picker.health import AddressNote
from epp_client.relay.outcome import Outcome
from tests.observe.made import LLAMA, PICKER, QWEN, look, pool


class Running:
    """A sidecar whose counters grow, and its observer."""

    def __init__(self) -> None:
        self.observer = Observer()
        self.counters = Counters()
        self.at = 1_000.0

    def goes_on(self, seconds: float, *, refused: int = 0, steered: int = 0) -> None:
        """Requests of llama, and looks every two seconds."""
        numbers = self.counters.pool(LLAMA)
        for _ in range(round(seconds / 2)):
            for _ in range(steered):
                numbers.outcome(Outcome.STEERED)
                numbers.picked(0.002)
            for _ in range(refused):
                numbers.outcome(Outcome.REFUSED)
                numbers.refuse(Reason.PICKER_TIMEOUT)
            self.at += 2
            self.observer.looked(look(pool(LLAMA), pool(QWEN), at=self.at, counters=self.counters))


def test_what_was_counted_before_the_first_look_is_not_of_this_minute() -> None:
    running = Running()
    running.counters.pool(LLAMA).outcomes[Outcome.REFUSED] = 1_000
    running.goes_on(2)
    assert running.observer.minute == {}
    assert running.observer.judgement.level is Level.OK


def test_trouble_shows_at_the_next_look_and_is_over_a_minute_after_its_end() -> None:
    running = Running()
    levels = []
    for seconds, refused in ((30, 0), (2, 1), (54, 0), (16, 0)):
        running.goes_on(seconds, steered=1 - refused, refused=refused)
        levels.append(running.observer.judgement.level)
    assert levels == [Level.OK, Level.FAILING, Level.FAILING, Level.OK]
    assert running.observer.minute[LLAMA].requests in range(25, 35)


def test_the_history_has_a_point_every_six_seconds() -> None:
    running = Running()
    running.goes_on(62, steered=3)
    series = running.observer.history.as_json(LLAMA)
    assert [round(b - a) for a, b in zip(series["at"], series["at"][1:], strict=False)] == [6] * 9
    assert series["steered"] == [1.5] * 10
    assert running.observer.history.as_json(ALL)["steered"] == [1.5] * 10
    assert running.observer.history.as_json(QWEN)["steered"] == [0] * 10
    assert 0.001 < series["pick_p99"][0] <= 0.0025


def test_a_pool_that_is_created_again_begins_at_zero() -> None:
    running = Running()
    running.goes_on(20, steered=5)
    running.counters.pools.clear()
    running.goes_on(8, steered=5)
    assert running.observer.minute[LLAMA].requests <= 75


def test_news_are_kept_and_notes_go_with_their_pool() -> None:
    running = Running()
    running.goes_on(2)
    traffic = Traffic()
    traffic.picked = traffic.served = 2
    made = Decision(1.0, LLAMA, Outcome.STEERED, None)
    note = AddressNote("refused", 3.0, None)
    running.observer.heard(
        News([made], 1, {LLAMA: {"10.0.0.1:8000": traffic}}, {LLAMA: {PICKER: note}})
    )
    assert [record.decision for record in running.observer.records.since()] == [made]
    assert running.observer.notes == {LLAMA: {PICKER: note}}
    assert running.observer.endpoints.of(LLAMA).minute["10.0.0.1:8000"].picked == 2
    running.observer.looked(look(pool(QWEN), at=running.at + 2))
    assert running.observer.notes == {}
    assert running.observer.endpoints.of(LLAMA).total == {}


def test_the_minute_of_an_endpoint_ends_and_its_total_stays() -> None:
    running = Running()
    running.goes_on(2)
    traffic = Traffic()
    traffic.picked = traffic.unreachable = 1
    running.observer.heard(News([], 0, {LLAMA: {"10.0.0.1:8000": traffic}}, {}))
    running.goes_on(50, steered=1)
    assert running.observer.endpoints.of(LLAMA).minute["10.0.0.1:8000"].unreachable == 1
    running.goes_on(16, steered=1)
    found = running.observer.endpoints.of(LLAMA)
    assert (dict(found.minute), found.total["10.0.0.1:8000"].picked) == ({}, 1)
    assert set(found.first_seen.values()) == {1_002.0}


def test_an_endpoint_that_left_is_forgotten_and_begins_anew() -> None:
    running = Running()
    running.goes_on(2)
    traffic = Traffic()
    traffic.picked = 1
    running.observer.heard(News([], 0, {LLAMA: {"10.0.0.1:8000": traffic}}, {}))
    running.observer.looked(look(pool(LLAMA, ready=(2,)), at=1_010.0))
    running.observer.looked(look(pool(LLAMA), at=1_020.0))
    found = running.observer.endpoints.of(LLAMA)
    assert found.total == {}
    assert found.first_seen == {"10.0.0.1:8000": 1_020.0, "10.0.0.2:8000": 1_002.0}


def test_looks_that_come_a_little_early_make_a_point_every_six_seconds_all_the_same() -> None:
    observer, at = Observer(), 1_000.0
    for _ in range(31):
        observer.looked(look(pool(LLAMA), at=at))
        at += 1.99
    assert len(observer.history.times) == 10
