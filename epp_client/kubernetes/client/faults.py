"""Translates failures of the API server into `ApiError`s that tell the user what to do. Pure.

The only place that interprets HTTP statuses and `Status` objects.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from epp_client.errors import ApiError, ApiFault
from epp_client.kubernetes.client.resources import Resource

MAX_MESSAGE = 300
"""Characters of the server's message that we repeat."""

_USER = re.compile(r'User "([^"]{1,200})"')


@dataclass(frozen=True, slots=True)
class Call:
    """A call of the API server, in the terms of RBAC."""

    verb: str
    resource: Resource
    namespace: str | None = None
    name: str = ""
    subresource: str = ""

    @property
    def granted(self) -> str:
        """The resource as an RBAC rule names it: `inferencepools/status`."""
        return f"{self.resource.plural}{'/' + self.subresource if self.subresource else ''}"

    def __str__(self) -> str:
        sub = f"/{self.subresource}" if self.subresource else ""
        name = f" {self.name}" if self.name else ""
        where = f" in namespace {self.namespace}" if self.namespace else ""
        return f"{self.verb} {self.resource}{sub}{name}{where}"


def refusal(
    call: Call, status: int, body: bytes | Mapping[str, Any], retry_after: str | None = None
) -> ApiError:
    """The error for a response with `status` and `body`: JSON bytes, or the object of an ERROR event."""
    said = _status_object(body)
    reason = str(said.get("reason") or "")
    message = str(said.get("message") or "")[:MAX_MESSAGE]
    head = f"cannot {call}"
    match status:
        case 401:
            text = "the API server rejects our credentials; is the token of the kubeconfig"
            text += " or of the ServiceAccount expired?"
            return ApiError(ApiFault.UNAUTHORIZED, f"{head}: {text}", status)
        case 403:
            return ApiError(ApiFault.FORBIDDEN, f"{head}: {_missing(call, message)}", status)
        case 404:
            return ApiError(ApiFault.NOT_FOUND, f"{head}: {_absent(call, said)}", status)
        case 409:
            return ApiError(ApiFault.CONFLICT, f"{head}: {message or 'conflict'}", status)
        case 410:
            return ApiError(ApiFault.GONE, f"{head}: {message or 'too old'}", status)
        case 429 | 503:
            # An API server that is starting or stopping answers 503.
            fault = ApiFault.THROTTLED if status == 429 else ApiFault.UNREACHABLE
            text = message or "the API server is busy"
            return ApiError(fault, f"{head}: {text}", status, _seconds(retry_after, said))
    if reason == "Expired":
        return ApiError(ApiFault.GONE, f"{head}: {message}", status)
    text = f"HTTP {status} {reason} {message}".rstrip()
    return ApiError(ApiFault.OTHER, f"{head}: {text}", status, _seconds(retry_after, said))


def unreachable(call: Call, server: str, error: BaseException | str) -> ApiError:
    """The error for a call without a usable response."""
    why = error if isinstance(error, str) else f"{error}" or type(error).__name__
    text = f"cannot {call}: {server} does not answer: {why[:MAX_MESSAGE]}"
    return ApiError(ApiFault.UNREACHABLE, text)


def _status_object(body: bytes | Mapping[str, Any]) -> Mapping[str, Any]:
    if isinstance(body, bytes):
        try:
            body = json.loads(body)
        except ValueError:
            return {}
    return body if isinstance(body, Mapping) and body.get("kind") == "Status" else {}


def _missing(call: Call, message: str) -> str:
    user = _USER.search(message)
    group = call.resource.group
    where = f'in namespace "{call.namespace}"' if call.namespace else "in all namespaces"
    if not call.resource.namespaced:
        where = "for the whole cluster"
    who = f'"{user[1]}"' if user else "our user"
    return (
        f'{who} needs the RBAC verb "{call.verb}" on "{call.granted}", apiGroup "{group}", {where}'
    )


def _absent(call: Call, said: Mapping[str, Any]) -> str:
    if said.get("details", {}).get("name"):
        return "it does not exist"
    # The Status names no object, so the server does not know the kind.
    resource = call.resource
    text = f"the API server does not serve {resource.kind} {resource.api_version}"
    return f"{text}; is its CRD installed?" if resource.group else text


def _seconds(header: str | None, said: Mapping[str, Any]) -> float | None:
    if header is not None and header.isascii() and header.isdigit():
        return float(header)
    seconds = (said.get("details") or {}).get("retryAfterSeconds")
    return float(seconds) if isinstance(seconds, int) else None
