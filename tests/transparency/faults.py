"""Faults that are known and not mended yet: which cases they break, and the item that will mend them. Pure.

A case that is listed and passes fails the suite, so no entry outlives its fault.
"""

from collections.abc import Callable
from typing import NamedTuple

from epp_client.pool.inference_pool import AppProtocol
from tests.transparency.matrix import Case


class Fault(NamedTuple):
    """One fault of the product."""

    item: str
    what: str
    breaks: Callable[[Case], bool]


def _repeats_too_much(case: Case) -> bool:
    if case.dialect not in ("llm-d-0.10", "gaie-1.2"):
        return False
    chunked = case.protocol is AppProtocol.HTTP and case.answer_kind.framing == "chunked"
    return (
        case.request in ("many-headers", "long-headers")
        or case.answer in ("many-headers", "long-headers")
        or chunked
    )


FAULTS = (
    Fault(
        "13.3",
        "every header repeated is refused above 42 headers or 30 KB, and with transfer-encoding",
        lambda case: _repeats_too_much(case) and case.request != "http-1.0",
    ),
)


ONLY_TRAILERS = (
    "13.3: an empty body before trailers that had none is given to Envoy, which refuses it"
)
"""Why one of ALONE_FAILS fails with us as well."""


def fault_of(case: Case) -> Fault | None:
    """The fault that breaks a case."""
    return next((fault for fault in FAULTS if fault.breaks(case)), None)
