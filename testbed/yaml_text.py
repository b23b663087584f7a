"""YAML, for manifests and bootstraps. By libyaml, where PyYAML has it: it takes a tenth of the time."""

from collections.abc import Iterable
from typing import Any

import yaml

_LOADER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)


def read(text: str) -> Any:
    """The one document of a text."""
    return yaml.load(text, _LOADER)


def read_all(text: str) -> Iterable[Any]:
    """The documents of a text."""
    return yaml.load_all(text, _LOADER)


def write(document: Any) -> str:
    """The text of one document."""
    return write_all([document])


def write_all(documents: Iterable[Any]) -> str:
    """The text of several documents."""
    return str(yaml.dump_all(documents, Dumper=_DUMPER))
