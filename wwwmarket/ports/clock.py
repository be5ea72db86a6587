"""Time and chance."""

from typing import Protocol


class Clock(Protocol):
    def now_ms(self) -> int:
        """Milliseconds since 1970-01-01 UTC."""
        ...

    def monotonic_ms(self) -> float:
        """Milliseconds since some fixed moment, never going back; for intervals."""
        ...

    async def sleep_until_ms(self, monotonic_ms: float) -> None: ...


class Entropy(Protocol):
    def bytes(self, count: int) -> bytes:
        """Unpredictable bytes, fit for keys and salts."""
        ...

    def below(self, bound: int) -> int:
        """An integer in [0, bound), uniformly."""
        ...
