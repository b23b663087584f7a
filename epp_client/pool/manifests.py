"""The manifest source: pools from Kubernetes YAML or JSON files, followed live.

`kubectl get inferencepools,pods,services,endpointslices -o yaml` of any cluster is valid input. A file
that cannot be read any more keeps what it said last; a pool that became invalid keeps serving as it
was; either is reported.
"""

import asyncio
import contextlib
import re
import stat
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import structlog
import yaml
from watchfiles import DefaultFilter, awatch

from epp_client.errors import ManifestError
from epp_client.pool.documents import Located, read
from epp_client.pool.inference_pool import InferencePool, PoolName
from epp_client.pool.parse import API_VERSION, parse_inference_pool
from epp_client.pool.pods import pod_facts
from epp_client.pool.problems import Fault, Problem, Severity
from epp_client.pool.resolve import Resolution, World, resolve
from epp_client.pool.settings import PoolSettings
from epp_client.pool.shapes import shape_faults
from epp_client.pool.snapshot import PoolSnapshot
from epp_client.pool.store import PoolStore

log = structlog.get_logger(__name__)

STDIN = Path("-")
MAX_FILE_BYTES = 256 * 1024 * 1024
LOOK = 1.0
"""Seconds between two looks at what the path leads to: no watch tells of a directory, or of a link to one,
that is replaced."""
SUFFIXES = (".yaml", ".yml", ".json")
_ALMOST = re.compile(
    r"\.(ya?ml|json)(\.|$)|\.(jsonl|ndjson|toml|hcl|jsonnet|cue|txt)$", re.IGNORECASE
)
"""Names of files that were probably meant to be manifests: templates, archives, other formats."""
_GROUPS = {
    "InferencePool": "inference.networking.k8s.io",
    "Pod": "",
    "Service": "",
    "EndpointSlice": "discovery.k8s.io",
}
"""What is read, by kind; of another group it is something else, whatever its name."""


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a path says at one moment."""

    objects: Mapping[str, tuple[Located, ...]]
    """Objects by file; only files that could be read."""
    problems: tuple[Problem, ...] = ()
    failed: frozenset[str] = field(default_factory=frozenset)
    """Files that are there but could not be read."""


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(p for p in path.iterdir() if p.suffix in SUFFIXES and p.is_file())
    return [path]


def _left_alone(folder: Path) -> Iterable[Problem]:
    """What lies in the folder and looks as if it were meant to be read. Hidden names are not: a ConfigMap's
    volume has some."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith("."):
            continue
        text = ""
        if entry.is_dir():
            # A folder that nobody may look into hides nothing of ours.
            with contextlib.suppress(OSError):
                if any(p.suffix in SUFFIXES for p in entry.iterdir()):
                    text = "a sub-folder is not read; put its files beside the others"
        elif entry.suffix not in SUFFIXES and _ALMOST.search(entry.name):
            text = f"is not read; the name must end in {', '.join(SUFFIXES)}"
        if text:
            yield Problem(Severity.WARNING, text, file=str(entry))


def load(path: Path) -> Loaded:
    """Read every manifest of `path`, a file or a directory. Faults are in the result."""
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
        name = str(file) if file != STDIN else "standard input"
        try:
            found = list(read(_text(file), name))
        except ManifestError as error:
            failed.add(name)
            problems.append(Problem(Severity.ERROR, str(error), file=name))
        except (yaml.YAMLError, ValueError) as error:
            failed.add(name)
            mark = getattr(error, "problem_mark", None)
            text = f"not YAML: {getattr(error, 'problem', None) or error}"
            line = mark.line + 1 if mark else None
            problems.append(Problem(Severity.ERROR, text, file=name, line=line))
        else:
            objects[name] = tuple(item for item in found if isinstance(item, Located))
            problems += [item for item in found if isinstance(item, Problem)]
    return Loaded(objects, tuple(problems), frozenset(failed))


def _text(file: Path) -> str:
    try:
        if file == STDIN:
            text = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
            if len(text) > MAX_FILE_BYTES:
                raise ManifestError(f"larger than {MAX_FILE_BYTES} bytes")
            return text.decode()
        if file.stat().st_size > MAX_FILE_BYTES:
            raise ManifestError(f"larger than {MAX_FILE_BYTES} bytes")
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot be read: {error}") from error


