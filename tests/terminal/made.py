"""What the admin page of a made-up fleet says, for the pure tests of what is drawn."""

from datetime import UTC
from typing import Any

from rich.console import Console, RenderableType

from epp_client.admin import summary
from epp_client.admin.live import LiveView, Wanted
from epp_client.observe.judge import as_json
from epp_client.observe.looks import Look
from epp_client.observe.observer import Observer
from epp_client.terminal.live import Live
from tests.admin.fleet import Fleet

ZONE = UTC
NOW = 1_800_000_000.0
"""Unix time in seconds at which everything is drawn. With the real clock the widths of columns would depend
on the day."""


def seen(fleet: Fleet, *, looks: int = 5, envoys: int = 1) -> Observer:
    """What an observer knows of the fleet after some looks, ten seconds apart."""
    observer = Observer()
    for number in range(looks):
        observer.heard(fleet.news())
        observer.looked(
            Look(
                at=NOW + 10 * (number + 1 - looks),
                now=10.0 * number,
                counters=fleet.counters,
                snapshots=fleet.store.snapshots,
                problems=fleet.store.problems,
                synced=True,
                reasons=fleet.readiness.reasons,
                envoys=envoys,
                serves_xds=True,
                nacks=0,
                workers=2,
            )
        )
        fleet.work(bool(fleet.store.problems))
    return observer


def head(fleet: Fleet, observer: Observer, **more: Any) -> dict[str, Any]:
    """What belongs to no pool, as the admin page has it."""
    from epp_client.observe.interval import total

    assert observer.look is not None
    return {
        "version": "0.2.0",
        "compiled": True,
        "at": observer.look.at,
        "uptime": 7265.0,
        "reasons": fleet.readiness.reasons,
        "notes": {},
        "synced": True,
        "problems": summary.problems_page(fleet.store.problems),
        "workers": 2.0,
        "restarts": 0,
        "retainedBytes": 0,
        "envoys": 1.0,
        "nacks": 0.0,
        "totals": summary.totals(fleet.counters),
        "minute": summary.minute_numbers(total(observer.minute.values())),
        "minuteSeconds": observer.minute_seconds,
        **more,
    }


def status(fleet: Fleet, observer: Observer, limit: int = 15, **more: Any) -> dict[str, Any]:
    """What `/summary` says."""
    pools = summary.pools_page(
        fleet.store.snapshots.values(),
        fleet.store.problems,
        fleet.counters,
        observer.minute,
        observer.judgement,
        limit=limit,
    )
    judged = as_json(observer.judgement)
    return {**head(fleet, observer), "judgement": judged, "pools": pools, **more}


def live(fleet: Fleet, observer: Observer, wanted: Wanted | None = None, **more: Any) -> Live:
    """The state of one that has read the stream."""
    state = Live()
    view = LiveView(wanted or Wanted(limit=500))
    for name, data in view.messages(observer, head(fleet, observer, **more)):
        state.take(name, data)
    return state


def drawn(what: RenderableType, width: int = 160, *, colours: bool = False) -> str:
    """As a terminal of this width shows it."""
    console = Console(
        width=width,
        highlight=False,
        force_terminal=colours,
        color_system="standard" if colours else None,
        legacy_windows=False,
    )
    with console.capture() as captured:
        console.print(what)
    return captured.get()
