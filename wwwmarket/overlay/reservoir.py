"""A bounded sample of the nodes heard of.

It promises that who is in it depends on a secret and on who exists, not on how often or how loudly they are announced
(min-wise sampling, as in Brahms: Bortnikov et al., Computer Networks 53, 2009), and that no neighbour, nor all
strangers together, account for more than a stated part of it. It does not know who is alive.
"""

from collections.abc import Callable
from hashlib import sha256

from msgspec import structs

from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.records import NodeAddress
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Announcement


class Acquaintance(Value):
    """A node heard of. ``source`` is the neighbour that told of it first, None for a stranger."""

    said: Verified[Announcement]
    source: NodeId | None
    size_bytes: Count
    round_trip_ms: Millis | None = None

    @property
    def node(self) -> NodeId:
        return self.said.body.address.node

    @property
    def address(self) -> NodeAddress:
        return self.said.body.address


class Reservoir:
    def __init__(self, params: OverlayParams, secret: bytes) -> None:
        self._params = params
        self._secret = secret
        self._ranks: dict[NodeId, bytes] = {}
        self._held: dict[NodeId, Acquaintance] = {}

    def __contains__(self, node: NodeId) -> bool:
        return node in self._held

    def __len__(self) -> int:
        return len(self._held)

    def get(self, node: NodeId) -> Acquaintance | None:
        return self._held.get(node)

    def all(self) -> list[Acquaintance]:
        """In the order of their identities, which is nobody's doing."""
        return [self._held[node] for node in sorted(self._held)]

    def put(self, new: Acquaintance) -> bool:
        """Take in, or replace the same node's; whether it is in now. The highest rank of a full part gives way."""
        held = self._held.get(new.node)
        if held is not None:
            self._held[new.node] = structs.replace(new, source=held.source)
            return True
        rank = self._rank(new.node)
        rivals = self._rivals(new.source)
        if rivals:
            worst = max(rivals, key=self._ranks.__getitem__)
            if self._ranks[worst] < rank:
                return False
            self.remove(worst)
        self._held[new.node] = new
        self._ranks[new.node] = rank
        return True

    def measured(self, node: NodeId, round_trip_ms: Millis) -> None:
        """Note a round trip to whom it holds; of others none is kept."""
        held = self._held.get(node)
        if held is not None:
            self._held[node] = structs.replace(held, round_trip_ms=round_trip_ms)

    def remove(self, node: NodeId) -> Acquaintance | None:
        self._ranks.pop(node, None)
        return self._held.pop(node, None)

    def discard(self, unwanted: Callable[[Acquaintance], bool]) -> None:
        for held in [held for held in self._held.values() if unwanted(held)]:
            self.remove(held.node)

    def resample(self, secret: bytes) -> None:
        """Rank anew. Whoever is in stays until somebody with a lower rank is heard of."""
        self._secret = secret
        self._ranks = {node: self._rank(node) for node in self._held}

    def _rank(self, node: NodeId) -> bytes:
        return sha256(self._secret + bytes.fromhex(node)).digest()

    def _rivals(self, source: NodeId | None) -> list[NodeId]:
        """Of whom one must give way to a newcomer from ``source``: of its own part if that is full, else of all."""
        part_max = self._params.strangers_max if source is None else self._params.source_max
        part = [held.node for held in self._held.values() if held.source == source]
        if len(part) >= part_max:
            return part
        return list(self._held) if len(self._held) >= self._params.reservoir_max else []
