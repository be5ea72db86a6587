"""Whom a node may ask: behind one protocol, a stand-in that knows who lives, and the overlay's own (``live_views``).

The stand-in is a partial view, half near and half random, renewed from time to time.
"""

from random import Random
from typing import Final, Protocol

from wwwmarket.simulator.world import NodeTwin, World

DEGREE: Final = 8
NEAR: Final = 4
SAMPLED: Final = 32
"""Nodes whose round trips are measured when the near half is chosen."""
RENEWED_US: Final = 30_000_000


class Views(Protocol):
    def ranked(self, node: NodeTwin, model: str) -> list[NodeTwin]:
        """Others that sell it, as a node knows them, in the order in which it would ask them."""
        ...

    def came(self, node: NodeTwin) -> None: ...
    def gone(self, node: NodeTwin, *, crash: bool) -> None: ...


class StaticViews:
    """For each node and model ``DEGREE`` providers that its ledger lists, drawn anew every ``RENEWED_US``; and then
    its neighbours' neighbours. All of them are known to be live.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._chance = world.chance("views")
        self._views: dict[tuple[int, str], tuple[int, list[NodeTwin]]] = {}

    def ranked(self, node: NodeTwin, model: str) -> list[NodeTwin]:
        view = self._view(node, model)
        known = {node.index, *(other.index for other in view)}
        beyond = {third.index: third for other in view for third in self._view(other, model)}
        first = [other for other in view if other.up]
        rest = [third for third in beyond.values() if third.up and third.index not in known]
        self._chance.shuffle(first)
        self._chance.shuffle(rest)
        return first + rest

    def came(self, node: NodeTwin) -> None:
        """It is in the views that are drawn from now on."""

    def gone(self, node: NodeTwin, *, crash: bool) -> None:
        """It is in no view any more."""

    def _view(self, node: NodeTwin, model: str) -> list[NodeTwin]:
        epoch = (self._world.loop.now_us + node.index * 9_973) // RENEWED_US
        drawn, view = self._views.get((node.index, model), (-1, []))
        if drawn != epoch:
            view = self._draw(node, model, Random(f"{self._world.setup.seed}/view/{node.index}/{model}/{epoch}"))
            self._views[node.index, model] = (epoch, view)
        return view

    def _draw(self, node: NodeTwin, model: str, chance: Random) -> list[NodeTwin]:
        others = [other for other in self._world.by_model.get(model, ()) if other is not node and other.up]
        sampled = chance.sample(others, min(SAMPLED, len(others)))
        sampled.sort(key=lambda other: self._world.network.round_trip_us(node.index, other.index))
        near, rest = sampled[:NEAR], sampled[NEAR:]
        return near + chance.sample(rest, min(DEGREE - NEAR, len(rest)))
