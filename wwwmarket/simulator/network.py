"""Who is how far from whom: regions of the world, their round trips, loss, partitions, and who is gone.

Round trips are medians between cloud regions, rounded; within a region 2 ms. Every message takes half of one, times a
jitter of 10 %.
"""

from collections.abc import Callable
from random import Random
from typing import Any, Final

from wwwmarket.simulator.events import EventLoop

REGIONS: Final = ("us-east", "us-west", "eu-west", "eu-central", "tokyo", "singapore", "mumbai", "sao-paulo")

_ROUND_TRIPS_MS: Final = (
    (2, 65, 75, 90, 150, 215, 190, 115),
    (65, 2, 130, 145, 105, 170, 220, 175),
    (75, 130, 2, 25, 210, 175, 120, 180),
    (90, 145, 25, 2, 225, 160, 115, 205),
    (150, 105, 210, 225, 2, 70, 125, 250),
    (215, 170, 175, 160, 70, 2, 60, 250),
    (190, 220, 120, 115, 125, 60, 2, 250),
    (115, 175, 180, 205, 250, 250, 250, 2),
)


class Network:
    """``send`` performs an action at the receiver, later, or never. ``reliable`` messages are of streams: they are
    resent when lost, wait while their way is cut, and arrive in order.
    """

    def __init__(self, loop: EventLoop, regions: list[int], chance: Random, *, loss: float = 0.0) -> None:
        self._loop = loop
        self._regions = regions
        self._chance = chance
        self._loss = loss
        self._side: dict[int, int] = {}
        self._latest_us: dict[tuple[int, int], int] = {}
        self._cut_off: list[tuple[int, int, Callable[..., None], tuple[Any, ...]]] = []
        self._beside: list[Network] = []
        self.down: set[int] = set()

    def beside(self, chance: Random) -> "Network":
        """The same network for other traffic, whose delays are drawn from ``chance`` of its own."""
        other = Network(self._loop, self._regions, chance, loss=self._loss)
        other.down = self.down
        self._beside.append(other)
        return other

    def round_trip_us(self, one: int, other: int) -> int:
        """The median, without jitter."""
        if one == other:
            return 0
        return _ROUND_TRIPS_MS[self._regions[one]][self._regions[other]] * 1_000

    def divide(self, side: dict[int, int]) -> None:
        """Nodes of different sides cannot hear each other; an empty mapping heals."""
        self._side = side
        waiting, self._cut_off = self._cut_off, []
        for sender, to, action, arguments in waiting:
            self.send(sender, to, action, *arguments, reliable=True)
        for other in self._beside:
            other.divide(side)

    def reaches(self, one: int, other: int) -> bool:
        return self._side.get(one, 0) == self._side.get(other, 0)

    def send(self, sender: int, to: int, action: Callable[..., None], *arguments: Any, reliable: bool = False) -> None:
        if not self.reaches(sender, to):
            if reliable:
                self._cut_off.append((sender, to, action, arguments))
            return
        delay_us = 0
        if sender != to:
            delay_us = int(self.round_trip_us(sender, to) / 2 * self._chance.lognormvariate(0.0, 0.1))
            while self._loss and self._chance.random() < self._loss:
                if not reliable:
                    return
                delay_us += self.round_trip_us(sender, to) + 200_000
        at_us = self._loop.now_us + delay_us
        if reliable:
            at_us = max(at_us, self._latest_us.get((sender, to), at_us))
            self._latest_us[sender, to] = at_us
        self._loop.at(at_us, self._deliver, to, action, arguments)

    def _deliver(self, to: int, action: Callable[..., None], arguments: tuple[Any, ...]) -> None:
        if to not in self.down:
            action(*arguments)
