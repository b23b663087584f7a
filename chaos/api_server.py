"""An API server as a process of its own, with a journal that outlives it, as etcd does.

It is the double of our tests, which speaks list and watch like a kube-apiserver: the same tests run against
a real one. SIGUSR1: history is forgotten, and open watches end with 410.
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
"""Seconds, about as long as a kube-apiserver leaves an idle watch without one."""
_BY_NAME: dict[str, Resource] = {str(resource): resource for resource in ALL}


class Journal:
    """Every write, a line of JSON each: [version, resource, namespace and name, the object or null]."""

    def __init__(self, path: Path) -> None:
        # what is written is not lost by SIGKILL
        self._file = path.open("a+b", buffering=0)

    def replay(self, objects: Objects) -> None:
        """Bring `objects` to where the last server left them."""
        self._file.seek(0)
        for line in self._file:
            version, resource, key, after = json.loads(line)
            if not resource:
                objects.version = objects.oldest = version
                objects.history.clear()
            else:
                objects.adopt(version, _BY_NAME[resource], tuple(key), after)

    def write(self, change: Change) -> None:
        """Keep one write."""
        self._append(change.version, str(change.resource), change.key, change.after)

    def forget(self, version: int) -> None:
        """History before this version is forgotten."""
        self._append(version, "", (), None)

    def _append(self, *line: Any) -> None:
        self._file.write(json.dumps(line).encode() + b"\n")


async def _bookmark(double: ApiDouble) -> None:
    """As a kube-apiserver does: a watch on which nothing happens is not silent."""
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
