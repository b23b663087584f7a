"""Reads YAML, of which JSON is a part."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import yaml

from epp_client.documents.located import MAX_DEPTH, TOO_DEEP, Document, Unusable
from epp_client.pool.problems import Path

MAX_ALIASED_NODES = 100_000
"""Nodes that the aliases of one document may expand to."""

_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


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
class _YamlPlace:
    """A `Place` in YAML."""

    node: yaml.Node

    def line(self, path: Path = ()) -> int:
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

    def item(self, index: int) -> "_YamlPlace":
        assert isinstance(self.node, yaml.MappingNode)
        entry = _entry(self.node, "items")
        assert entry is not None
        return _YamlPlace(entry[1].value[index])


def read_yaml(text: str) -> Iterator[Document | Unusable]:
    """Yield every document of a text.

    Raises:
        yaml.YAMLError: the text is not YAML.
        ValueError: it is nested too deeply, or a scalar does not fit its tag.
    """
    _check_depth(text)
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            line = node.start_mark.line + 1
            # Check before construction, in which merge keys copy what their aliases expand to.
            if "*" in text and _aliased(node) > MAX_ALIASED_NODES:
                yield Unusable("aliases expand to too much YAML, or to themselves", line)
                continue
            # Check before construction, which merges in place: an override would look like a duplicate.
            repeated = tuple(_repeated(node, ())) if "<<" in text else None
            loader.repeats = False
            data = loader.construct_document(node)
            if repeated is None:
                repeated = tuple(_repeated(node, ())) if loader.repeats else ()
            yield Document(data, _YamlPlace(node), repeated)
    finally:
        loader.dispose()


def _check_depth(text: str) -> None:
    # libyaml's composer recurses on the C stack: deep nesting would crash the process.
    depth = 0
    for event in yaml.parse(text, _Base):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            if depth > MAX_DEPTH:
                raise ValueError(TOO_DEEP)
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
