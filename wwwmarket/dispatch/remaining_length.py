"""What a provider can honestly know of how much longer an answer goes on, from the lengths of those that it has seen.

What is left of an answer that goes on is the mean rest of the answers seen to be at least as long: long answers are
long because they are long. A prior stands for a few more of them.
"""

from bisect import bisect_right, insort
from collections import deque
from typing import Final

PRIOR_WEIGHT: Final = 4
"""Answers that the prior stands for."""
REMEMBERED: Final = 256
"""Recent lengths that a provider remembers."""


class RemainingLengths:
    """Expected tokens left of an answer, by those produced."""

    def __init__(self) -> None:
        self._recent: deque[int] = deque()
        self._sorted: list[int] = []

    def observe(self, output_tokens: int) -> None:
        if len(self._recent) >= REMEMBERED:
            del self._sorted[bisect_right(self._sorted, self._recent.popleft()) - 1]
        self._recent.append(output_tokens)
        insort(self._sorted, output_tokens)

    def left(self, produced: int, *, expected: int, prior: float, longest: int) -> int:
        """``expected`` is what was expected of this answer before it began, ``longest`` what bounds it; ``prior`` is
        the mean rest of an answer where nothing was seen.
        """
        if produced == 0:
            return expected
        longer = self._sorted[bisect_right(self._sorted, produced) :]
        seen = sum(longer) - produced * len(longer)
        memoryless = max(0, min(prior, longest - produced))
        return max(1, round((PRIOR_WEIGHT * memoryless + seen) / (PRIOR_WEIGHT + len(longer))))
