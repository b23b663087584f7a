"""Reads every object of a text."""

from collections.abc import Iterator
from typing import Any

from epp_client.documents.from_json import NotPlainJson, read_json
from epp_client.documents.from_yaml import read_yaml
from epp_client.documents.located import Document, Located, Unusable
from epp_client.pool.problems import Fault, Problem, Severity

_KINDS = {list: "a list", dict: "a mapping", str: "a text", int: "a number", float: "a number"}


def read(text: str, file: str) -> Iterator[Located | Problem]:
    """Yield every object of a text with any number of documents; a `List` yields its items.

    Raises:
        yaml.YAMLError: the text is not YAML.
        ValueError: it is nested too deeply, or a scalar does not fit its tag.
    """
    for found in _documents(text):
        if isinstance(found, Unusable):
            yield Problem(Severity.ERROR, found.text, file=file, line=found.line)
        elif isinstance(found.data, dict):
            yield from _flatten(Located(found.data, file, found.place, found.repeated))
        elif found.data is not None:
            yield _no_object(found.data, file, found.place.line())


def is_json(text: str) -> bool:
    """Whether a text looks like JSON."""
    return text.lstrip()[:1] in ("{", "[")


def _documents(text: str) -> Iterator[Document | Unusable]:
    if is_json(text):
        try:
            yield read_json(text)
            return
        except NotPlainJson:
            # YAML forbids tabs. Blanks are as good in JSON, whose strings cannot contain a raw tab.
            text = text.replace("\t", " ")
    yield from read_yaml(text)


def _flatten(found: Located) -> Iterator[Located | Problem]:
    """Yield an object, or the items of a `List` or `...List`."""
    data, file = found.data, found.file
    kind, items = data.get("kind"), data.get("items")
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield found
        return
    inherited = {"kind": kind.removesuffix("List")}
    if kind != "List" and "apiVersion" in data:
        inherited["apiVersion"] = data["apiVersion"]
    for path in found.repeated:
        if path[0] != "items" or len(path) == 1:
            yield found.problem(Fault(path, "is a duplicate key"))
    for index, item in enumerate(items):
        place = found.place.item(index)
        if isinstance(item, dict):
            repeated = tuple(p[2:] for p in found.repeated if p[:2] == ("items", index))
            yield Located(inherited | item, file, place, repeated)
        else:
            yield _no_object(item, file, place.line())


def _no_object(value: Any, file: str, line: int) -> Problem:
    text = f"not a Kubernetes object but {_KINDS.get(type(value), 'a value')}"
    return Problem(Severity.ERROR, text, file=file, line=line)
