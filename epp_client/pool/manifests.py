"""The manifest source: pools from Kubernetes YAML or JSON files, followed live.

`kubectl get inferencepools,pods,services,endpointslices -o yaml` of any cluster is valid input. A file
that cannot be read any more keeps what it said last; a pool that became invalid keeps serving as it
was; either is reported.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import yaml
from watchfiles import awatch

from epp_client.errors import ManifestError
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.parse import parse_inference_pool
from epp_client.pool.problems import Fault, Problem, Severity, dotted
from epp_client.pool.problems import Path as FieldPath
from epp_client.pool.resolve import Resolution, World, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.store import PoolStore

log = structlog.get_logger(__name__)

MAX_FILE_BYTES = 256 * 1024 * 1024
MAX_ALIASES = 1000
SUFFIXES = (".yaml", ".yml", ".json")
_KINDS = ("InferencePool", "Pod", "Service", "EndpointSlice")
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True, slots=True)
class Located:
    """One object of a file and the place of each of its fields."""

    data: Mapping[str, Any]
    file: str
    node: yaml.Node
    at: FieldPath = ()

    @property
    def subject(self) -> str:
        """`Kind namespace/name`."""
        metadata = self.data.get("metadata")
        metadata = metadata if isinstance(metadata, dict) else {}
        name = f"{metadata.get('namespace') or 'default'}/{metadata.get('name') or '(no name)'}"
        return f"{self.data.get('kind')} {name}"

    def problem(self, fault: Fault) -> Problem:
        """Give a fault its place."""
        line = _line(self.node, fault.path)
        return Problem(
            fault.severity, fault.text, self.subject, dotted(fault.path), self.file, line
        )


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a path says at one moment."""

    objects: Mapping[str, tuple[Located, ...]]
    """Objects by file; only files that could be read."""
    problems: tuple[Problem, ...] = ()
    failed: frozenset[str] = field(default_factory=frozenset)
    """Files that are there but could not be read."""


def _line(node: yaml.Node, path: FieldPath) -> int:
    """The line of the deepest node on `path` that exists."""
    line = node.start_mark.line + 1
    for part in path:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == part:
                    line, node = key.start_mark.line + 1, value
                    break
            else:
                break
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            if part >= len(node.value):
                break
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


def _documents(text: str, file: str) -> Iterator[Located]:
    # Blanks for tabs lose nothing in JSON, whose strings cannot hold a raw tab.
    if text.lstrip()[:1] in ("{", "["):
        text = text.replace("\t", " ")
    if (
        text.count("*") > MAX_ALIASES
        and sum(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text, _Loader))
        > MAX_ALIASES
    ):
        raise ManifestError(f"{file}: more than {MAX_ALIASES} YAML aliases")
    loader = _Loader(text)
    try:
        while loader.check_node():
            node = loader.get_node()
            data = loader.construct_document(node)
            if data is None:
                continue
            if not isinstance(data, dict):
                line = node.start_mark.line + 1
                raise ManifestError(
                    f"{file}:{line} is not a Kubernetes object but a {type(data).__name__}"
                )
            yield from _flatten(Located(data, file, node))
    finally:
        loader.dispose()


def _flatten(found: Located) -> Iterator[Located]:
    """An object, or the objects of a `List` or `...List`."""
    kind, items = found.data.get("kind"), found.data.get("items")
    if not (isinstance(kind, str) and kind.endswith("List") and isinstance(items, list)):
        yield found
        return
    nodes: list[yaml.Node] = next(
        (value.value for key, value in found.node.value if key.value == "items"), []
    )
    for item, node in zip(items, nodes, strict=True):
        if isinstance(item, dict):
            item = {"kind": kind.removesuffix("List"), **item}
            if "apiVersion" in found.data:
                item.setdefault("apiVersion", found.data["apiVersion"])
            yield Located(item, found.file, node)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    return [path]


def load(path: Path) -> Loaded:
    """Read every manifest of `path`, a file or a directory. Faults are in the result."""
    objects: dict[str, tuple[Located, ...]] = {}
    problems: list[Problem] = []
    failed: set[str] = set()
    for file in _files(path):
        name = str(file)
        try:
            if file.stat().st_size > MAX_FILE_BYTES:
                raise ManifestError(f"{name}: larger than {MAX_FILE_BYTES} bytes")
            objects[name] = tuple(_documents(file.read_text(encoding="utf-8"), name))
        except yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            text = str(getattr(error, "problem", None) or error)
            line = mark.line + 1 if mark else None
            problems.append(Problem(Severity.ERROR, f"not YAML: {text}", file=name, line=line))
            failed.add(name)
        except (OSError, UnicodeDecodeError) as error:
            problems.append(Problem(Severity.ERROR, f"cannot be read: {error}", file=name))
            failed.add(name)
        except ManifestError as error:
            problems.append(Problem(Severity.ERROR, str(error)))
            failed.add(name)
    return Loaded(objects, tuple(problems), frozenset(failed))


