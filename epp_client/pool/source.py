"""PoolSource: who keeps a store in step with where the pools are written down. Only the interface."""

from collections.abc import Callable
from typing import Protocol

Listed = Callable[[str], None]
"""Is told what has not been read yet, in words; empty when the pools are known."""


class PoolSource(Protocol):
    """Manifests, an API server; `run` is awaited once, all else is asked beside it."""

    @property
    def where(self) -> str:
        """Where the pools are written down, in words."""

    async def run(self) -> None:
        """Follow until cancelled; then end with nothing left running.

        Raises:
            EppClientError: what there is cannot be followed at all.
        """

    def recall(self) -> bool:
        """Go on from what an earlier process knew; whether there is any."""

    async def retire(self) -> None:
        """Leave to other replicas what only one does. The pools are followed all the same."""

    def staleness(self) -> str:
        """For how long what is served is not the newest, and why; empty when it is."""
