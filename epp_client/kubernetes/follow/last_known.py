"""LastKnown: what the API server has told, in a file, for a start while the server is away.

A gateway outlives its API server; a sidecar that was restarted meanwhile would have no pools. The file is
read by the next process in the same place, so it belongs in a volume that lives as long as the Pod.
"""

import contextlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import structlog
from pydantic import BaseModel, ValidationError

from epp_client.kubernetes.client.resources import POD
from epp_client.kubernetes.follow.cache import Key
from epp_client.kubernetes.follow.queries import Query
from epp_client.kubernetes.follow.reflector import Reflector
from epp_client.pool.pods import PodFacts

log = structlog.get_logger(__name__)

LONGEST_AGE = 3600.0
"""Seconds since it was true. Later an address may be somebody else's."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Memory(BaseModel):
    """The objects of every query that has been listed, as they are kept in memory."""

    version: Literal[1] = 1
    boot: str
    at: float
    """When all of it was true: the monotonic clock of that boot, as the wall clock may jump."""
    pods: dict[str, list[PodFacts]] = {}
    others: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    """Namespace, name, object."""

    def objects(self, query: Query) -> Mapping[Key, Any] | None:
        """What was known of one; None when nothing was."""
        if query.resource is POD:
            pods = self.pods.get(str(query))
            return pods if pods is None else {Key(pod.namespace, pod.name): pod for pod in pods}
        others = self.others.get(str(query))
        return others if others is None else {Key(ns, name): data for ns, name, data in others}


def memory_of(reflectors: Iterable[Reflector[Any]], now: float) -> Memory:
    """What these know now."""
    memory = Memory(boot=_boot(), at=now)
    for reflector in reflectors:
        if reflector.synced:
            query, objects = str(reflector.query), reflector.objects
            if reflector.query.resource is POD:
                memory.pods[query] = [*objects.values()]
            else:
                memory.others[query] = [(*key, data) for key, data in objects.items()]
    return memory


def _boot() -> str:
    with contextlib.suppress(OSError):
        return _BOOT_ID.read_text().strip()
    return ""


class LastKnown:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._failed = False

    def load(self, now: float) -> Memory | None:
        """What it says; None when there is none, or none that could still be true."""
        try:
            memory = Memory.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._useless(error.strerror or str(error))
            return None
        except ValidationError:
            # whose text would quote the file
            self._useless("it is not ours")
            return None
        if memory.boot != _boot():
            self._useless("this machine has been started anew since")
        elif not 0 <= now - memory.at <= LONGEST_AGE:
            self._useless(f"it is {now - memory.at:.0f} s old")
        else:
            return memory
        return None

    def _useless(self, why: str) -> None:
        log.warning("what was last known is of no use", file=str(self._path), why=why)

    def save(self, memory: Memory) -> None:
        """Write it, whole or not at all. A sidecar that cannot, serves without it, and says so once."""
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(memory.model_dump_json().encode())
            fresh.replace(self._path)
        except (OSError, ValueError) as error:
            # the latter: what cannot be written as JSON
            if not self._failed:
                log.error("what is known cannot be written", file=str(self._path), error=str(error))
            self._failed = True
            # A full disk: what was written of it is of no use, and takes room.
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            return
        self._failed = False
