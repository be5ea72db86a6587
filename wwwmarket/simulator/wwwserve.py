"""WWW.Serve's dispatch rule as its code has it: one serial loop a node with a tick, probes by stake, chances.

From its published description (arXiv 2603.20661) and behaviour; all stakes are equal. Where the peer reads token usage,
the larger of token usage and slots in use is read here, in its favour: engines of few slots are full without it.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import Final

from wwwmarket.simulator.rivals import PROBE_TIMEOUT_US, Rival
from wwwmarket.simulator.world import NodeTwin, Trip, World

OFFLOAD: Final = 0.8
ACCEPT: Final = 0.8
QUEUE: Final = 0.2
TARGET_USAGE: Final = 0.7
PROBED: Final = 3


@dataclass(eq=False)
class _Loop:
    """One node's loop: its user queue, and whether it ticks."""

    node: NodeTwin
    queue: deque[Trip] = field(default_factory=deque)
    ticking: bool = False


class WwwServe(Rival):
    """``tick_us`` is 500 ms as shipped."""

    name = "wwwserve"
    tick_us = 500_000
    offload = OFFLOAD
    accept = ACCEPT
    queue = QUEUE

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._loops = [_Loop(node) for node in world.nodes]

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        loop = self._loops[home.index]
        loop.queue.append(trip)
        if not loop.ticking:
            loop.ticking = True
            # a loop that ran idle wakes at its next tick, wherever in its period the request has come
            self.world.loop.after(self.chance.randrange(self.tick_us) + 1, self._tick, loop)

    def gone(self, node: NodeTwin, *, crash: bool) -> None:
        super().gone(node, crash=crash)
        if crash:
            for trip in self._loops[node.index].queue:
                trip.fail("its node crashed")
            self._loops[node.index].queue.clear()

    def _next(self, loop: _Loop) -> None:
        if loop.queue:
            self.world.loop.after(self.tick_us, self._tick, loop)
        else:
            loop.ticking = False

    def _tick(self, loop: _Loop) -> None:
        if not loop.queue:
            loop.ticking = False
            return
        trip, node = loop.queue[0], loop.node
        local = node.spec.serves == trip.request.model
        if local and node.engine.usage < TARGET_USAGE:
            self._take(loop, node)
        elif self.chance.random() < (self.offload if node.offload is None else node.offload):
            self._probe(loop, trip)
        elif local and self.chance.random() < self.queue:
            self._take(loop, node)
        else:
            self._next(loop)

    def _take(self, loop: _Loop, node: NodeTwin) -> None:
        self.world.serve(loop.queue.popleft(), node, loop.node)
        self._next(loop)

    def _probe(self, loop: _Loop, trip: Trip) -> None:
        others = [node for node in self.world.eligible(trip.request) if node is not loop.node]
        drawn = self.chance.sample(others, min(PROBED, len(others)))
        if not drawn:
            self._next(loop)
            return
        answers: dict[int, bool] = {}
        network, home = self.world.network, loop.node

        def answered(node: NodeTwin, accepts: bool) -> None:  # noqa: FBT001 - a message
            answers[node.index] = accepts
            if len(answers) == len(drawn):
                self._decide(loop, trip, drawn, answers)

        def probed(node: NodeTwin) -> None:
            free = not self._loops[node.index].queue and node.engine.usage < TARGET_USAGE
            accepts = free and self.chance.random() < (self.accept if node.accept is None else node.accept)
            network.send(node.index, home.index, answered, node, accepts)

        def overdue() -> None:
            if len(answers) < len(drawn):
                answers.update({node.index: False for node in drawn if node.index not in answers})
                self._decide(loop, trip, drawn, answers)

        trip.messages += 2 * len(drawn)
        for node in drawn:
            network.send(home.index, node.index, probed, node)
        self.world.loop.after(PROBE_TIMEOUT_US, overdue)

    def _decide(self, loop: _Loop, trip: Trip, drawn: list[NodeTwin], answers: dict[int, bool]) -> None:
        """The first acceptor in the order of the draw, or another try at the next tick."""
        if not loop.queue or loop.queue[0] is not trip:
            return
        accepting = next((node for node in drawn if answers[node.index]), None)
        if accepting is None:
            self._next(loop)
        else:
            self._take(loop, accepting)


class WwwServeFast(WwwServe):
    """The same with its tick at 20 ms."""

    name = "wwwserve-fast"
    tick_us = 20_000
