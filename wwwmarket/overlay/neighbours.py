"""Whom to ask: in what order, by what a member knows. Pure functions of a neighbourhood and of an order by chance.

One near neighbour, whose answer comes soon, goes before random ones, among whom load spreads: near ones alone are
asked by everybody around.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Protocol, TypeVar

from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.model import ModelName
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.records import Announcement


class Sited(Protocol):
    """Something at a node: an auction's candidate."""

    @property
    def node(self) -> NodeId: ...


S = TypeVar("S", bound=Sited)


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

    def order(self, sited: Sequence[S]) -> list[S]:
        """The same, given in random order, so that the nearest neighbour is first and who was heard of comes before
        the rest.
        """
        alive = {member.node: place for place, member in enumerate(self.members)}
        heard = alive.keys() | {member.node for member in self.reserves}
        ordered = sorted(sited, key=lambda one: one.node not in heard)
        nearest = min((one for one in sited if one.node in alive), key=lambda one: alive[one.node], default=None)
        if nearest is not None:
            ordered.remove(nearest)
            ordered.insert(0, nearest)
        return ordered

    def demand(self) -> dict[ModelName, Count]:
        """Of each model, how many known nodes say that they are asked for it: what is worth serving."""
        known = (*self.members, *self.reserves)
        return dict(Counter(model for member in known for model in set(member.said.wants)))
