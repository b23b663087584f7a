"""Reads manifests from a file, a directory or standard input, and warns of files that it skips."""

import contextlib
import re
from collections.abc import Iterable
from pathlib import Path

from epp_client.documents.located import Located
from epp_client.files import Read, name_of, read_file
from epp_client.manifests.world import Loaded
from epp_client.pool.problems import Problem, Severity

SUFFIXES = (".yaml", ".yml", ".json")
_ALMOST = re.compile(
    r"\.(ya?ml|json)(\.|$)|\.(jsonl|ndjson|toml|hcl|jsonnet|cue|txt)$", re.IGNORECASE
)
"""Names of files that were probably meant to be manifests: templates, archives, other formats."""


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    return [path]


def _left_alone(folder: Path) -> Iterable[Problem]:
    """Warn of skipped entries that look like manifests. Hidden names are exempt: a ConfigMap's volume has
    some."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        text = ""
        if entry.is_dir():
            # A sub-directory that we may not read has no manifests for us.
            with contextlib.suppress(OSError):
                if any(p.suffix in SUFFIXES for p in entry.iterdir()):
                    text = f"sub-directories are not read: move the files into {folder}"
        elif entry.suffix not in SUFFIXES and _ALMOST.search(entry.name):
            text = f"is not read: the name must end in {', '.join(SUFFIXES)}"
        if text:
            yield Problem(Severity.WARNING, text, file=str(entry))


def load(path: Path, read: Read = read_file) -> Loaded:
    """Read every manifest of `path`, a file or a directory. Problems are part of the result."""
    objects: dict[str, tuple[Located, ...]] = {}
    problems: list[Problem] = []
    failed: set[str] = set()
    try:
        files = _files(path)
        if path.is_dir():
            problems += _left_alone(path)
    except OSError as error:
        files = []
        failed.add(str(path))
        problems.append(Problem(Severity.ERROR, f"cannot be read: {error}", file=str(path)))
    for file in files:
        name, found = name_of(file), read(file)
        if isinstance(found, Problem):
            failed.add(name)
            problems.append(found)
        else:
            objects[name] = tuple(item for item in found if isinstance(item, Located))
            problems += [item for item in found if isinstance(item, Problem)]
    return Loaded(objects, tuple(problems), frozenset(failed))
