"""The dialects of endpoint pickers: what each changes of a simulated picker's behaviour.

Pure. The default is GAIE's picker, and several dialects can be combined.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace

from epp_client.ext_proc.pb.ext_proc_pb2 import HeaderMutation
from testbed.conversation import (
    Behaviour,
    BodyForm,
    Change,
    Dialect,
    Timing,
    as_go_writes,
)
from testbed.steps import (
    CONTROLS,
    OVERSIZED,
    Fail,
    Finish,
    Request,
    Step,
    Wait,
    refusal,
    set_header,
    streamed,
)


def _picks(text: Callable[[Request], str]) -> Dialect:
    return lambda b: replace(b, pick=text)


def _answers(change: Change, *, timing: Timing | None = None) -> Dialect:
    return lambda b: replace(b, answer=(*b.answer, change), timing=timing or b.timing)


def _responds(change: Callable[[str, int, list[Step]], Sequence[Step]]) -> Dialect:
    return lambda b: replace(b, response=(*b.response, change))


def _mutate_request(mutation: HeaderMutation) -> None:
    set_header(mutation, "x-picker-added", "yes")
    mutation.remove_headers.append("x-client-sent")


def _mutate_response(mutation: HeaderMutation) -> None:
    set_header(mutation, "x-picker-response", "yes")
    mutation.remove_headers.append("x-http-version")


def _too_many_headers(mutation: HeaderMutation) -> None:
    for number in range(98):
        set_header(mutation, f"x-picker-{number}", "one of many")


def _french(body: bytes) -> bytes:
    return body.replace(b"Hello", b"Bonjour")


def _adapter(body: bytes) -> bytes:
    return body.replace(b'"public-name"', b'"adapter-name"')


def _encoded_anew(body: bytes) -> bytes:
    try:
        return as_go_writes(json.loads(body))
    except ValueError:
        return body


def _repeating(behaviour: Behaviour) -> Behaviour:
    """GAIE's EPP since 1.3 and llm-d's, which rewrite a model's name both ways."""
    return replace(
        behaviour,
        repeats_headers=True,
        plain_at_the_end=True,
        answers_request_trailers=False,
        echoes_served=False,
        encodes_json=True,
        restores_name=True,
        size=62_000,
    )