def build_world(
    loaded: Loaded, defaults: PoolSettings, last_good: Mapping[PoolName, InferencePool]
) -> tuple[World, list[Problem]]:
    """Parse the pools and sort the other objects by kind.

    A pool that is there but not valid any more stays as `last_good` has it.
    """
    problems: list[Problem] = [*_not_read(loaded)]
    pools: dict[PoolName, InferencePool] = {}
    others: dict[str, list[Mapping[str, Any]]] = {kind: [] for kind in _GROUPS}
    seen: dict[str, Located] = {}
    for found in _ours(loaded):
        metadata = found.data.get("metadata")
        if not isinstance(metadata, dict) or not metadata.get("name"):
            problems.append(found.problem(Fault(("metadata", "name"), "is required")))
            continue
        if found.subject in seen:
            first = seen[found.subject]
            place = f"{first.file}:{first.line()}"
            problems.append(found.problem(Fault((), f"is defined twice, first at {place}")))
            continue
        seen[found.subject] = found
        # Which of the two is meant nobody can tell; `kubectl apply` refuses them as well.
        faults = [Fault(path, "is there twice") for path in found.repeated]
        if kind := _other_kind(found):
            faults += shape_faults(kind, found.data)
            if not faults:
                others[kind].append(found.data)
        else:
            pool, more = parse_inference_pool(found.data, defaults)
            name = PoolName(str(metadata.get("namespace") or "default"), str(metadata["name"]))
            if pool is not None and not faults:
                pools[name] = pool
            elif name in last_good:
                pools[name] = last_good[name]
            faults += more
        problems += [found.problem(fault) for fault in faults]
    pods = [pod_facts(pod) for pod in others["Pod"]]
    world = World(pools, pods, others["Service"], others["EndpointSlice"])
    return world, problems


def _ours(loaded: Loaded) -> Iterable[Located]:
    return (found for file in loaded.objects.values() for found in file if _is_ours(found))


def _is_ours(found: Located) -> bool:
    kind, version = found.data.get("kind"), found.data.get("apiVersion")
    return kind in _GROUPS and (version is None or _group(version) == _GROUPS[kind])


def _group(version: object) -> str:
    group, slash, _ = str(version).rpartition("/")
    return group if slash else ""


def _not_read(loaded: Loaded) -> Iterable[Problem]:
    """What could be taken for a pool that is served, and is not."""
    for found in (item for file in loaded.objects.values() for item in file):
        kind = str(found.data.get("kind"))
        if kind.lower() != "inferencepool" or _is_ours(found):
            continue
        group = _group(found.data.get("apiVersion"))
        if kind != "InferencePool":
            text = f"{kind!r} is not read; write InferencePool"
            fault = Fault(("kind",), text, Severity.WARNING)
        else:
            text = f"{found.data.get('apiVersion')!r} is not read; write {API_VERSION}"
            fault = Fault(("apiVersion",), text, Severity.WARNING)
        # Not the subject of a pool that is read and has the same name.
        subject = found.subject.replace(kind, f"{kind}.{group}" if group else kind, 1)
        yield found.problem(fault)._replace(subject=subject)


def _other_kind(found: Located) -> str | None:
    kind = found.data["kind"]
    return None if kind == "InferencePool" else str(kind)


def _placed(problems: Iterable[Problem], loaded: Loaded) -> list[Problem]:
    """Problems that `resolve` found, at the places of the objects that they are about."""
    by_subject: dict[str, Located] = {}
    subjects = {problem.subject for problem in problems}
    for found in _ours(loaded):
        if found.subject in subjects:
            by_subject.setdefault(found.subject, found)
    return [
        by_subject[problem.subject].place(problem) if problem.subject in by_subject else problem
        for problem in problems
    ]


@dataclass(frozen=True, slots=True)
class Findings:
    """What `lint` found in some manifests."""

    problems: tuple[Problem, ...]
    """Errors, and warnings about what would not serve."""
    snapshots: Mapping[PoolName, PoolSnapshot]
    """The pools as they would be served."""

    def __str__(self) -> str:
        """`1 pool, 2 endpoints, picker 10.0.0.5:9002`."""
        found = [*self.snapshots.values()]
        endpoints = sum(len(snapshot.table.ready) for snapshot in found)
        parts = [_count(len(found), "pool"), _count(endpoints, "endpoint")]
        pickers = dict.fromkeys(one for s in found if s.picker for one in s.picker.addresses)
        shown = [*pickers][:_SHOWN] + ["…"] * (len(pickers) > _SHOWN)
        unresolved = sum(s.picker is not None and not s.picker.addresses for s in found)
        if shown:
            parts.append(f"picker{'s' * (len(pickers) > 1)} {' '.join(shown)}")
        if unresolved:
            parts.append(f"{_count(unresolved, 'picker')} without an address")
        if without := sum(s.picker is None for s in found):
            parts.append(f"{without} without a picker")
        return ", ".join(parts)


_SHOWN = 4


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def lint(paths: Iterable[Path], defaults: PoolSettings, *, live: bool = False) -> Findings:
    """Everything wrong with the manifests of these paths, which are taken together; `-` is stdin.

    `live`: they are all that there is, as for `serve --pools`. Then a pool without an endpoint or an
    address of its picker is an error; else the cluster may have what the files lack.
    """
    loads = [load(path) for path in paths]
    loaded = Loaded(
        {name: found for one in loads for name, found in one.objects.items()},
        tuple(dict.fromkeys(problem for one in loads for problem in one.problems)),
    )
    world, faults = build_world(loaded, defaults, {})
    problems = [*loaded.problems, *faults]
    resolution = resolve(world, None, 0.0)
    doubts = list(resolution.problems)
    for name, snapshot in resolution.snapshots.items():
        if not snapshot.table.ready:
            selected = any(
                pod.namespace == name.namespace and pod.has(snapshot.pool.match_labels)
                for pod in world.pods
            )
            text = "selects no ready endpoint" if selected else "selects no Pod"
            text += " of these manifests"
            place = "spec.selector.matchLabels"
            doubts.append(Problem(Severity.WARNING, text, f"InferencePool {name}", place))
    if live:
        pools = {f"InferencePool {name}" for name in world.pools}
        doubts = [
            doubt._replace(severity=Severity.ERROR) if doubt.subject in pools else doubt
            for doubt in doubts
        ]
    problems += _placed(doubts, loaded)
    if not world.pools and not any(p.severity is Severity.ERROR for p in problems):
        where = ", ".join(loaded.objects) or "these paths"
        problems.append(Problem(Severity.ERROR, f"no InferencePool found in {where}"))
    return Findings(tuple(problems), resolution.snapshots)


