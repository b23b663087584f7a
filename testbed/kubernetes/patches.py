"""Refusals of the API double, and the two kinds of patches. No objects are stored here."""

import copy
from typing import Any

Object = dict[str, Any]


class Refusal(Exception):
    """An answer that is a Status object."""

    def __init__(self, code: int, reason: str, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.details = details

    @property
    def status(self) -> Object:
        return {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": str(self),
            "reason": self.reason,
            "details": self.details,
            "code": self.code,
        }


def merge_patch(target: Any, patch: Any) -> Any:
    """RFC 7396."""
    if not isinstance(patch, dict):
        return patch
    out = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            out.pop(key, None)
        else:
            out[key] = merge_patch(out.get(key), value)
    return out


def json_patch(target: Object, operations: list[Object]) -> Object:
    """RFC 6902: add, replace, remove and test."""
    out: Any = copy.deepcopy(target)
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        node = out
        try:
            for part in parents:
                node = node[int(part)] if isinstance(node, list) else node[part]
            at: Any = last
            if isinstance(node, list):
                at = len(node) if last == "-" else int(last)
            match operation["op"]:
                case "add" if isinstance(node, list):
                    node.insert(at, operation["value"])
                case "add":
                    node[at] = operation["value"]
                case "replace":
                    # Raises if it is missing.
                    node[at]
                    node[at] = operation["value"]
                case "remove":
                    del node[at]
                case "test" if node[at] == operation["value"]:
                    pass
                case op:
                    raise LookupError(op)
        except (LookupError, TypeError, ValueError) as error:
            raise Refusal(422, "Invalid", f"the server rejected our request: {error!r}") from error
    return dict(out)
