"""Whom to ask: draws from what a member knows. Pure functions of a neighbourhood and of chance.

A draw mixes near neighbours, whose answer comes soon, with random ones, among whom load spreads: near ones alone are
asked by everybody around.
"""

from collections import Counter
from collections.abc import Container, Sequence

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.chance import Chance
from wwwmarket.overlay.records import Announcement


class Member(Value):
    """A node with its latest word, and its round trip if it has been measured."""

    said: Announcement
    round_trip_ms: Millis | None

    @property
    def node(self) -> NodeId:
        return self.said.address.node


class Neighbourhood(Value):
    """``members`` have answered within seconds, nearest first; ``reserves`` were heard of within minutes."""

    members: tuple[Member, ...]
    reserves: tuple[Member, ...]

    def eligible(self, model: ModelName) -> tuple[Member, ...]:
        """Neighbours that say they serve ``model``, nearest first."""
        return _serving(self.members, model)

    def draw(self, model: ModelName, *, near: int, random: int, chance: bytes) -> tuple[Member, ...]:
        """The ``near`` nearest that serve ``model`` and ``random`` others, topped up from the reserves.

        ``chance`` is 32 unpredictable bytes. Fewer are returned only where fewer are known.
        """
        eligible = self.eligible(model)
        stream = Chance(chance)
        drawn = [*eligible[:near], *stream.sample(eligible[near:], random)]
        missing = near + random - len(drawn)
        return (*drawn, *stream.sample(_serving(self.reserves, model), missing))

    def second_round(
        self, model: ModelName, *, count: int, asked: Container[NodeId], chance: bytes
    ) -> tuple[Member, ...]:
        """``count`` more that serve ``model`` and were not ``asked``: from neighbours and their neighbours alike."""
        known = _serving((*self.members, *self.reserves), model)
        return tuple(Chance(chance).sample([member for member in known if member.node not in asked], count))

    def demand(self) -> dict[ModelName, Count]:
        """Of each model, how many known nodes say that they are asked for it: what is worth serving."""
        known = (*self.members, *self.reserves)
        return dict(Counter(model for member in known for model in set(member.said.wants)))


def _serving(members: Sequence[Member], model: ModelName) -> tuple[Member, ...]:
    return tuple(member for member in members if model in member.said.serves)
