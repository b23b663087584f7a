"""Observer: what an operator wants to know, from regular looks at the sidecar. Pure; time is in the looks.

It holds the history, the records, the events, the traffic of endpoints and the judgement.
"""

from collections import deque

from epp_client.metrics.counters import Counters
from epp_client.metrics.decisions import News
from epp_client.observe.events import Events
from epp_client.observe.history import ALL, EVERY, History, Point, point
from epp_client.observe.interval import NOTHING, QUIET, Interval, Reading, between, total
from epp_client.observe.judge import Judge, Judgement, Level
from epp_client.observe.looks import Look
from epp_client.observe.records import Records
from epp_client.observe.traffic import SPAN, Endpoints
from epp_client.picker.health import AddressNote

LOOK_EVERY = 2.0
"""Seconds between two looks."""


class Observer:
    """All that is known about the last minutes."""

    def __init__(self) -> None:
        self.history = History()
        self.records = Records()
        self.events = Events()
        self.endpoints = Endpoints()
        self.judgement = Judgement(Level.OK, "nothing is known yet", ())
        self.notes: dict[str, dict[str, AddressNote]] = {}
        """Notes about each address of each pool's picker."""
        self.minute: dict[str, Interval] = {}
        """The last minute's requests of each pool that had some."""
        self._judge = Judge()
        self.look: Look | None = None
        """The newest look."""
        self._cut: Look | None = None
        # The looks at which the parts of the last minute began, and the requests of each part.
        self._cuts: deque[Look] = deque(maxlen=SPAN)
        self._parts: deque[dict[str, Interval]] = deque(maxlen=SPAN)
        self._readings: dict[str, Reading] = {}

    @property
    def minute_seconds(self) -> float:
        """Seconds that `minute` covers: less than a minute in the first minute."""
        return self.look.now - self._cuts[0].now if self.look is not None else 0.0

    def heard(self, news: News) -> None:
        """Take what the relays have recorded."""
        self.records.add(news.decisions, news.missed)
        self.endpoints.add(news.traffic)
        for pool, notes in news.pickers.items():
            self.notes[pool] = notes

    def looked(self, look: Look) -> None:
        """Take a look at the sidecar."""
        look = look._replace(counters=frozen(look.counters))
        self.events.looked(self.look, look)
        self.endpoints.follow(look.at, look.snapshots)
        for name in self.notes.keys() - look.snapshots.keys():
            del self.notes[name]
        now = {name: Reading.of(counters) for name, counters in look.counters.pools.items()}
        if self._cut is None:
            # What was counted before may be old.
            self._cut, self._readings = look, now
            self._cuts.append(look)
        since = self._since_cut(now)
        # Looks come a little early or late.
        if look.now - self._cut.now > EVERY - LOOK_EVERY / 2:
            self._part_over(look, now, since)
            since = {}
        self.minute = self._merged([*self._parts, since])
        self.judgement = self._judge.judge(look, self._cuts[0], self.minute)
        self.look = look

    def _since_cut(self, now: dict[str, Reading]) -> dict[str, Interval]:
        """The requests since the last part began, of pools that had some. A pool that appears begins at
        zero."""
        grown = {}
        for name, reading in now.items():
            before = self._readings.get(name, NOTHING)
            if reading != before and (interval := between(before, reading)).requests:
                grown[name] = interval
        return grown

    def _part_over(self, look: Look, now: dict[str, Reading], since: dict[str, Interval]) -> None:
        """A tenth of the minute is over: keep it, and add a point to the history."""
        assert self._cut is not None
        seconds = look.now - self._cut.now
        points: dict[str, Point] = {}
        flying = {name: one.in_flight for name, one in look.counters.pools.items()}
        for name in since.keys() | {name for name, count in flying.items() if count}:
            points[name] = point(since.get(name, QUIET), seconds, flying.get(name, 0))
        points[ALL] = point(total(since.values()), seconds, sum(flying.values()))
        self.history.forget(self._readings.keys() - now.keys())
        self.history.add(look.at, points)
        self._parts.append(since)
        self._cuts.append(look)
        self._cut, self._readings = look, now
        self.endpoints.next_part()

    def _merged(self, parts: list[dict[str, Interval]]) -> dict[str, Interval]:
        names = {name for part in parts for name in part}
        return {name: total(part[name] for part in parts if name in part) for name in names}


def frozen(counters: Counters) -> Counters:
    """A copy of counters that go on counting."""
    held = Counters()
    held.add(counters)
    held.restarts = counters.restarts
    return held