class ManifestSource:
    """Keeps a store in step with a file or a directory of manifests."""

    def __init__(
        self, path: Path, store: PoolStore, defaults: PoolSettings, clock: Callable[[], float]
    ) -> None:
        self._path = path
        self._store = store
        self._defaults = defaults
        self._clock = clock
        self._loaded = Loaded({})
        self._last: Resolution | None = None
        self._world = World()
        self._faults: tuple[Problem, ...] = ()

    def reload(self) -> None:
        """Read everything anew and publish what follows from it."""
        self._take(load(self._path))

    def _take(self, loaded: Loaded) -> None:
        if str(self._path) in loaded.failed:
            kept = self._loaded.objects
        else:
            kept = {
                name: found for name, found in self._loaded.objects.items() if name in loaded.failed
            }
        self._loaded = Loaded({**loaded.objects, **kept})
        self._world, faults = build_world(self._loaded, self._defaults, self._world.pools)
        self._faults = (*loaded.problems, *faults)
        self.resolve()

    def resolve(self) -> None:
        """Publish what follows from the objects at this moment."""
        self._last = resolve(self._world, self._last, self._clock())
        problems = (*self._faults, *_placed(self._last.problems, self._loaded))
        for problem in problems:
            if problem not in self._store.problems:
                emit = log.error if problem.severity is Severity.ERROR else log.warning
                emit("problem in a manifest", problem=str(problem))
        if not (self._loaded.objects or self._store.synced) and self._faults:
            self._store.problems = problems  # nothing could be read: unknown is not none
        else:
            self._store.publish(self._last.snapshots, problems)

    async def run(self) -> None:
        """Follow the files until cancelled; then end with nothing left running.

        Raises:
            ManifestError: the directory cannot be watched.
        """
        changed = asyncio.Event()
        watcher = asyncio.create_task(self._watch(changed))
        watcher.add_done_callback(lambda _: changed.set())
        try:
            # One turn, in which the watch begins: an edit during the first load is not missed.
            await asyncio.sleep(0)
            while not watcher.done():
                changed.clear()
                self._take(await asyncio.to_thread(load, self._path))
                while not changed.is_set():
                    await self._wait(changed)
                    if not changed.is_set():
                        self.resolve()
            await watcher
        finally:
            watcher.cancel()
            await asyncio.wait({watcher})

    async def _wait(self, changed: asyncio.Event) -> None:
        """Until a file changes or a draining endpoint's time is up."""
        at = self._last.next_change if self._last else None
        delay = None if at is None else max(0.0, at - self._clock())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(delay):
                await changed.wait()

    async def _watch(self, changed: asyncio.Event) -> None:
        """Set `changed` at every change, also of what the path leads to."""
        directory = self._directory
        try:
            await self._until_replaced(directory, changed)
        except OSError as error:
            raise ManifestError(f"{directory} cannot be watched: {error}") from error
        while True:
            changed.set()  # the watch begins before anybody reads anew
            with contextlib.suppress(OSError):
                await self._until_replaced(self._directory, changed)
            await asyncio.sleep(LOOK)

    @property
    def _directory(self) -> Path:
        # Not the file itself: editors and ConfigMaps replace files by renaming.
        return self._path if self._path.is_dir() else self._path.parent

    async def _until_replaced(self, directory: Path, changed: asyncio.Event) -> None:
        """Watch a directory for as long as the path leads there."""
        before = at_first = _stamp(directory), _stamp(self._path)
        watch = awatch(
            directory,
            watch_filter=DefaultFilter(ignore_dirs=()),
            recursive=False,
            debounce=50,
            step=10,
            rust_timeout=int(1000 * LOOK),
            yield_on_timeout=True,
        )
        async with contextlib.aclosing(watch):
            async for events in watch:
                now = _stamp(directory), _stamp(self._path)
                if events or now != before:
                    changed.set()
                before = now
                itself = any(path == str(directory) for _, path in events)
                if itself or now[0] != at_first[0] or self._directory != directory:
                    return


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What a path leads to; of a file also its time and size, as a link to it tells no watch."""
    try:
        found = path.stat()
    except OSError:
        return None
    place = found.st_dev, found.st_ino
    return place if stat.S_ISDIR(found.st_mode) else (*place, found.st_mtime_ns, found.st_size)
