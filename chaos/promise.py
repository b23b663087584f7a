"""The promise, fault by fault: what each may cost. docs/reliability.md says why. Pure."""

from collections.abc import Callable

from chaos.account import NO_FAULT, Line, Promise, Window

ENVOY_KEEPS = 64 * 1024
"""Bytes of a request that Envoy keeps for asking another relay worker."""

ENVOY_ASKS = 7.0
"""Seconds that Envoy asks for a pick at least, about 10 on average."""

SILENCE = 50.0
"""Seconds of silence after which Envoy gives up a connection to a held socket, and what waits there."""

CLIENT_WAITS = 29.5
"""Seconds after which our client gives up waiting on a held socket; Envoy would wait for a minute."""


DRAIN = 10.0
"""Seconds that whoever leaves finishes what it relays; `--drain-timeout`."""
HEARS = 5.0
"""Seconds, on a busy machine, until a worker has heard from its control process that it leaves."""
LEFT = 60.0
"""Seconds that workers serve without their control process; a start that takes longer comes too late."""


def _outlived_drain(line: Line, window: Window) -> bool:
    # An answer that had begun before what it went through left, and that took longer than that stays.
    left = window.began if window.refuses is None else window.refuses
    refuses = window.ended if window.refuses is None else left + HEARS
    return line.status == 200 and line.began <= refuses and line.ended >= left + DRAIN - 1


def _left_for_long(line: Line, window: Window) -> bool:
    return line.ended > window.began + LEFT


def _cut(line: Line, window: Window) -> bool:
    return window.cut(line)


def _large_or_cut(line: Line, window: Window) -> bool:
    # grpcio's workers bind their sockets themselves: a dead one's refuses until the next has bound it.
    return _large_over_grpcio(line, window) or window.cut(line)


def _large_or_waited(line: Line, _: Window) -> bool:
    return line.size > ENVOY_KEEPS or line.waited > ENVOY_ASKS


def _waited_for_held(line: Line, _: Window) -> bool:
    return line.waited > CLIENT_WAITS


def _silent_for_long(line: Line, window: Window) -> bool:
    return line.ended > window.began + SILENCE


def _large_over_grpcio(line: Line, window: Window) -> bool:
    # grpcio takes no stream any more once it has said that it goes; Envoy then asks the next worker.
    return line.size > ENVOY_KEEPS and window.part.startswith("grpcio")


def _served_there(line: Line, window: Window) -> bool:
    return window.cut(line) or not line.ranked


def _either(*rules: Callable[[Line, Window], bool]) -> Callable[[Line, Window], bool]:
    return lambda line, window: any(rule(line, window) for rule in rules)


def _any(_: Line, __: Window) -> bool:
    return True


NOTHING = Promise("nothing")
_ENVOY = Promise(
    "what Envoy was serving: the connection is its own; what comes while it is away", _any
)
_PICKER = Promise("nothing; FailClose is refused with the reason")
_TAKEN_OVER = Promise(
    "what is still open after the drain, or comes when the next one has not come for a minute; with"
    " grpcio bodies above 64 KiB that come just then",
    _either(_outlived_drain, _large_over_grpcio, _left_for_long),
)

PROMISES = {
    NO_FAULT: NOTHING,
    "picker killed": _PICKER,
    "picker stopped": _PICKER,
    "picker restarted": _PICKER,
    "picker's connections reset": _PICKER,
    "picker's connections garbled": _PICKER,
    "picker's connections drip": _PICKER,
    "picker cut off": _PICKER,
    "model server killed": Promise(
        "what it was serving; without an ordered list also what is sent there", _served_there
    ),
    "model server resets": Promise("what is sent there: a generation may have begun", _any),
    "endpoints churn": NOTHING,
    "manifests broken": NOTHING,
    "API server stopped": NOTHING,
    "API server killed": NOTHING,
    "API server killed, Pods changed": NOTHING,
    "API watches expired (410)": NOTHING,
    "API server slow": NOTHING,
    "API server cut off": NOTHING,
    "API connections reset": NOTHING,
    "worker killed": Promise(
        "what it was relaying; with grpcio bodies above 64 KiB until it is replaced", _large_or_cut
    ),
    "workers replaced (SIGHUP)": _TAKEN_OVER,
    "signal storm": _TAKEN_OVER,
    "sidecar restarted": Promise(
        "what is still open after the drain; the rest when the client gives up or nobody listens for 50 s",
        _either(_outlived_drain, _waited_for_held, _silent_for_long),
    ),
    "sidecar restarted, not held": Promise(
        "what is still open after the drain; bodies above 64 KiB while it is away, others after 10 s",
        _either(_outlived_drain, _large_or_waited),
    ),
    "sidecar killed, workers too": Promise(
        "what it was relaying, as far as Envoy cannot ask anew",
        _either(_cut, _waited_for_held, _silent_for_long),
    ),
    "holder restarted": NOTHING,
    "sidecar killed": _TAKEN_OVER,
    "sidecar upgraded (SIGUSR2)": _TAKEN_OVER,
    "descriptors exhausted": NOTHING,
    "Envoy killed": _ENVOY,
    "Envoy restarted (SIGTERM)": _ENVOY,
    "clock jumps": NOTHING,
}
"""By fault; a request that no fault overlapped, or whose picker spoke a dialect, may never be lost."""
