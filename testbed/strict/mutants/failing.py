"""Gateways with the wrong failure mode, or that lose a request when its picker fails."""

from typing import Any

from epp_client.envoy import gateway_actions
from epp_client.pool.inference_pool import FailureMode, InferencePool, PoolName
from epp_client.relay import without_picker
from epp_client.relay.originals import Originals
from testbed.strict.mutants.registry import mutant, replace


@mutant(
    "always-open",
    {
        "fail-close": "200 alpha",
        "fail-close-broken": "expected 503, got 200",
        "out-of-pool-close": "200 alpha",
    },
)
def always_open() -> None:
    """Every pool is FailOpen."""
    replace(InferencePool, "failure_mode", lambda _: property(lambda pool: FailureMode.FAIL_OPEN))


@mutant(
    "always-close", {"fail-open": ": 503", "fail-open-body": "got 503", "out-of-pool-open": ": 503"}
)
def always_close() -> None:
    """Every pool is FailClose."""
    replace(InferencePool, "failure_mode", lambda _: property(lambda pool: FailureMode.FAIL_CLOSE))


@mutant("one-picker-a-rule", {"fail-open": ": 503", "fail-close": "24 of 24: 503"})
def one_picker_a_rule() -> None:
    """All pools of a rule ask the picker of its first pool."""
    first: list[PoolName] = []

    def noted(original: Any) -> Any:
        def to_backends(route: Any, action: Any, terms: Any) -> Any:
            first[:] = [b.target for b in action.backends if isinstance(b.target, PoolName)][:1]
            return original(route, action, terms)

        return to_backends

    replace(gateway_actions, "_to_backends", noted)
    replace(
        gateway_actions, "_enable", lambda f: lambda route, pool, terms: f(route, first[0], terms)
    )


@mutant("body-lost", {"fail-open-body": "got another body"})
def body_lost() -> None:
    """What the picker had of the body is not sent again."""

    def make(original: Any) -> Any:
        def go_local(*arguments: Any) -> None:
            take = Originals.take
            Originals.take = lambda self: (b"", *take(self)[1:])  # type: ignore[method-assign]
            try:
                original(*arguments)
            finally:
                Originals.take = take  # type: ignore[method-assign]

        return go_local

    replace(without_picker, "go_local", make)
