"""Time that moves only when it is told to."""

import asyncio
from heapq import heappop, heappush
from itertools import count
from typing import Final

EPOCH_MS: Final = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC, where simulated time begins unless told otherwise."""


class SimulatedClock:
    """Implements ``ports.clock.Clock``. Sleepers wake in the order of their moments, ties in that of their coming."""

    def __init__(self, start_ms: int = EPOCH_MS) -> None:
        self._start_ms = start_ms
        self._elapsed_ms = 0.0
        self._order = count()
        self._sleepers: list[tuple[float, int, asyncio.Future[None]]] = []

    def now_ms(self) -> int:
        return self._start_ms + int(self._elapsed_ms)

    def monotonic_ms(self) -> float:
        return self._elapsed_ms

    async def sleep_until_ms(self, monotonic_ms: float) -> None:
        if monotonic_ms <= self._elapsed_ms:
            await asyncio.sleep(0)
            return
        wake = asyncio.get_running_loop().create_future()
        heappush(self._sleepers, (monotonic_ms, next(self._order), wake))
        await wake

    def next_wake_ms(self) -> float | None:
        """The moment for which somebody sleeps first, if anybody does."""
        while self._sleepers and self._sleepers[0][2].done():
            heappop(self._sleepers)
        return self._sleepers[0][0] if self._sleepers else None

    def advance_to_ms(self, monotonic_ms: float) -> None:
        """Move on, waking who is due. What they do next happens once the caller awaits, at the new time."""
        assert monotonic_ms >= self._elapsed_ms, "time does not go back"
        self._elapsed_ms = monotonic_ms
        while (due := self.next_wake_ms()) is not None and due <= monotonic_ms:
            heappop(self._sleepers)[2].set_result(None)

    def advance_ms(self, duration_ms: float) -> None:
        self.advance_to_ms(self._elapsed_ms + duration_ms)
