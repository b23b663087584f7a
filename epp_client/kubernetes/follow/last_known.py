"""LastKnown: a file with the last known objects, for a start while the API server is unreachable.

Without it, a sidecar that restarts during an outage of the API server has no pools. The file belongs in a
volume that lives as long as the Pod.
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

MAX_AGE = 3600.0
"""Seconds after which the file is not used: other Pods may have its addresses by then."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Memory(BaseModel):
    """The objects of every listed query, as the caches store them."""

    version: Literal[1] = 1
    boot: str
    at: float
    """When the objects were current, by the monotonic clock of `boot`: the wall clock may jump."""
    pods: dict[str, list[PodFacts]] = {}
    others: dict[str, list[tuple[str, str, dict[str, Any]]]] = {}
    """Namespace, name, object."""

    def objects(self, query: Query) -> Mapping[Key, Any] | None:
        """The objects of one query; None when it had not been listed."""
        if query.resource is POD:
            pods = self.pods.get(str(query))
            return pods if pods is None else {Key(pod.namespace, pod.name): pod for pod in pods}
        others = self.others.get(str(query))
        return others if others is None else {Key(ns, name): data for ns, name, data in others}


def memory_of(reflectors: Iterable[Reflector[Any]], now: float) -> Memory:
    """The current objects of `reflectors`."""
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
        """Read the file; None when it is missing, invalid, too old or from another boot."""
        try:
            memory = Memory.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(error.strerror or str(error))
            return None
        except ValidationError:
            # The text of the error would quote the file.
            self._warn("the content is not valid")
            return None
        if memory.boot != _boot():
            self._warn("the machine has been rebooted since it was written")
        elif not 0 <= now - memory.at <= MAX_AGE:
            self._warn(f"it is {now - memory.at:.0f} s old")
        else:
            return memory
        return None

    def _warn(self, why: str) -> None:
        log.warning("the last-known file is not used", file=str(self._path), why=why)

    def save(self, memory: Memory) -> None:
        """Write the file atomically. A failure is logged once, and the sidecar still serves."""
        fresh = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        try:
            fresh.unlink(missing_ok=True)
            with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                file.write(memory.model_dump_json().encode())
            fresh.replace(self._path)
        except (OSError, ValueError) as error:
            # ValueError: an object cannot be written as JSON.
            if not self._failed:
                log.error(
                    "the last-known file cannot be written", file=str(self._path), error=str(error)
                )
            self._failed = True
            # An incomplete file is useless and takes room on a full disk.
            with contextlib.suppress(OSError):
                fresh.unlink(missing_ok=True)
            return
        self._failed = False