def _half_then_dead(request: Request, answer: list[Step]) -> list[Step]:
    half = streamed(bytes(request.body[: len(request.body) // 2]), end=False)
    return [*answer[:1], *half, Fail("ABORTED", "died")]


def _ranked(request: Request) -> str:
    """Every candidate, the pick first: an ordered list for retries."""
    first = request.candidates.index(request.pick) if request.pick in request.candidates else 0
    return ",".join(request.candidates[first:] + request.candidates[:first])


def _drip(_: Request, answer: list[Step]) -> list[Step]:
    """A pause before each message, so that the answer always makes progress."""
    return [part for step in answer for part in (Wait(0.2), step)]


def _twice(_: Request, answer: list[Step]) -> list[Step]:
    """The header answer and the end of the body twice. A repeated chunk would change the body."""
    first, *rest = answer
    return [first, first, *rest, *rest[-1:]]


DIALECTS: dict[str, Dialect] = {
    # What real pickers do.
    "pick-after-body": lambda b: b,
    "pick-with-headers": lambda b: replace(b, timing=Timing.HEADERS),
    "streaming": lambda b: replace(b, timing=Timing.HEADERS, body_form=BodyForm.AS_IT_COMES),
    "body-before-headers": _answers(lambda _, answer: [*answer[1:], *answer[:1]]),
    "common-response": lambda b: replace(
        b,
        body_form=BodyForm.COMMON_RESPONSE,
        answers_request_trailers=False,
        answers_trailers=False,
    ),
    "rewrite-body": lambda b: replace(b, body=_adapter),
    "replace-body": lambda b: replace(b, body=lambda _: b"other" * 9, size=7),
    "chunked": lambda b: replace(b, size=20_000),
    "close-after-pick": _answers(lambda _, answer: [*answer, Finish()]),
    "ignore-trailers": lambda b: replace(b, answers_request_trailers=False, answers_trailers=False),
    "silent-response": _responds(lambda _, __, ___: []),
    "lwepp-1.6": lambda b: replace(
        DIALECTS["common-response"](b), repeats_each=True, echoes_pick=True
    ),
    "llm-d-0.10": _repeating,
    "gaie-1.5": _repeating,
    "gaie-1.2": lambda b: replace(
        _repeating(b),
        left_out=CONTROLS,
        answers_trailers=False,
        restores_name=False,
        plain_response=_encoded_anew,
    ),
    "slow": _answers(
        lambda r, answer: [Wait(float(r.headers.get("x-picker-delay-ms", "100")) / 1000), *answer]
    ),
    "mutate": lambda b: replace(
        b,
        mutate_request=_mutate_request,
        mutate_response=_mutate_response,
        response_body=_french,
    ),
    "rewrite-response": lambda b: replace(b, response_body=_french),
    "raw-value": lambda b: replace(b, raw=True),
    "value": lambda b: replace(b, raw=False),
    "header-only": lambda b: replace(b, in_metadata=False),
    "metadata-only": lambda b: replace(b, in_header=False),
    "pick-list": _picks(lambda r: r.headers.get("x-picker-list", "")),
    "ranked": _picks(_ranked),
    # Refusals, which are answers.
    "refuse-429": _answers(lambda _, __: [refusal(429)]),
    "refuse-503": _answers(lambda _, __: [refusal(503)]),
    "refuse-at-response": _responds(
        lambda phase, _, answer: [refusal(502)] if phase == "response_headers" else answer
    ),
    # Missing and slow answers.
    "drip": lambda b: replace(b, size=8_000, answer=(*b.answer, _drip)),
    "silent": lambda b: replace(b, timing=Timing.NEVER),
    "close-before-pick": _answers(lambda _, __: [Finish()], timing=Timing.HEADERS),
    "no-endpoints-status": _answers(
        lambda _, __: [Fail("INTERNAL", "no endpoints")], timing=Timing.HEADERS
    ),
    # Invalid picks.
    "disagree": lambda b: replace(b, other_pick="127.0.0.9:1"),
    "pick-hostname": _picks(lambda _: "pod-a.default.svc:8000"),
    "pick-no-port": _picks(lambda r: r.pick.rpartition(":")[0]),
    "pick-empty": _picks(lambda _: ""),
    "pick-10000": _picks(lambda r: ",".join([r.pick] * 10_000)),
    "pick-unicode": _picks(lambda _: "１２7.0.0.1:8000"),
    "pick-outside": _picks(lambda _: "127.0.0.77:9"),
    "pick-none": lambda b: replace(b, in_header=False, in_metadata=False),
    # Broken protocol.
    "garbage-bytes": _answers(lambda _, __: [b"\xff\xff\xff\xff"], timing=Timing.HEADERS),
    "wrong-order": _answers(lambda _, answer: [*streamed(b"x", response=True), *answer]),
    "duplicate-replies": _answers(_twice),
    "die-mid-body": _answers(_half_then_dead),
    "die-mid-response": _responds(
        lambda phase, _, answer: [Fail("ABORTED", "died")] if phase == "response_body" else answer
    ),
    "error-mid-response": _responds(
        lambda phase, count, answer: (
            [Fail("INTERNAL", "broken")] if phase == "response_body" and count > 1 else answer
        )
    ),
    "oversized-mutation": lambda b: replace(
        b, mutate_request=lambda m: set_header(m, "x-picker-oversized", "x" * OVERSIZED)
    ),
    # Changes that Envoy refuses.
    "invalid-mutation": lambda b: replace(
        b, mutate_request=lambda m: set_header(m, "x-picker-invalid", "two\nlines")
    ),
    "invalid-response-mutation": lambda b: replace(
        b, mutate_response=lambda m: set_header(m, "x picker invalid", "name")
    ),
    "too-many-headers": lambda b: replace(
        b, mutate_request=_too_many_headers, mutate_response=_too_many_headers
    ),
}
"""Dialects by their names on the command line and in `x-picker-dialect`."""
