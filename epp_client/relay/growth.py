"""Growth: how much more a picker says than it was told. Pure.

Envoy takes everything at once, and keeps what the upstream or the client does not take yet. So one
exchange has a bound, and all exchanges of the process have one together.
"""

from typing import Final, final

from mypy_extensions import mypyc_attr

from epp_client.errors import EppClientError, Reason
from epp_client.relay.retention import RetentionBudget

STEP: Final = 64 * 1024
"""Bytes by which an exchange grows at a time: most exchanges never grow by as much."""
MESSAGE_OVERHEAD: Final = 1024
"""Bytes that a message counts beside its own, so that endless empty messages have a bound as well."""
NOTHING: Final = 10
"""Bytes of an answer that has neither a header nor a byte of a body."""
MAX_NOTHINGS: Final = 1000
"""Such answers to one request, beside one for each of Envoy's messages."""


class Overgrown(EppClientError):
    """The picker has said too much. `hint` is the annotation of the bound, empty for a fixed one."""

    def __init__(self, reason: Reason, hint: str = "") -> None:
        super().__init__(f"the picker's answers exceed a bound: {hint or reason}")
        self.reason = reason
        self.hint = hint


@final
@mypyc_attr(acyclic=True)
class Growth:
    """The balance of one exchange."""

    def __init__(self, budget: RetentionBudget, limit: int) -> None:
        """`limit`: bytes that the picker may say beyond what it was told."""
        self._budget = budget
        self._limit = limit
        # Bytes of Envoy's messages and of the picker's, each with MESSAGE_OVERHEAD.
        self._told = 0
        self._said = 0
        self._messages_told = 0
        self._nothings = 0
        # Bytes taken from the budget.
        self._taken = 0
        # The growth at which the next look is due.
        self._next = min(STEP, limit)

    @property
    def nothings(self) -> int:
        """Answers that were too short to say anything."""
        return self._nothings

    def tell(self, size: int) -> None:
        """Count a message of Envoy's."""
        self._messages_told += 1
        self._told += size + MESSAGE_OVERHEAD

    def say(self, size: int, *, released: bool) -> None:
        """Count an answer of the picker's. `released`: it goes to Envoy. Until then it waits here, and is
        counted as retained.

        Raises:
            Overgrown: the picker has said too much.
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
        """Envoy has got rid of what the picker said, or was never given it."""
        self._budget.give_back(self._taken)
        self._taken = self._said = 0
        self._next = min(STEP, self._limit)
