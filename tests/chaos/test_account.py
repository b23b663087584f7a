"""The chaos suite's own judgement: what it calls right, lost, and a breach of the promise."""

import hashlib
import json
from dataclasses import replace

import pytest

from chaos.account import Line, Window, account, add
from chaos.faults import FAULTS
from chaos.flat import envelope, trend
from chaos.load import _judged
from chaos.pool_faults import POOL_FAULTS
from chaos.promise import PROMISES
from chaos.workload import CORRUPT, DIALECTS, DOWNLOAD, RANKED, Ask, requests
from testbed.dialects import DIALECTS as KNOWN
from testbed.link import _Frames
from testbed.model_server import DONE, events, pattern

LINE = Line(1, "open", "1 KB", "", 1, 10.0, 10.5, 11.0, "answered", 200, "", "a", "")
LOST = replace(LINE, outcome="lost", status=503, detail="503:")
LARGE = replace(LOST, kind="1 MB")


def window(fault: str, began: float = 9.0, ended: float = 12.0, *cuts: float) -> Window:
    return Window(fault, "native/override_host", began, ended, [], [(cut, cut) for cut in cuts])


def breaches(line: Line, *windows: Window) -> int:
    found = account([line], windows, PROMISES)
    assert found.total.sent == 1
    assert found.total.breaches == len(found.breaches)
    return len(found.breaches)


def test_every_fault_has_a_promise() -> None:
    assert {fault.name for fault in (*FAULTS, *POOL_FAULTS)} <= PROMISES.keys()


def test_every_dialect_exists() -> None:
    assert {*DIALECTS, RANKED} <= KNOWN.keys()


@pytest.mark.parametrize("fault", PROMISES)
def test_an_answer_is_never_a_breach(fault: str) -> None:
    assert breaches(LINE, window(fault)) == 0


COSTS = {
    "no fault": (LOST, (), 1),
    "a fault that is over": (LARGE, (window("worker killed", 1.0, 9.9, 5.0),), 1),
    "a picker's death costs nothing": (LOST, (window("picker killed"),), 1),
    "churn costs nothing": (LOST, (window("endpoints churn"),), 1),
    "a killed worker costs what it relayed": (LOST, (window("worker killed", 9.0, 12.0, 10.2),), 0),
    "and not what came later": (LOST, (window("worker killed", 9.0, 12.0, 9.5),), 1),
    "nor what Envoy cannot keep": (LARGE, (window("worker killed", 9.0, 12.0, 9.5),), 1),
    "but with grpcio": (
        LARGE,
        (replace(window("worker killed", 9.0, 12.0, 9.5), part="grpcio/override_host"),),
        0,
    ),
    "a restart that nobody holds costs large bodies": (
        LARGE,
        (window("sidecar restarted, not held"),),
        0,
    ),
    "and no small ones": (LOST, (window("sidecar restarted, not held"),), 1),
    "unless it takes too long": (
        replace(LOST, first=None, ended=20.0),
        (window("sidecar restarted, not held", 9.0, 30.0),),
        0,
    ),
    "a held restart costs nothing": (LARGE, (window("sidecar restarted"),), 1),
    "however long it takes": (
        replace(LARGE, pool="skip", first=None, ended=39.0),
        (replace(window("sidecar restarted", 9.0, 45.0), refuses=9.0),),
        1,
    ),
    "but the client gives up": (
        replace(LARGE, first=None, ended=40.0),
        (replace(window("sidecar restarted", 9.0, 45.0), refuses=9.0),),
        0,
    ),
    "or it was open before, and is when the drain ends": (
        replace(LOST, status=200, began=5.0, first=6.0, ended=19.1),
        (replace(window("sidecar restarted", 8.0, 45.0), refuses=9.0),),
        0,
    ),
    "and not sooner": (
        replace(LOST, status=200, began=5.0, first=6.0, ended=16.0),
        (replace(window("sidecar restarted", 8.0, 45.0), refuses=9.0),),
        1,
    ),
    "or nobody listens for 50 s": (
        replace(LOST, began=40.0, first=59.5, ended=59.5),
        (window("sidecar killed, workers too", 9.0, 70.0, 9.5),),
        0,
    ),
    "and not before": (
        replace(LOST, began=40.0, first=55.0, ended=55.0),
        (window("sidecar killed, workers too", 9.0, 70.0, 9.5),),
        1,
    ),
    "signals cost nothing": (LOST, (window("signal storm"),), 1),
    "but what outlives the drain": (
        replace(LOST, status=200, ended=19.5),
        (window("signal storm"),),
        0,
    ),
    "if its answer had begun": (replace(LOST, ended=19.5), (window("signal storm"),), 1),
    "or what comes after a minute": (
        replace(LOST, began=65.0, ended=70.0),
        (window("signal storm", 9.0, 80.0),),
        0,
    ),
    "a killed container costs what it relayed": (
        LARGE,
        (window("sidecar killed, workers too", 9.0, 12.0, 10.5),),
        0,
    ),
    "and nothing that came later": (
        LARGE,
        (window("sidecar killed, workers too", 9.0, 12.0, 9.5),),
        1,
    ),
    "an upgrade costs nothing": (LARGE, (window("sidecar upgraded (SIGUSR2)"),), 1),
    "a dead model server": (LOST, (window("model server killed", 9.0, 12.0, 9.5),), 0),
    "is walked past on an ordered list": (
        replace(LOST, dialect=RANKED),
        (window("model server killed", 9.0, 12.0, 9.5),),
        1,
    ),
    "other bytes are never excused": (
        replace(LOST, status=200, detail=CORRUPT + "the model server got another body"),
        (window("Envoy killed", 9.0, 12.0, 10.5), window("model server resets")),
        1,
    ),
    "one of two faults excuses it": (LOST, (window("picker killed"), window("Envoy killed")), 0),
}


