"""docs/reference/reasons.md and picker-states.md."""

from epp_client.errors import ADVICE, Reason
from epp_client.ext_proc.replies import status_of
from epp_client.picker.health import USABLE, Health
from reference.text import code, member_docs, table

_REASONS = """\
# Reasons

A reason says why a request was refused, or why it was served without its picker. It is the same word in

- the response header `x-inference-error` (the request was refused) or `x-inference-fallback` (the request was served
  without its picker, under FailOpen),
- the label `reason` of the [metrics](metrics.md),
- the field `reason` of the log line, and the fields `error` and `fallback` of Envoy's access log.

The body of a refusal is JSON in the OpenAI error shape. A gRPC client gets the status UNAVAILABLE. The reasons
`endpoint_…` are Envoy's answers to requests that were steered: the sidecar adds its header and the shape. They are counted
in `epp_client_endpoint_failures_total`.

"""
_STATES = """\
# States of a picker's addresses

Each address of a pool's picker has a state. `/pools` shows it, the gauge `epp_client_picker_addresses` counts the
addresses by `state`, and each change is a log line. The states are in the order from good to bad.

"""


def reasons() -> str:
    """Every reason: the HTTP status, what has happened, what to do."""
    rows = []
    for value, text in member_docs(Reason).items():
        reason = Reason(value)
        rows.append([code(value), str(status_of(reason)), text, ADVICE[reason]])
    return _REASONS + table(["reason", "status", "what has happened", "what to do"], rows)


def picker_states() -> str:
    """Every state, and whether requests go to such an address."""
    gets = {
        **dict.fromkeys(Health, "no"),
        **dict.fromkeys(USABLE, "yes"),
        Health.TRIAL: "one at a time",
    }
    rows = [[code(v), text, gets[Health(v)]] for v, text in member_docs(Health).items()]
    return _STATES + table(["state", "meaning", "gets requests"], rows)
