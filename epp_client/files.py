"""Reads files of YAML or JSON within bounds, watches a path for changes, and logs problems."""

import asyncio
import contextlib
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog
import yaml
from watchfiles import DefaultFilter, awatch

from epp_client.documents.located import Located
from epp_client.documents.read import is_json, read
from epp_client.errors import ManifestError
from epp_client.pool.problems import Problem, Severity
from epp_client.pool.store import PoolStore

log = structlog.get_logger(__name__)

STDIN = Path("-")
MAX_FILE_BYTES = 256 * 1024 * 1024
LARGE = 4_000_000
"""Characters above which reading takes so long that it is announced."""
POLL_INTERVAL = 1.0
"""Seconds between two checks of what the path leads to. A watch does not notice that a directory, or a link
to one, is replaced."""


def name_of(file: Path) -> str:
    """The name of a file in problems."""
    return str(file) if file != STDIN else "standard input"


Content = list[Located | Problem] | Problem
"""The objects of a file and their problems; one problem if the file cannot be read."""
Read = Callable[[Path], Content]


def read_file(file: Path) -> Content:
    """Read and parse a file."""
    name = name_of(file)
    try:
        text = _text(file)
        if len(text) > LARGE:
            hint = "" if is_json(text) else "; JSON (kubectl get -o json) is ten times as fast"
            log.info(f"reading {len(text) // 1_000_000} MB{hint}", file=name)
        return list(read(text, name))
    except ManifestError as error:
        return Problem(Severity.ERROR, str(error), file=name)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        text = f"not YAML: {getattr(error, 'problem', None) or error}"
        return Problem(Severity.ERROR, text, file=name, line=mark.line + 1 if mark else None)


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


def log_new(problems: Iterable[Problem], store: PoolStore, event: str) -> None:
    """Log the problems that the store does not have yet."""
    for problem in problems:
        if problem not in store.problems:
            emit = log.error if problem.severity is Severity.ERROR else log.warning
            emit(event, problem=str(problem))


async def watch(path: Path, changed: asyncio.Event) -> None:
    """Set `changed` at every change of a file, or of the files in a directory, until cancelled. A path that
    leads elsewhere later is followed.

    Raises:
        ManifestError: the directory cannot be watched.
    """
    directory = _directory(path)
    try:
        await _until_replaced(path, directory, changed)
    except OSError as error:
        raise ManifestError(f"{directory} cannot be watched: {error}") from error
    while True:
        # Read again after each start of the watch.
        changed.set()
        with contextlib.suppress(OSError):
            await _until_replaced(path, _directory(path), changed)
        await asyncio.sleep(POLL_INTERVAL)


def _directory(path: Path) -> Path:
    # Watch the directory of a file: editors and ConfigMaps replace files by renaming.
    return path if path.is_dir() else path.parent


async def _until_replaced(path: Path, directory: Path, changed: asyncio.Event) -> None:
    """Watch a directory until the path leads elsewhere."""
    before = at_first = _stamp(directory), _stamp(path)
    watching = awatch(
        directory,
        watch_filter=DefaultFilter(ignore_dirs=()),
        recursive=False,
        debounce=50,
        # Its thread wakes up once per step.
        step=100,
        rust_timeout=int(1000 * POLL_INTERVAL),
        yield_on_timeout=True,
    )
    async with contextlib.aclosing(watching):
        async for events in watching:
            now = _stamp(directory), _stamp(path)
            if events or now != before:
                changed.set()
            before = now
            itself = any(name == str(directory) for _, name in events)
            if itself or now[0] != at_first[0] or _directory(path) != directory:
                return


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Identity of the file or directory at `path`; for a file also time and size, as a watch does not
    notice changes behind a link."""
    try:
        found = path.stat()
    except OSError:
        return None
    place = found.st_dev, found.st_ino
    return place if stat.S_ISDIR(found.st_mode) else (*place, found.st_mtime_ns, found.st_size)
