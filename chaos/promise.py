"""The promise: the requests that each fault may cost. docs/reliability.md gives the reasons. Pure."""

from collections.abc import Callable

from chaos.account import NO_FAULT, Line, Promise, Window

ENVOY_KEEPS = 64 * 1024
"""Bytes of an ext_proc stream that Envoy keeps for a retry with another worker."""

ENVOY_ASKS = 7.0
"""Minimum seconds of Envoy's ext_proc retries; 10 on average."""

SILENCE = 50.0
"""Seconds of silence after which Envoy closes a connection to a held socket, with its queued requests."""

CLIENT_WAITS = 29.5
"""Seconds after which the client gives up on a request queued in a held socket; Envoy waits for a
minute."""


DRAIN = 10.0
"""Seconds that a leaving process has for its open streams; `--drain-timeout`."""
HEARS = 5.0
"""Seconds, on a busy machine, until a worker has received its control process's order to drain."""
LEFT = 60.0
"""Seconds that workers serve without their control process."""


def _outlived_drain(line: Line, window: Window) -> bool:
    # The response began before its worker began to leave, and took longer than the drain.
    left = window.began if window.refuses is None else window.refuses
    refuses = window.ended if window.refuses is None else left + HEARS
    return line.status == 200 and line.began <= refuses and line.ended >= left + DRAIN - 1


def _left_for_long(line: Line, window: Window) -> bool:
    return line.ended > window.began + LEFT


def _cut(line: Line, window: Window) -> bool:
    return window.cut(line)


def _large_or_cut(line: Line, window: Window) -> bool:
    # grpcio's workers bind their sockets themselves: after a crash connections are refused until the next
    # one binds.
    return _large_over_grpcio(line, window) or window.cut(line)


def _large_or_waited(line: Line, _: Window) -> bool:
    return line.size > ENVOY_KEEPS or line.waited > ENVOY_ASKS


def _waited_for_held(line: Line, _: Window) -> bool:
    return line.waited > CLIENT_WAITS


def _silent_for_long(line: Line, window: Window) -> bool:
    return line.ended > window.began + SILENCE


def _large_over_grpcio(line: Line, window: Window) -> bool:
    # A draining grpcio server refuses new streams, and Envoy retries with another worker.
    return line.size > ENVOY_KEEPS and window.part.startswith("grpcio")


def _served_there(line: Line, window: Window) -> bool:
    return window.cut(line) or not line.ranked


def _either(*rules: Callable[[Line, Window], bool]) -> Callable[[Line, Window], bool]:
    return lambda line, window: any(rule(line, window) for rule in rules)


def _any(_: Line, __: Window) -> bool:
    return True


NOTHING = Promise("nothing")
_ENVOY = Promise("requests open in Envoy, and those sent while it is down", _any)
_PICKER = Promise("nothing; FailClose is refused with the reason")
_ROUTE = Promise("nothing; 404 while there is no route")
_TAKEN_OVER = Promise(
    "requests still open after the drain, or sent when no successor has started for a minute; with"
    " grpcio also new requests with bodies above 64 KiB",
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
        "requests open there; without an ordered list also those sent there", _served_there
    ),
    "model server resets": Promise("requests sent there, as a generation may have begun", _any),
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
        "requests open there; with grpcio also bodies above 64 KiB until it is replaced",
        _large_or_cut,
    ),
    "workers replaced (SIGHUP)": _TAKEN_OVER,
    "signal storm": _TAKEN_OVER,
    "sidecar restarted": Promise(
        "requests still open after the drain; others if the client gives up or no relay answers for 50 s",
        _either(_outlived_drain, _waited_for_held, _silent_for_long),
    ),
    "sidecar restarted, not held": Promise(
        "requests still open after the drain; bodies above 64 KiB while it is down, others after 10 s",
        _either(_outlived_drain, _large_or_waited),
    ),
    "sidecar killed, workers too": Promise(
        "requests open there that Envoy cannot retry",
        _either(_cut, _waited_for_held, _silent_for_long),
    ),
    "holder restarted": NOTHING,
    "sidecar killed": _TAKEN_OVER,
    "sidecar upgraded (SIGUSR2)": _TAKEN_OVER,
    "descriptors exhausted": NOTHING,
    "Envoy killed": _ENVOY,
    "Envoy restarted (SIGTERM)": _ENVOY,
    "clock jumps": NOTHING,
    "route: weights": NOTHING,
    "route: header match": NOTHING,
    "route: hostnames": _ROUTE,
    "route: deleted and created": _ROUTE,
    "ReferenceGrant removed and added": Promise("nothing; 500 while the reference is not allowed"),
    "Service's endpoints churn": NOTHING,
    "certificate renewed": NOTHING,
    "listener removed and added": Promise("nothing; the port itself refuses while it is away"),
    "routes churn": NOTHING,
}
"""Promises by fault. A dialect of the picker alone never excuses a lost request."""