@pytest.mark.parametrize(("line", "windows", "count"), COSTS.values(), ids=COSTS.keys())
def test_what_a_fault_may_cost(line: Line, windows: tuple[Window, ...], count: int) -> None:
    assert breaches(line, *windows) == count


REFUSALS = {
    "FailClose by its picker's failure": ("close", "", "picker_timeout", 0),
    "FailClose by a bad pick": ("close", "", "pick_outside_pool", 0),
    "FailClose for any other reason": ("close", "", "overloaded", 1),
    "FailOpen": ("open", "", "picker_timeout", 1),
    "FailOpen, body not kept": ("open", "", "body_not_retained", 1),
    "by the picker": ("open", "refuse-429", "by the picker, 429", 0),
}


@pytest.mark.parametrize(
    ("pool", "dialect", "reason", "count"), REFUSALS.values(), ids=REFUSALS.keys()
)
def test_which_refusals_stand(pool: str, dialect: str, reason: str, count: int) -> None:
    line = replace(LINE, outcome="refused", status=503, pool=pool, dialect=dialect, reason=reason)
    assert breaches(line, window("picker killed")) == count


def test_a_request_counts_for_each_fault_and_once_in_all() -> None:
    windows = [window("picker killed"), window("worker killed"), window("worker killed", 30, 31)]
    found = add([account([LINE], windows, PROMISES)] * 2)
    assert found.total.sent == 2
    assert {n: (r.windows, r.sent) for n, r in found.faults.items()} == {
        "picker killed": (2, 2),
        "worker killed": (4, 2),
    }


def right(ask: Ask) -> bytes:
    if ask.kind == "stream":
        tokens = 10 + ask.seed % 40
        request = {"seed": ask.seed}
        return b"".join((*events(request, "chat.completion", tokens), DONE))
    if ask.kind == "download":
        return pattern(0, DOWNLOAD)
    return json.dumps({"sha256": hashlib.sha256(ask.body()).hexdigest()}).encode()


@pytest.mark.parametrize("kind", ["0 B", "1 KB", "1 MB", "stream", "download"])
def test_only_the_right_answer_is_right(kind: str) -> None:
    ask, other = Ask(1, "open", kind, "", 5), Ask(1, "open", kind, "", 6)
    answer = right(ask)
    assert ask.wrong(answer) == ""
    assert ask.wrong(answer[:-1])
    assert ask.wrong(b"")
    assert ask.wrong(b"\x07" + answer[1:])
    if kind not in ("0 B", "download"):
        assert other.wrong(answer)


def test_what_is_lost_and_what_is_refused() -> None:
    ask = Ask(1, "open", "1 KB", "", 5)
    assert _judged(ask, 200, "", right(ask))["outcome"] == "answered"
    assert _judged(ask, 200, "", b"")["outcome"] == "lost"
    assert _judged(ask, 503, "", b"upstream connect error")["outcome"] == "lost"
    assert _judged(ask, 503, "picker_closed", b"{}")["outcome"] == "refused"
    # nobody asked it to
    assert _judged(ask, 429, "", b"the picker refuses")["outcome"] == "lost"


def test_a_seed_gives_the_same_requests() -> None:
    def first(seed: int) -> list[Ask]:
        asks = requests(seed, 0.25, ranked=True)
        return [next(asks) for _ in range(50)]

    assert first(1) == first(1)
    assert first(1) != first(2)


def test_a_flat_curve_is_told_from_a_leak() -> None:
    noise = [(-1) ** n * (n % 7) for n in range(1000)]
    flat = [(float(n), 50.0 + noise[n] / 10) for n in range(1000)]
    leak = [(at, value + at * 0.006) for at, value in flat]
    spike = [(at, value + (40 if at == 500 else 0)) for at, value in flat]
    assert trend(flat, warm_up=100, share=0.03, least=3).flat
    assert trend(spike, warm_up=100, share=0.03, least=3).flat
    assert not trend(leak, warm_up=100, share=0.03, least=3).flat
    assert not trend([], warm_up=0, share=0, least=0).flat


def test_the_edges_of_a_curve_that_goes_to_and_fro() -> None:
    curve = [(float(n), 50.0 + n / 100 + 10 * (n % 7 == 0)) for n in range(125)]
    assert envelope(curve, 60, min) == [(0, 50.01), (60, 50.6)]
    assert envelope(curve, 60, max) == [(0, 60.56), (60, 61.19)]
    assert envelope([], 60, min) == []


@pytest.mark.parametrize("size", [1, 3, 9, 10, 1000])
def test_garbage_goes_between_frames_only(size: int) -> None:
    lengths = [0, 5, 100, 0, 16_384, 1]
    stream = b"".join(n.to_bytes(3, "big") + bytes(6 + n) for n in lengths)
    begins = {sum(9 + n for n in lengths[:at]) for at in range(len(lengths) + 1)}
    frames = _Frames()
    found = set()
    for at in range(0, len(stream), size):
        boundary = frames.boundary(stream[at : at + size])
        if boundary is not None:
            found.add(at + boundary)
    assert found
    assert found <= begins
