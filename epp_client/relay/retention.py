"""Counts the bytes of request and response bodies that are retained for a replay. Pure."""


class RetentionBudget:
    """The bytes that all exchanges of one process may retain together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def has_room(self, size: int) -> bool:
        """Whether `size` more bytes fit."""
        return self.used + size <= self.limit

    def take(self, size: int) -> None:
        """Reserve `size` bytes."""
        self.used += size

    def give_back(self, size: int) -> None:
        """Return `size` reserved bytes."""
        self.used -= size
