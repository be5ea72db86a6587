"""Who gets the last places of a provider that is nearly full: those to whom a second is worth most.

A place that is held for a second by one makes another wait for that second, so that seconds are weighed against
seconds: by what the bids say that one is worth. Bids that all say the same are all admitted while there is room.
Overstating costs its client: the auction then takes the faster ask where the cheaper would have done. It knows nothing
of lengths: a long answer is no worse than a short one.
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from wwwmarket.domain.quantity import Count, MicroCredits

RESERVED_SHARE: Final = 4
"""The last one of so many places are reserved, rounded down: below four places nothing is."""
REMEMBERED: Final = 64
"""Bids that what is usual is judged by: few enough to follow a minute of overload."""
CUT_SHARE: Final = 10
"""Of the recent bids the highest one in so many counts no more than the next: a few that claim a fortune do nothing."""


def threshold_micro_per_s(recent: Sequence[MicroCredits], taken: Count, places: Count) -> MicroCredits:
    """What a second must be worth to a bid that comes when ``taken`` of ``places`` are: nothing while other places than
    the reserved are free; then it rises, place by place, to the mean of the ``recent`` bids, rounded down.
    """
    reserved = places // RESERVED_SHARE
    place = taken - (places - reserved)
    if place < 0 or not reserved or not recent:
        return 0
    cut = sorted(recent)[len(recent) - 1 - len(recent) // CUT_SHARE]
    total = sum(min(worth, cut) for worth in recent)
    return total * min(place + 1, reserved) // (reserved * len(recent))


class Admission:
    """Bids seen by one provider, whatever came of them."""

    def __init__(self) -> None:
        self._recent: deque[MicroCredits] = deque(maxlen=REMEMBERED)

    def admits(self, worth_micro_per_s: MicroCredits, *, taken: Count, places: Count) -> bool:
        """Whether a bid may have a place; it counts among the recent ones from now on."""
        admitted = worth_micro_per_s >= threshold_micro_per_s(self._recent, taken, places)
        self._recent.append(worth_micro_per_s)
        return admitted
