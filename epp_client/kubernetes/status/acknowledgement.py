"""Acknowledgement: whether an Envoy has the table of the newest generation of a Gateway."""

import asyncio
from collections.abc import Callable

from epp_client.gateway.table import GatewayTable

GRACE = 2.0
"""Seconds that a status waits for Envoy. Without it `Programmed` would be False for a moment after every
edit of the Gateway and every restart."""


class Acknowledgement:
    """Follows the published tables and what Envoy has acknowledged of them."""

    def __init__(self, changed: Callable[[], None], grace: float = GRACE) -> None:
        """`changed` is called when `state` may have changed."""
        self._changed = changed
        self._grace = grace
        self._table: GatewayTable | None = None
        self._generation: int | None = None
        self._acknowledged = False
        self._waits = False
        self._timer: asyncio.TimerHandle | None = None

    def published(self, table: GatewayTable, generation: int) -> None:
        """Note a published table and the generation of its Gateway."""
        self._table = table
        if generation == self._generation:
            # A change of routes: the Gateway itself is programmed.
            return
        self._generation, self._acknowledged = generation, False
        self.stop()
        self._waits = True
        self._timer = asyncio.get_running_loop().call_later(self._grace, self._waited)

    def acknowledged(self, table: GatewayTable) -> None:
        """Note that an Envoy has acknowledged `table`."""
        if table is self._table and not self._acknowledged:
            self._acknowledged = True
            self._changed()

    def state(self) -> bool | None:
        """Whether an Envoy has the newest generation; None while it is waited for."""
        return None if self._waits and not self._acknowledged else self._acknowledged

    def _waited(self) -> None:
        self._waits = False
        self._changed()

    def stop(self) -> None:
        """Cancel the timer."""
        if self._timer is not None:
            self._timer.cancel()
