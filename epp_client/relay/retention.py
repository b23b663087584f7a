"""How many bytes of request and response bodies are kept for a second try. Pure bookkeeping."""


class RetentionBudget:
    """Bytes that all exchanges of one process may retain together."""

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
        """Return what was taken."""
        self.used -= size
