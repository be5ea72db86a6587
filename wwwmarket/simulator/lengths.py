"""What a provider can honestly know of how much longer an answer goes on: the simulator's stand-in for foresight.

The prior is the class's mean, worth a few observations. What is left of an answer that goes on is the mean rest of the
answers seen to be at least as long: long answers are long because they are long.
"""

from bisect import bisect_right, insort
from collections import deque
from typing import Final

PRIOR_WEIGHT: Final = 4
REMEMBERED: Final = 256
"""Recent lengths that a provider remembers."""


class Residuals:
    """Expected tokens left of an answer, by those produced; ``longest`` is the bound that everybody knows."""

    def __init__(self, prior_tokens: float, longest: int) -> None:
        self._prior = prior_tokens
        self._longest = longest
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def observe(self, output_tokens: int) -> None:
        if len(self._recent) >= REMEMBERED:
            del self._sorted[bisect_right(self._sorted, self._recent.popleft()) - 1]
        self._recent.append(output_tokens)
        insort(self._sorted, output_tokens)

    def left(self, produced: int, expected: int) -> int:
        """``expected`` is what was expected of this answer before it began."""
        if produced == 0:
            return expected
        longer = self._sorted[bisect_right(self._sorted, produced) :]
        seen = sum(longer) - produced * len(longer)
        memoryless = min(self._prior, self._longest - produced)
        return max(1, round((PRIOR_WEIGHT * memoryless + seen) / (PRIOR_WEIGHT + len(longer))))
