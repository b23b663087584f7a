"""PoolSource: the interface of the sources of pools (manifests, an API server, options)."""

from collections.abc import Callable
from typing import Protocol

Listed = Callable[[str], None]
"""Called with a text that names what has not been read yet. It is empty once the pools are known."""
Reloaded = Callable[[bool], None]
"""Called after each reading of files: whether none of them has an error."""


class PoolSource(Protocol):
    """Keeps a store current. `run` is awaited once. The other methods are called while it runs."""

    @property
    def where(self) -> str:
        """Name of the source, for texts."""

    async def run(self) -> None:
        """Follow until cancelled. No task is left running then.

        Raises:
            EppClientError: the source cannot be followed at all.
        """

    def recall(self) -> bool:
        """Load what an earlier process knew. False if there is nothing to load."""

    async def retire(self) -> None:
        """Leave tasks of a single replica to another one, and continue to follow the pools."""

    def staleness(self) -> str:
        """For how long the served state has been stale, and why; empty when it is current."""


class LocalSource:
    """The methods of a PoolSource that are the same for options and files: these exist at every start, and
    replicas do not share them."""

    def recall(self) -> bool:
        """Nothing to recall."""
        return False

    async def retire(self) -> None:
        """Nothing to do: no task is for one replica only."""

    def staleness(self) -> str:
        """Never stale."""
        return ""
