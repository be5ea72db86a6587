"""A token bucket in bytes."""

from wwwmarket.domain.quantity import Millis


class Budget:
    """``bytes_per_s`` on average, ``burst_bytes`` at once. A spender may end in debt once, and then waits it out."""

    def __init__(self, bytes_per_s: int, burst_bytes: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._full = burst_bytes * 1000
        self.level = self._full
        """Thousandths of a byte, so that no millisecond's refill is rounded away."""
        self._filled_ms = 0

    def allows(self, at_ms: Millis) -> bool:
        """Whether anything may be spent now."""
        if at_ms > self._filled_ms:
            self.level = min(self._full, self.level + (at_ms - self._filled_ms) * self._bytes_per_s)
            self._filled_ms = at_ms
        return self.level > 0

    def spend(self, size_bytes: int) -> None:
        self.level -= size_bytes * 1000
