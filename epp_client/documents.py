"""Reads objects from YAML or JSON text, with the line of each field. Pure.

Only syntax: documents, lists, duplicate keys, limits against hostile files. The meaning of objects is in
`manifests.world`, `endpoints.parse`, `pool.parse` and `pool.resolve`.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from epp_client.pool.problems import Fault, Path, Problem, Severity, dotted

MAX_ALIASED_NODES = 100_000
"""Nodes that the aliases of one document may expand to."""

MAX_DEPTH = 100

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_KINDS = {list: "a list", dict: "a mapping", str: "a text", int: "a number", float: "a number"}
_PART = re.compile(r"\['([^']*)'\]|\[(\d+)\]|([^.\[]+)")


class _Loader(_Base):  # type: ignore[misc]
    """Detects duplicate keys, and reads timestamps as strings, as JSON and the API server do."""

    repeats = False
    yaml_implicit_resolvers = {  # noqa: RUF012
        first: [(tag, pattern) for tag, pattern in resolvers if tag != _TIMESTAMP]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> Any:
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if len(set(keys)) != len(keys):
            self.repeats = True
        return super().construct_mapping(node, deep)


@dataclass(frozen=True, slots=True)
class Located:
    """One object of a file, with the place of each field."""

    data: Mapping[str, Any]
    file: str
    node: yaml.Node
    repeated: tuple[Path, ...] = ()
    """Duplicate keys."""

    @property
    def subject(self) -> str:
        """`Kind namespace/name`."""
        metadata = self.data.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = f"{metadata.get('namespace') or 'default'}/{metadata.get('name') or '(no name)'}"
        return f"{self.data.get('kind')} {name}"

    def line(self, path: Path = ()) -> int:
        """The line of the deepest node on `path` that exists, counted from 1."""
        node, line = self.node, self.node.start_mark.line + 1
        for part in path:
            if isinstance(node, yaml.MappingNode):
                found = _entry(node, str(part))
                if found is None:
                    break
                line, node = found[0].start_mark.line + 1, found[1]
            elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
                if part >= len(node.value):
                    break
                node = node.value[part]
                line = node.start_mark.line + 1
            else:
                break
        return line

    def problem(self, fault: Fault) -> Problem:
        """Add the place of a fault."""
        return Problem(
            fault.severity,
            fault.text,
            self.subject,
            dotted(fault.path),
            self.file,
            self.line(fault.path),
        )

    def place(self, problem: Problem) -> Problem:
        """Add file and line to a problem of this object."""
        path: Path = tuple(
            int(index) if index else quoted or plain
            for quoted, index, plain in _PART.findall(problem.field)
        )
        return problem._replace(file=self.file, line=self.line(path))


def read(text: str, file: str) -> Iterator[Located | Problem]:
    """Yield every object of a text with any number of documents; a `List` yields its items.

    Raises:
        yaml.YAMLError: the text is not YAML.
        ValueError: it is nested too deeply, or a scalar does not fit its tag.
    """
    # YAML forbids tabs. Blanks are as good in JSON, whose strings cannot contain a raw tab.
    if text.lstrip()[:1] in ("{", "["):
        text = text.replace("\t", " ")
    _check_depth(text)
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            line = node.start_mark.line + 1
            # Check before construction, in which merge keys copy what their aliases expand to.
            if "*" in text and _aliased(node) > MAX_ALIASED_NODES:
                what = "aliases expand to too much YAML, or to themselves"
                yield Problem(Severity.ERROR, what, file=file, line=line)
                continue
            # Check before construction, which merges in place: an override would look like a duplicate.
            repeated = tuple(_repeated(node, ())) if "<<" in text else None
            loader.repeats = False
            data = loader.construct_document(node)
            if repeated is None:
                repeated = tuple(_repeated(node, ())) if loader.repeats else ()
            if isinstance(data, dict):
                yield from _flatten(Located(data, file, node, repeated))
            elif data is not None:
                what = f"not a Kubernetes object but {_KINDS.get(type(data), 'a value')}"
                yield Problem(Severity.ERROR, what, file=file, line=line)
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    # libyaml's composer recurses on the C stack: deep nesting would crash the process.
    depth = 0
    for event in yaml.parse(text, _Base):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(f"nested more than {MAX_DEPTH} deep")
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1


def _aliased(root: yaml.Node) -> int:
    """The number of nodes that expanding every alias adds; huge for an alias inside itself."""
    sizes: dict[int, int] = {}
    written = 0

    def expanded(node: yaml.Node) -> int:
        nonlocal written
        if isinstance(node, yaml.ScalarNode):
            return 1
        if (size := sizes.get(id(node))) is not None:
            return size
        endless = 10**12
        # The size until the node is complete, found only by an alias inside itself.
        sizes[id(node)] = endless
        children = (
            [child for pair in node.value for child in pair]
            if isinstance(node, yaml.MappingNode)
            else node.value
        )
        size = sizes[id(node)] = 1 + sum(map(expanded, children))
        written += 1 + sum(isinstance(child, yaml.ScalarNode) for child in children)
        return size

    return expanded(root) - written


def _entry(node: yaml.MappingNode, key: str) -> tuple[yaml.Node, yaml.Node] | None:
    # The last pair, as construction keeps that of a duplicate or merged key.
    return next((pair for pair in reversed(node.value) if pair[0].value == key), None)


def _flatten(found: Located) -> Iterator[Located | Problem]:
    """Yield an object, or the items of a `List` or `...List`."""
    data, file, node = found.data, found.file, found.node
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
    entry = _entry(node, "items") if isinstance(node, yaml.MappingNode) else None
    for index, (item, place) in enumerate(zip(items, entry[1].value if entry else (), strict=True)):
        if isinstance(item, dict):
            repeated = tuple(p[2:] for p in found.repeated if p[:2] == ("items", index))
            yield Located(inherited | item, file, place, repeated)
        else:
            what = f"not a Kubernetes object but {_KINDS.get(type(item), 'a value')}"
            yield Problem(Severity.ERROR, what, file=file, line=place.start_mark.line + 1)


def _repeated(node: yaml.Node, path: Path) -> Iterator[Path]:
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            yield from _repeated(child, (*path, index))
    elif isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, child in node.value:
            if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE:
                if key.value in seen:
                    yield (*path, key.value)
                seen.add(key.value)
                yield from _repeated(child, (*path, key.value))
