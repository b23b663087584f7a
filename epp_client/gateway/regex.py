"""Checks regular expressions as Envoy does, with the same library. Pure.

Envoy rejects a whole route configuration for one bad expression, so it must not get there.
"""

import re2

MAX_PROGRAM_SIZE = 10_000
"""Size of a compiled expression from which Envoy rejects it: `re2.max_program_size.error_level` in the
bootstrap. Envoy's default of 100 is too low for `[a-z0-9-]{1,63}`."""
MAX_LENGTH = 4096

_OPTIONS = re2.Options()
_OPTIONS.log_errors = False


def regex_fault(text: str) -> str:
    """Why Envoy would reject the expression; empty if it takes it."""
    if len(text) > MAX_LENGTH:
        return f"the regular expression is longer than {MAX_LENGTH} characters"
    try:
        size = re2.compile(text, _OPTIONS).programsize
    except re2.error as error:
        [why] = error.args
        said = why.decode(errors="replace") if isinstance(why, bytes) else str(why)
        return f"{text[:80]!r} is not a regular expression of RE2: {said}"
    if size > MAX_PROGRAM_SIZE:
        return (
            f"the regular expression is too complex (size {size}, Envoy allows {MAX_PROGRAM_SIZE})"
        )
    return ""
