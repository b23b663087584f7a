"""How many bytes of request and response bodies are kept for a second try. Pure bookkeeping."""


class RetentionBudget:
    """Bytes that all exchanges of one process may retain together."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.used = 0

    def take(self, size: int) -> bool:
        """Reserve `size` bytes; False, and nothing reserved, when they do not fit."""
        if self.used + size > self.limit:
            return False
        self.used += size
        return True

    def give_back(self, size: int) -> None:
        """Return what was taken."""
        self.used -= size
