"""Whom a node may ask: a partial view, half near and half random, renewed from time to time. Behind one protocol, so
that another membership can take its place.
"""

from collections.abc import Sequence
from random import Random
from typing import Final, Protocol

from wwwmarket.simulator.world import NodeTwin, World

DEGREE: Final = 8
NEAR: Final = 4
SAMPLED: Final = 32
"""Nodes whose round trips are measured when the near half is chosen."""
RENEWED_US: Final = 30_000_000


class Views(Protocol):
    """Live eligible nodes as a node knows them; itself is never among them."""

    def of(self, node: NodeTwin, model: str) -> Sequence[NodeTwin]: ...
    def beyond(self, node: NodeTwin, model: str) -> Sequence[NodeTwin]:
        """The neighbours' neighbours, without those of ``of``."""
        ...


class StaticViews:
    """For each node and model ``DEGREE`` providers that its ledger lists, drawn anew every ``RENEWED_US``."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._views: dict[tuple[int, str], tuple[int, list[NodeTwin]]] = {}

    def of(self, node: NodeTwin, model: str) -> Sequence[NodeTwin]:
        return [other for other in self._view(node, model) if other.up]

    def beyond(self, node: NodeTwin, model: str) -> Sequence[NodeTwin]:
        known = {node.index, *(other.index for other in self._view(node, model))}
        found: dict[int, NodeTwin] = {}
        for other in self._view(node, model):
            found |= {third.index: third for third in self._view(other, model) if third.up and third.index not in known}
        return list(found.values())

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
