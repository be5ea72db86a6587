"""The few neighbours that a member keeps to: near ones by measured round trip, and random long links.

It promises that nearness can win at most ``near_links`` places, and that the random ones are all renewed in turn.
"""

from msgspec import structs

from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.shape import Value
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Announcement
from wwwmarket.overlay.reservoir import Acquaintance


class Link(Value):
    """A neighbour, alive when it came in; ``near`` says which kind of place it has."""

    peer: Acquaintance
    near: bool
    round_trip_ms: Millis
    since_ms: Millis
    probed_ms: Millis
    shuffled_ms: Millis


class View:
    def __init__(self, params: OverlayParams) -> None:
        self._params = params
        self.links: dict[NodeId, Link] = {}

    def __contains__(self, node: NodeId) -> bool:
        return node in self.links

    @property
    def short(self) -> int:
        """How many places are free."""
        return self._params.view_max - len(self.links)

    @property
    def near_bound_ms(self) -> Millis | None:
        """The round trip that a full near part is beaten by; None where it is not full."""
        near = [link.round_trip_ms for link in self.links.values() if link.near]
        return max(near) * self._params.nearer_percent // 100 if len(near) >= self._params.near_links else None

    def place(self, peer: Acquaintance, round_trip_ms: Millis, at_ms: Millis) -> Acquaintance | None:
        """Take in a node that has just answered. Returns whose place it took, if the view was full.

        A free near place is anybody's; in a full view the farthest near link gives way to a nearer node, and the
        oldest random one to any other.
        """
        near = [link for link in self.links.values() if link.near]
        bound_ms = self.near_bound_ms
        is_near = bound_ms is None
        gone = None
        if not self.short:
            if bound_ms is not None and round_trip_ms < bound_ms:
                is_near = True
                gone = max(near, key=lambda link: (link.round_trip_ms, link.peer.node))
            else:
                far = [link for link in self.links.values() if not link.near]
                gone = min(far, key=lambda link: (link.since_ms, link.peer.node))
            del self.links[gone.peer.node]
        self.links[peer.node] = Link(
            peer=structs.replace(peer, round_trip_ms=round_trip_ms),
            near=is_near,
            round_trip_ms=round_trip_ms,
            since_ms=at_ms,
            probed_ms=at_ms,
            shuffled_ms=0,
        )
        return None if gone is None else gone.peer

    def remove(self, node: NodeId) -> Link | None:
        return self.links.pop(node, None)

    def said(self, node: NodeId, said: Verified[Announcement], size_bytes: int) -> None:
        """A neighbour's later word."""
        link = self.links[node]
        self.links[node] = structs.replace(link, peer=structs.replace(link.peer, said=said, size_bytes=size_bytes))

    def measured(self, node: NodeId, round_trip_ms: Millis) -> None:
        """One more round trip, smoothed as TCP does (RFC 6298, section 2: a weight of an eighth)."""
        link = self.links[node]
        smooth_ms = (7 * link.round_trip_ms + round_trip_ms + 4) // 8
        self.links[node] = structs.replace(
            link, round_trip_ms=smooth_ms, peer=structs.replace(link.peer, round_trip_ms=smooth_ms)
        )

    def next_to_probe(self, busy: set[NodeId], at_ms: Millis) -> Link | None:
        """In turn: whose last probe is longest ago, of those that are not ``busy`` being probed."""
        free = [link for node, link in self.links.items() if node not in busy]
        if not free:
            return None
        link = min(free, key=lambda link: (link.probed_ms, link.peer.node))
        self.links[link.peer.node] = structs.replace(link, probed_ms=at_ms)
        return link

    def next_to_shuffle(self, at_ms: Millis) -> Link | None:
        """In turn: whose last shuffle is longest ago."""
        if not self.links:
            return None
        link = min(self.links.values(), key=lambda link: (link.shuffled_ms, link.peer.node))
        self.links[link.peer.node] = structs.replace(link, shuffled_ms=at_ms)
        return link