def build_world(
    loaded: Loaded, defaults: PoolSettings, last_good: Mapping[PoolName, InferencePool]
) -> tuple[World, list[Problem]]:
    """Parse the pools and sort the other objects by kind.

    A pool that is there but not valid any more stays as `last_good` has it.
    """
    problems: list[Problem] = []
    pools: dict[PoolName, InferencePool] = {}
    others: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _KINDS}
    seen: dict[str, Located] = {}
    for found in (item for file in loaded.objects.values() for item in file):
        kind = found.data.get("kind")
        if kind not in _KINDS:
            continue
        metadata = found.data.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            problems.append(found.problem(Fault(("metadata", "name"), "is required")))
            continue
        if found.subject in seen:
            first = seen[found.subject]
            place = f"{first.file}:{_line(first.node, ())}"
            problems.append(found.problem(Fault((), f"is defined twice, first at {place}")))
            continue
        seen[found.subject] = found
        if kind != "InferencePool":
            if _well_formed(found, problems):
                others[kind].append(found.data)
            continue
        pool, faults = parse_inference_pool(found.data, defaults)
        problems += [found.problem(fault) for fault in faults]
        if pool is not None:
            pools[pool.name] = pool
            continue
        name = PoolName(str(metadata.get("namespace") or "default"), str(metadata["name"]))
        if name in last_good:
            pools[name] = last_good[name]
    world = World(pools, others["Pod"], others["Service"], others["EndpointSlice"])
    return world, problems


def _well_formed(found: Located, problems: list[Problem]) -> bool:
    """Whether what `resolve` walks through has the shape that the API server would insist on."""
    shapes: tuple[tuple[FieldPath, type], ...] = (
        (("metadata", "labels"), dict),
        (("metadata", "annotations"), dict),
        (("status",), dict),
        (("status", "conditions"), list),
        (("status", "podIPs"), list),
        (("spec",), dict),
        (("spec", "ports"), list),
        (("spec", "selector"), dict),
        (("spec", "containers"), list),
        (("ports",), list),
        (("endpoints",), list),
    )
    for path, shape in shapes:
        value: Any = found.data
        for part in path:
            value = value.get(part) if isinstance(value, dict) else None
        wrong = value is not None and not isinstance(value, shape)
        if wrong or (shape is list and any(not isinstance(item, dict) for item in value or [])):
            what = "a list of objects" if shape is list else "an object"
            problems.append(found.problem(Fault(path, f"must be {what}")))
            return False
    return True


def lint(path: Path, defaults: PoolSettings) -> list[Problem]:
    """Everything wrong with the manifests: errors, and warnings about what would not serve."""
    loaded = load(path)
    world, faults = build_world(loaded, defaults, {})
    problems = [*loaded.problems, *faults]
    resolution = resolve(world, None, 0.0)
    problems += resolution.problems
    for name, snapshot in resolution.snapshots.items():
        if not snapshot.table.ready:
            problems.append(
                Problem(
                    Severity.WARNING,
                    "selects no ready Pod of these manifests",
                    f"InferencePool {name}",
                    "spec.selector.matchLabels",
                )
            )
    if not world.pools and not any(p.severity is Severity.ERROR for p in problems):
        problems.append(Problem(Severity.ERROR, "no InferencePool found", file=str(path)))
    return problems


class ManifestSource:
    """Keeps a store in step with a file or a directory of manifests."""

    def __init__(
        self, path: Path, store: PoolStore, defaults: PoolSettings, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._last_files: dict[str, tuple[Located, ...]] = {}
        self._last: Resolution | None = None
        self._world = World()
        self._faults: tuple[Problem, ...] = ()

    def reload(self) -> None:
        """Read everything anew and publish what follows from it."""
        loaded = load(self._path)
        kept = {name: self._last_files[name] for name in loaded.failed if name in self._last_files}
        self._last_files = {**loaded.objects, **kept}
        world, faults = build_world(
            Loaded(self._last_files), self._defaults, dict(self._world.pools)
        )
        self._world = world
        new = (*loaded.problems, *faults)
        for problem in new:
            if problem not in self._faults:
                emit = log.error if problem.severity is Severity.ERROR else log.warning
                emit("problem in a manifest", problem=str(problem))
        self._faults = new
        self.resolve()

    def resolve(self) -> None:
        """Publish what follows from the objects at this moment."""
        self._last = resolve(self._world, self._last, self._clock())
        self._store.publish(self._last.snapshots, (*self._faults, *self._last.problems))

    async def run(self) -> None:
        """Follow the files until cancelled. The first load happens at once."""
        changed = asyncio.Event()
        watcher = asyncio.create_task(self._watch(changed))
        try:
            while True:
                self.reload()
                changed.clear()
                while not changed.is_set():
                    await self._wait(changed)
                    if not changed.is_set():
                        self.resolve()
        finally:
            watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watcher

    async def _wait(self, changed: asyncio.Event) -> None:
        """Until a file changes or a draining endpoint's time is up."""
        at = self._last.next_change if self._last else None
        delay = None if at is None else max(0.0, at - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await changed.wait()

    async def _watch(self, changed: asyncio.Event) -> None:
        # The directory, not the file: editors and ConfigMaps replace files by renaming.
        directory = self._path if self._path.is_dir() else self._path.parent
        async for _ in awatch(
            directory, recursive=False, debounce=50, step=10, force_polling=False
        ):
            changed.set()
