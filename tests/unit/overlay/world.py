"""Many members on one heap of deliveries: delays, loss, cuts and crashes by decree, chance by seed."""

from collections import Counter
from collections.abc import Callable
from hashlib import sha256
from heapq import heappop, heappush
from random import Random

import networkx as nx

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.identity import NodeId
from wwwmarket.domain.records import NodeAddress
from wwwmarket.overlay.events import (
    LeaveRequested,
    Left,
    MessageArrived,
    PeerUnreachable,
    Reply,
    Send,
    Started,
    Ticked,
    ViewChanged,
)
from wwwmarket.overlay.membership import Membership
from wwwmarket.overlay.params import OverlayParams
from wwwmarket.overlay.register import Profile
from wwwmarket.overlay.topology import Latencies

EPOCH_MS = 1_767_225_600_000
USUAL = OverlayParams()


def key(number: int) -> KeyPair:
    return KeyPair(sha256(f"node {number}".encode()).digest())


def address(number: int) -> NodeAddress:
    return NodeAddress(node=NodeId(key(number).account), sockets=(f"10.0.{number // 256}.{number % 256}:4433",))


def profile(number: int, *serves: str) -> Profile:
    return Profile(address=address(number), serves=serves or (f"org/model-{number % 6}",))


class World:
    """``silent`` decides whether an unreachable peer is a timeout of the member's own, or an event of the transport."""

    def __init__(self, *, seed: int = 0, loss: float = 0.0, params: OverlayParams = USUAL, silent: bool = True) -> None:
        self.params = params
        self.now_ms = EPOCH_MS
        self.members: dict[NodeId, Membership] = {}
        self.sent_bytes: Counter[NodeId] = Counter()
        self.received_bytes: Counter[NodeId] = Counter()
        self.view_changes: list[tuple[int, NodeId, ViewChanged]] = []
        self.is_cut: Callable[[NodeId, NodeId], bool] = lambda _one, _other: False
        self.foreign: Callable[[NodeId, NodeId, object], object | None] | None = None
        self.latency_ms: Callable[[NodeId, NodeId], int] = self._distance_ms
        self._latencies = Latencies(seed=seed)
        self._numbers: dict[NodeId, int] = {}
        self._loss = loss
        self._silent = silent
        self._chance = Random(seed)
        self._heap: list = []
        self._pushed = 0

    def start(self, number: int, *contacts: NodeAddress, made: Profile | None = None) -> Membership:
        node = address(number).node
        self._numbers[node] = number
        member = self.members[node] = Membership(
            key(number),
            made or profile(number),
            contacts,
            at_ms=self.now_ms,
            chance=self._chance.randbytes(32),
            params=self.params,
        )
        self.perform(node, Started(at_ms=self.now_ms))
        self._push(self._chance.randrange(self.params.tick_ms), lambda: self._tick(node, member))
        return member

    def start_many(self, count: int, *, within_ms: int = 1_000) -> None:
        """Nodes 0 to ``count`` - 1, all but the first knowing the first alone."""
        self.start(0)
        for number in range(1, count):
            self._push(self._chance.randrange(within_ms), lambda number=number: self.start(number, address(0)))

    def crash(self, number: int) -> None:
        del self.members[address(number).node]

    def leave(self, number: int) -> None:
        self.perform(address(number).node, LeaveRequested(at_ms=self.now_ms))

    def run(self, duration_ms: int) -> None:
        until_ms = self.now_ms + duration_ms
        while self._heap and self._heap[0][0] <= until_ms:
            self.now_ms, _, act = heappop(self._heap)
            act()
        self.now_ms = until_ms

    def run_until(self, condition: Callable[[], bool], *, limit_ms: int, step_ms: int = 250) -> int:
        """How long it took until the condition held."""
        begun_ms = self.now_ms
        while not condition():
            assert self.now_ms < begun_ms + limit_ms, f"not within {limit_ms} ms"
            self.run(step_ms)
        return self.now_ms - begun_ms

    def graph(self) -> nx.DiGraph:
        """Who has whom in view."""
        graph = nx.DiGraph()
        graph.add_nodes_from(self.members)
        for node, member in self.members.items():
            graph.add_edges_from((node, known.node) for known in member.neighbourhood().members)
        return graph

    def watchers(self, number: int) -> set[NodeId]:
        """Who has it in view."""
        node = address(number).node
        return {one for one, member in self.members.items() if node in views(member)}

    def digests(self) -> list[str]:
        return [member.digest() for member in self.members.values()]

    def perform(self, node: NodeId, event) -> None:
        for effect in self.members[node].step(event):
            match effect:
                case Send(to=to, message=message):
                    self.post(node, to.node, message)
                case Reply(to=to, message=message):
                    self.post(node, to, message)
                case ViewChanged():
                    self.view_changes.append((self.now_ms, node, effect))
                case Left():
                    del self.members[node]

    def post(self, node: NodeId, to: NodeId, message) -> None:
        size_bytes = len(canonical.encode(message))
        self.sent_bytes[node] += size_bytes
        if self._chance.random() < self._loss or self.is_cut(node, to):
            return
        self._push(
            self.latency_ms(node, to) + self._chance.randrange(3), lambda: self._deliver(node, to, message, size_bytes)
        )

    def _deliver(self, node: NodeId, to: NodeId, message, size_bytes: int) -> None:
        if self.foreign is not None and to not in self.members:
            answer = self.foreign(node, to, message)
            if answer is not None:
                self.post(to, node, answer)
        elif to in self.members:
            self.received_bytes[to] += size_bytes
            self.perform(to, MessageArrived(at_ms=self.now_ms, peer=node, message=message, size_bytes=size_bytes))
        elif not self._silent and node in self.members:
            self.perform(node, PeerUnreachable(at_ms=self.now_ms, peer=to))

    def _tick(self, node: NodeId, member: Membership) -> None:
        if self.members.get(node) is not member:
            return
        self.perform(node, Ticked(at_ms=self.now_ms, chance=self._chance.randbytes(32)))
        self._push(self.params.tick_ms, lambda: self._tick(node, member))

    def _push(self, delay_ms: int, act: Callable[[], None]) -> None:
        self._pushed += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._pushed, act))

    def _distance_ms(self, one: NodeId, other: NodeId) -> int:
        return self._latencies.one_way_ms(self._numbers.get(one, 0), self._numbers.get(other, 0))


def views(member: Membership) -> set[NodeId]:
    return {known.node for known in member.neighbourhood().members}
