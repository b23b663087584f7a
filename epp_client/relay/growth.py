"""Growth: how many more bytes a picker sends than it receives. Pure.

Envoy accepts answers at any speed, and buffers what the upstream or the client cannot receive yet. So there
is a bound for each exchange, and one for all exchanges of the process together.
"""

from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.errors import EppClientError, Reason
from epp_client.relay.retention import RetentionBudget

STEP: Final = 64 * 1024
"""Bytes that an exchange takes from the budget at a time. Most exchanges never need that much."""
MESSAGE_OVERHEAD: Final = 1024
"""Bytes that are added to the size of each message, so that the bound also ends endless empty messages."""
NOTHING: Final = 10
"""Largest size of an answer without a header and without body bytes, in bytes."""
MAX_NOTHINGS: Final = 1000
"""Number of such empty answers that one request may have, in addition to one for each message of Envoy."""


class Overgrown(EppClientError):
    """The picker has sent too much. `hint` is the annotation that sets the bound, empty for a fixed
    bound."""

    def __init__(self, reason: Reason, hint: str = "") -> None:
        super().__init__(f"the picker's answers exceed a bound: {hint or reason}")
        self.reason = reason
        self.hint = hint


@final
@mypyc_attr(acyclic=True, free_list_len=1)
class Growth:
    """The growth of one exchange."""

    def __init__(self, budget: RetentionBudget, limit: int) -> None:
        """`limit`: bytes that the picker may send in addition to those that it received."""
        self._budget = budget
        self._limit = limit
        # Bytes of Envoy's messages and of the picker's, each with MESSAGE_OVERHEAD.
        self._told = 0
        self._said = 0
        self._messages_told = 0
        self._nothings = 0
        # Bytes taken from the budget.
        self._taken = 0
        # The growth at which the bounds are checked next.
        self._next = min(STEP, limit)

    @property
    def nothings(self) -> int:
        """Number of empty answers."""
        return self._nothings

    def tell(self, size: int) -> None:
        """Count a message from Envoy."""
        self._messages_told += 1
        self._told += size + MESSAGE_OVERHEAD

    def say(self, size: int, *, released: bool) -> None:
        """Count an answer from the picker. `released`: answers go to Envoy. Before that they wait here, and
        are counted as retained.

        Raises:
            Overgrown: the picker has sent too much.
        """
        self._said += size + MESSAGE_OVERHEAD
        growth = self._said - self._told
        if growth > self._next:
            self._grow(growth, released)
        if size <= NOTHING:
            self._nothings += 1
            if self._nothings > self._messages_told + MAX_NOTHINGS:
                raise Overgrown(Reason.PICKER_PROTOCOL)

    def _grow(self, growth: int, released: bool) -> None:
        if growth > self._limit:
            raise Overgrown(Reason.PICKER_PROTOCOL, "max-body-growth")
        if not released:
            return
        if not self._budget.has_room(growth - self._taken):
            raise Overgrown(Reason.OVERLOADED)
        self._budget.take(growth - self._taken)
        self._taken = growth
        self._next = min(growth + STEP, self._limit)

    def forget(self) -> None:
        """Set the growth to zero: Envoy has sent the answers on, or never got them."""
        self._budget.give_back(self._taken)
        self._taken = self._said = 0
        self._next = min(STEP, self._limit)
