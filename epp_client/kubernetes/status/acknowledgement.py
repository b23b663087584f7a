"""Acknowledgement: whether Envoy has the listeners of the newest generation of a Gateway."""

import asyncio
from collections.abc import Callable

GRACE = 2.0
"""Seconds that a status waits for Envoy. Without it `Programmed` would be False for a moment after every
edit of the Gateway and every restart."""


class Acknowledgement:
    """Remembers for one generation of a Gateway that Envoy had it, whatever routes change later."""

    def __init__(
        self,
        newest: Callable[[], bool | None],
        changed: Callable[[], None],
        grace: float = GRACE,
    ) -> None:
        """`newest` returns whether Envoy has the newest table; None without an Envoy. `changed` is called
        when `state` may have changed."""
        self._newest = newest
        self._changed = changed
        self._grace = grace
        self._generation: int | None = None
        self._acknowledged = False
        self._waits = False
        self._timer: asyncio.TimerHandle | None = None

    def published(self, generation: int) -> None:
        """Note that a table has been served, and the generation of its Gateway."""
        if generation != self._generation:
            self._generation, self._acknowledged = generation, False
            self.stop()
            self._waits = True
            self._timer = asyncio.get_running_loop().call_later(self._grace, self._waited)
        self._look()

    def told(self) -> None:
        """Look again: what `newest` returns has changed."""
        self._look()
        self._changed()

    def state(self) -> bool | None:
        """Whether Envoy has had this generation; None while it is waited for."""
        return None if self._waits and not self._acknowledged else self._acknowledged

    def _look(self) -> None:
        self._acknowledged = self._acknowledged or bool(self._newest())

    def _waited(self) -> None:
        self._waits = False
        self._changed()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
