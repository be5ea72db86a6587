"""One clock for a whole world: what happens next, in integer microseconds. Nothing here knows the wall's time."""

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any, Final

EPOCH_MS: Final = 1_767_225_600_000
"""2026-01-01 00:00:00 UTC, where simulated time begins."""


class EventLoop:
    """A heap of what is to be done. Ties go in the order of their scheduling, so a run depends on its seed alone."""

    def __init__(self, start_us: int = 0) -> None:
        self.now_us = start_us
        self.done = 0
        self._heap: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._order = 0

    @property
    def now_ms(self) -> int:
        """Milliseconds since 1970, as records carry them."""
        return EPOCH_MS + self.now_us // 1_000

    @property
    def pending(self) -> int:
        return len(self._heap)

    def at(self, us: int, action: Callable[..., None], *arguments: Any) -> None:
        """Do ``action`` at ``us``, or now where that has passed."""
        self._order += 1
        heappush(self._heap, (max(us, self.now_us), self._order, action, arguments))

    def after(self, us: int, action: Callable[..., None], *arguments: Any) -> None:
        self.at(self.now_us + us, action, *arguments)

    def step(self) -> bool:
        """Do the next thing; False where there is none."""
        if not self._heap:
            return False
        self.now_us, _, action, arguments = heappop(self._heap)
        self.done += 1
        action(*arguments)
        return True
