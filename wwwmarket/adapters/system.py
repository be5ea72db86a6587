"""Time and chance of the machine itself."""

import asyncio
import secrets
import time


class SystemClock:
    """The operating system's clocks. Intervals are taken from the monotonic one: wall time may be set back."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    def monotonic_ms(self) -> float:
        return time.monotonic() * 1000

    async def sleep_until_ms(self, monotonic_ms: float) -> None:
        """Returns at or after the moment; at once when it has passed, but never without letting others run."""
        await asyncio.sleep(max(0.0, monotonic_ms - self.monotonic_ms()) / 1000)


class SystemEntropy:
    """The operating system's cryptographic random source."""

    def bytes(self, count: int) -> bytes:
        return secrets.token_bytes(count)

    def below(self, bound: int) -> int:
        return secrets.randbelow(bound)
