"""Views as the overlay's own machines make them: a ``Membership`` at every node, on the world's clock and seed.

What a live node's driver does is done here: requests that are answered or time out, ticks, and an order of candidates
by what was known at the last tick. Round trips are measured by the machines' own pings alone.
"""

from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress
from wwwmarket.overlay import events
from wwwmarket.overlay.membership import Membership
from wwwmarket.overlay.neighbours import Neighbourhood
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.records import Message
from wwwmarket.overlay.register import Profile
from wwwmarket.simulator.world import NodeTwin, World

CONTACTS: Final = 3
"""Nodes that everybody knows of before it joins."""
STARTED_WITHIN_US: Final = 1_000_000
TIMEOUT_US: Final = 1_000_000
"""Of a request between members, as a live node has it."""
_CHANCE_BYTES: Final = 32


class Site(NamedTuple):
    """Somebody who sells, where the overlay knows it."""

    node: NodeId
    twin: NodeTwin


class LiveViews:
    """Implements ``views.Views``. ``keys`` are the nodes' own, in their order.

    ``messages`` and ``sent_bytes`` count what all members have sent.
    """

    def __init__(self, world: World, keys: Sequence[KeyPair]) -> None:
        self.messages = 0
        self.sent_bytes = 0
        self._world = world
        self._keys = keys
        self._params = OverlayParams()
        self._chance = world.chance("overlay")
        self._network = world.network.beside(world.chance("overlay/network"))
        self._index = {NodeId(key.account): i for i, key in enumerate(keys)}
        self._sites = {
            model: [Site(NodeId(keys[twin.index].account), twin) for twin in twins]
            for model, twins in world.by_model.items()
        }
        self._members: dict[int, Membership] = {}
        self._known: dict[int, Neighbourhood] = {}
        late = {coming.node for coming in world.setup.comings if coming.joins_s is not None}
        there = [node for node in world.nodes if node.index not in late]
        self._contacts = [self._address(node) for node in there[:CONTACTS]]
        for node in there:
            world.loop.after(self._chance.randrange(STARTED_WITHIN_US), self.came, node)

    def ranked(self, node: NodeTwin, model: str) -> list[NodeTwin]:
        """All who sell it, in the order in which a live node would ask them."""
        sites = [site for site in self._sites.get(model, ()) if site.twin is not node]
        self._chance.shuffle(sites)
        known = self._known.get(node.index)
        return [site.twin for site in (sites if known is None else known.order(sites))]

    def viewed(self, node: NodeTwin) -> list[NodeTwin]:
        """Whom it had in view at its last tick."""
        known = self._known.get(node.index)
        return [] if known is None else [self._world.nodes[self._index[member.node]] for member in known.members]

    def came(self, node: NodeTwin) -> None:
        now_ms = self._world.loop.now_ms
        member = self._members[node.index] = Membership(
            self._keys[node.index],
            Profile(address=self._address(node), serves=(node.spec.serves,)),
            self._contacts,
            at_ms=now_ms,
            chance=self._chance.randbytes(_CHANCE_BYTES),
            params=self._params,
        )
        self._step(node.index, events.Started(at_ms=now_ms))
        self._tick(node.index, member)

    def gone(self, node: NodeTwin, *, crash: bool) -> None:
        if not crash:
            self._step(node.index, events.LeaveRequested(at_ms=self._world.loop.now_ms))
        self._members.pop(node.index, None)
        self._known.pop(node.index, None)

    def _address(self, node: NodeTwin) -> NodeAddress:
        return NodeAddress(node=NodeId(self._keys[node.index].account))

    def _tick(self, index: int, member: Membership) -> None:
        if self._members.get(index) is not member:
            return
        chance = self._chance.randbytes(_CHANCE_BYTES)
        self._step(index, events.Ticked(at_ms=self._world.loop.now_ms, chance=chance))
        self._known[index] = member.neighbourhood()
        self._world.loop.after(self._params.tick_ms * 1_000, self._tick, index, member)

    def _step(self, index: int, event: events.Event) -> Message | None:
        """What the member replies, where it does."""
        reply: Message | None = None
        member = self._members.get(index)
        for effect in () if member is None else member.step(event):
            match effect:
                case events.Send():
                    self._request(index, self._index[effect.to.node], effect.message)
                case events.Reply():
                    reply = effect.message
                case events.ViewChanged() | events.Left():
                    pass
        return reply

    def _request(self, sender: int, to: int, message: Message) -> None:
        """As a stream of its own: loss delays it, and without an answer in time it is given up."""
        loop = self._world.loop
        request = _Request(sender, to, loop.now_us + TIMEOUT_US)
        self._send(sender, to, partial(self._asked, request), message)
        loop.at(request.due_us, self._overdue, request)

    def _send(self, sender: int, to: int, arrived: partial[None], message: Message) -> None:
        size_bytes = len(canonical.encode(message))
        self.messages += 1
        self.sent_bytes += size_bytes
        self._network.send(sender, to, arrived, message, size_bytes, reliable=True)

    def _asked(self, request: "_Request", message: Message, size_bytes: int) -> None:
        if self._world.loop.now_us > request.due_us:
            return
        reply = self._hear(request.to, request.sender, message, size_bytes)
        answered = partial(self._answered, request)
        if reply is None:
            self._network.send(request.to, request.sender, answered, None, 0, reliable=True)
        else:
            self._send(request.to, request.sender, answered, reply)

    def _answered(self, request: "_Request", reply: Message | None, size_bytes: int) -> None:
        if self._world.loop.now_us > request.due_us:
            return
        request.answered = True
        if reply is not None:
            self._hear(request.sender, request.to, reply, size_bytes)

    def _hear(self, index: int, peer: int, message: Message, size_bytes: int) -> Message | None:
        now_ms, node = self._world.loop.now_ms, NodeId(self._keys[peer].account)
        return self._step(index, events.MessageArrived(at_ms=now_ms, peer=node, message=message, size_bytes=size_bytes))

    def _overdue(self, request: "_Request") -> None:
        if not request.answered:
            peer = NodeId(self._keys[request.to].account)
            self._step(request.sender, events.PeerUnreachable(at_ms=self._world.loop.now_ms, peer=peer))


class _Request:
    def __init__(self, sender: int, to: int, due_us: int) -> None:
        self.sender = sender
        self.to = to
        self.due_us = due_us
        self.answered = False
