"""Reads the filters of a rule or of a backendRef of an HTTPRoute. Pure.

A filter that is not supported is never skipped: by the Gateway API requests that it would have changed get
an error instead.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from epp_client.gateway.shapes import (
    BackendReference,
    FilterShape,
    HeaderFilter,
    HeaderShape,
    MirrorFilter,
    PathModifier,
    RedirectFilter,
)
from epp_client.gateway.table import UNCHANGED, HeaderChange, PathChange, Redirect
from epp_client.pool.problems import Fault, Path

REDIRECTS = (301, 302, 303, 307, 308)
_DENOMINATORS = (100, 10_000, 1_000_000)
_SCHEMES = ("", "http", "https")
TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
"""Names of headers and methods, by RFC 9110."""
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
PATH = re.compile(r"/[^?#\s]*")
_DURATION = re.compile(r"([0-9]{1,5}(h|m|s|ms)){1,4}")
_PART = re.compile(r"([0-9]+)(ms|h|m|s)")
_SECONDS = {"h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}


class MirrorRef(NamedTuple):
    """A RequestMirror whose Service is not resolved yet."""

    reference: BackendReference
    path: Path
    """Of the reference in its route."""
    numerator: int
    denominator: int


@dataclass
class Filters:
    """What the filters of one place do together."""

    request_headers: HeaderChange = UNCHANGED
    response_headers: HeaderChange = UNCHANGED
    redirect: Redirect | None = None
    hostname: str = ""
    path: PathChange | None = None
    mirrors: list[MirrorRef] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)


def read_filters(shapes: Sequence[FilterShape], path: Path, *, of_backend: bool = False) -> Filters:
    """Read the filters at `path`. A backendRef may have header modifiers alone: Envoy decides about the
    rest before it chooses the backend."""
    found = Filters()
    for index, shape in enumerate(shapes):
        place: Path = (*path, index)
        match shape.type:
            case "RequestHeaderModifier" if shape.request_header_modifier is not None:
                found.request_headers = _headers(shape.request_header_modifier, place, found)
            case "ResponseHeaderModifier" if shape.response_header_modifier is not None:
                found.response_headers = _headers(shape.response_header_modifier, place, found)
            case "RequestRedirect" if shape.request_redirect is not None and not of_backend:
                _redirect(shape.request_redirect, (*place, "requestRedirect"), found)
            case "URLRewrite" if shape.url_rewrite is not None and not of_backend:
                found.hostname = shape.url_rewrite.hostname
                found.path = _path(shape.url_rewrite.path, (*place, "urlRewrite", "path"), found)
            case "RequestMirror" if shape.request_mirror is not None and not of_backend:
                _mirror(shape.request_mirror, (*place, "requestMirror"), found)
            case name:
                where = " of a backendRef" if of_backend else ""
                text = f"filter {name}{where} is not supported"
                found.faults.append(Fault((*place, "type"), text))
    if found.redirect is not None and (found.hostname or found.path):
        found.faults.append(Fault(path, "RequestRedirect and URLRewrite exclude each other"))
    return found


def _headers(shape: HeaderFilter, path: Path, found: Filters) -> HeaderChange:
    change = HeaderChange(_pairs(shape.set), _pairs(shape.add), tuple(shape.remove))
    pairs = (*change.set, *change.add)
    for name in (*(name for name, _ in pairs), *change.remove):
        if not TOKEN.fullmatch(name):
            found.faults.append(Fault(path, f"{name[:80]!r} is not the name of a header"))
        elif name.lower() == "host":
            # Envoy rejects it: Host decides about the route.
            found.faults.append(Fault(path, "Host cannot be changed here; use a URLRewrite"))
    for name, value in pairs:
        if _CONTROL.search(value):
            found.faults.append(Fault(path, f"the value of {name[:80]} has control characters"))
    return change


def _pairs(shapes: Iterable[HeaderShape]) -> tuple[tuple[str, str], ...]:
    """Of equal names the first one counts."""
    pairs: dict[str, tuple[str, str]] = {}
    for shape in shapes:
        pairs.setdefault(shape.name.lower(), (shape.name, shape.value))
    return tuple(pairs.values())


def _redirect(shape: RedirectFilter, path: Path, found: Filters) -> None:
    if shape.status_code not in REDIRECTS:
        text = f"{shape.status_code} is not one of {', '.join(map(str, REDIRECTS))}"
        found.faults.append(Fault((*path, "statusCode"), text))
        return
    if shape.scheme not in _SCHEMES:
        text = f"{shape.scheme!r} is not supported; http and https are"
        found.faults.append(Fault((*path, "scheme"), text))
    change = _path(shape.path, (*path, "path"), found)
    found.redirect = Redirect(shape.status_code, shape.scheme, shape.hostname, shape.port, change)


def _path(shape: PathModifier | None, path: Path, found: Filters) -> PathChange | None:
    if shape is None:
        return None
    match shape.type:
        case "ReplaceFullPath":
            key, value, whole = "replaceFullPath", shape.replace_full_path or "/", True
        case "ReplacePrefixMatch":
            key, value, whole = "replacePrefixMatch", shape.replace_prefix_match or "/", False
        case _:
            found.faults.append(Fault((*path, "type"), f"{shape.type!r} is not supported"))
            return None
    if not PATH.fullmatch(value):
        found.faults.append(Fault((*path, key), f"{value[:80]!r} is not a path"))
        return None
    return PathChange(value, whole)


def _mirror(shape: MirrorFilter, path: Path, found: Filters) -> None:
    numerator, denominator = 100, 100
    if shape.fraction is not None:
        numerator, denominator = shape.fraction.numerator, shape.fraction.denominator
        if denominator not in _DENOMINATORS:
            # Envoy has three denominators. A millionth is exact enough.
            numerator = round(numerator * 1_000_000 / denominator) if denominator > 0 else 0
            denominator = 1_000_000
    elif shape.percent is not None:
        numerator = shape.percent
    if not 0 <= numerator <= denominator:
        text = f"{numerator}/{denominator} is not a share from 0 to 1"
        found.faults.append(Fault(path, text))
        return
    found.mirrors.append(
        MirrorRef(shape.backend_ref, (*path, "backendRef"), numerator, denominator)
    )


def seconds(text: str) -> float:
    """A duration of the Gateway API (GEP-2257), such as `1h30m` or `250ms`, in seconds.

    Raises:
        ValueError: it has another form.
    """
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is not a duration such as 500ms, 10s or 1m30s")
    return sum(int(number) * _SECONDS[unit] for number, unit in _PART.findall(text))
