"""How many sequences an engine has in hand as a rule.

A forecast that lets the work in hand end and nothing follow it is too early wherever work does follow: it makes a busy
engine look as if it were about to be idle. Where the usual number or fewer run, whoever ends is followed by another.
"""

from typing import Final

SMOOTHING: Final = 0.1
"""About the last ten arrivals count: few enough to follow the hour, and the scale is the engine's own pace."""


class Occupancy:
    """Seen by arrivals: each of them counts who is there with it."""

    def __init__(self) -> None:
        self._mean = 0.0

    def arrived(self, in_hand: int) -> None:
        """Somebody came, and ``in_hand`` are there with it."""
        self._mean += SMOOTHING * (in_hand - self._mean)

    @property
    def sequences(self) -> int:
        """Rounded to the nearest."""
        return round(self._mean)
