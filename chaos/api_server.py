"""Runs the API double as a process, with a journal that outlives it, as etcd does.

The double implements list and watch like a kube-apiserver, and the same tests run against a real one.
SIGUSR1 compacts the history, which ends open watches with 410.
"""

import argparse
import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from epp_client.kubernetes.client.resources import Resource
from testbed.kubernetes.double import ApiDouble
from testbed.kubernetes.objects import ALL, Change, Objects

BOOKMARK_EVERY = 60.0
"""Seconds between two bookmarks on an idle watch, about as with a kube-apiserver."""
_BY_NAME: dict[str, Resource] = {str(resource): resource for resource in ALL}


class Journal:
    """A file with a line of JSON per write: [version, resource, namespace and name, the object or null]."""

    def __init__(self, path: Path) -> None:
        # Unbuffered, so that SIGKILL loses nothing.
        self._file = path.open("a+b", buffering=0)

    def replay(self, objects: Objects) -> None:
        """Restore the state of the last server in `objects`."""
        self._file.seek(0)
        for line in self._file:
            version, resource, key, after = json.loads(line)
            if not resource:
                objects.version = objects.oldest = version
                objects.history.clear()
            else:
                objects.adopt(version, _BY_NAME[resource], tuple(key), after)

    def write(self, change: Change) -> None:
        """Append one write."""
        self._append(change.version, str(change.resource), change.key, change.after)

    def forget(self, version: int) -> None:
        """Note that the history before this version was compacted."""
        self._append(version, "", (), None)

    def _append(self, *line: Any) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")


async def _bookmark(double: ApiDouble) -> None:
    """Send bookmarks on idle watches, as a kube-apiserver does."""
    while True:
        await asyncio.sleep(BOOKMARK_EVERY)
        double.bookmark()


async def _serve(journal: Journal) -> None:
    double = ApiDouble()
    journal.replay(double.objects)
    double.objects.listeners.append(journal.write)

    def forget() -> None:
        double.expire_watches()
        journal.forget(double.objects.version)

    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGTERM, stop.set)
    loop.add_signal_handler(signal.SIGUSR1, forget)
    await double.start()
    bookmarks = asyncio.create_task(_bookmark(double))
    print(json.dumps({"address": f"{double.host}:{double.port}"}), flush=True)
    await stop.wait()
    bookmarks.cancel()
    await double.close()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("journal", type=Path)
    asyncio.run(_serve(Journal(parser.parse_args().journal)))
