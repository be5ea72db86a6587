"""Dispatch rules that others use, on the same arrivals and engines. What each knows is said at each.

Trips that are lost in a crash are errors for all of these: none of them has a second provider at hand.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Final

from wwwmarket.dispatch.prediction import Load, TableLatency, Work
from wwwmarket.domain.errors import TooLarge
from wwwmarket.simulator.fleet import idle_ms
from wwwmarket.simulator.world import NodeTwin, Trip, World

PROBE_TIMEOUT_US: Final = 2_000_000
POLL_US: Final = 1_000_000
"""How often the published central scheduler reads its engines' metrics."""


class Rival(ABC):
    """What they share: a client knocks at home, the rule picks a node, the node serves."""

    name = ""

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.chance(f"policy/{self.name}")

    def arrive(self, trip: Trip) -> None:
        home = self.world.knock(trip)
        if home is None:
            trip.fail("no node is there")
        elif not self.world.eligible(trip.request):
            trip.fail("no engine is large enough")
        else:
            self.dispatch(trip, home)

    @abstractmethod
    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        """Send the trip to a node that serves it, or fail it."""

    def gone(self, node: NodeTwin, *, crash: bool) -> None:
        if crash:
            for trip in node.assigned:
                trip.fail("its node crashed")
            node.assigned.clear()
            node.running.clear()

    def came(self, node: NodeTwin) -> None:  # noqa: B027 - most rules need not know
        """Nothing to learn: the live nodes are read from the world."""


class Single(Rival):
    """No exchange: every request stays where it came in."""

    name = "single"

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        self.world.serve(trip, home, home)


class RandomNode(Rival):
    """One eligible node, uniformly; it knows who serves what, and nothing else."""

    name = "random"

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        self.world.serve(trip, self.chance.choice(self.world.eligible(trip.request)), home)


class PowerOfTwo(Rival):
    """Two eligible nodes are probed live, the one with fewer requests in hand serves."""

    name = "power-of-two"

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        live = self.world.eligible(trip.request)
        pair = self.chance.sample(live, min(2, len(live)))
        answers: list[tuple[int, int, NodeTwin]] = []
        network = self.world.network

        def answered(node: NodeTwin, in_hand: int, place: int) -> None:
            answers.append((in_hand, place, node))
            if len(answers) == len(pair):
                self.world.serve(trip, min(answers, key=lambda answer: answer[:2])[2], home)

        def overdue() -> None:
            if trip.executor is None and answers:
                self.world.serve(trip, answers[0][2], home)
            elif trip.executor is None:
                trip.fail("no probe was answered")

        def probed(node: NodeTwin, place: int) -> None:
            network.send(node.index, home.index, answered, node, node.engine.in_flight, place, reliable=True)

        for place, node in enumerate(pair):
            trip.messages += 2 * (node is not home)
            network.send(home.index, node.index, probed, node, place, reliable=True)
        self.world.loop.after(PROBE_TIMEOUT_US, overdue)


class StaleQueue(Rival):
    """The shortest queue of the whole network, as gossip told it ``age_us`` ago; ties by chance."""

    name = "stale-queue"
    age_us = 1_000_000

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._told: dict[int, int] = {}
        world.loop.at(0, world.every, self.age_us, self._gossip)

    def _gossip(self) -> None:
        self._told = {node.index: node.engine.in_flight for node in self.world.nodes}

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        live = self.world.eligible(trip.request)
        shortest = min(self._told[node.index] for node in live)
        self.world.serve(trip, self.chance.choice([n for n in live if self._told[n.index] == shortest]), home)


class CentralPublished(Rival):
    """The published baseline: least usage by metrics polled every second; no queue, no count of its own, no speeds."""

    name = "central-published"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._polled: dict[int, float] = {}
        world.loop.at(0, world.every, POLL_US, self._poll)

    def _poll(self) -> None:
        self._polled = {node.index: node.engine.usage for node in self.world.nodes}
        self.world.polled_messages += 2 * len(self._polled)

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        live = self.world.eligible(trip.request)
        least = min(self._polled[node.index] for node in live)
        self.world.serve(trip, self.chance.choice([n for n in live if self._polled[n.index] == least]), home)


class CentralOracle(Rival):
    """Perfect information: every engine's exact state and speed and all true output lengths, known at once, what is on
    its way included. Earliest predicted finish; delays of the network are not counted.
    """

    name = "central-oracle"

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._coming: dict[int, list[Trip]] = {}

    def dispatch(self, trip: Trip, home: NodeTwin) -> None:
        request = trip.request
        at_least = self._at_least_ms(trip)
        ranked = sorted(
            (at_least[_kind(node)] * (1 + node.engine.in_flight), at_least[_kind(node)], node.index)
            for node in self.world.eligible(request)
        )
        best: tuple[float, int] | None = None
        for _, at_least_ms, index in ranked:
            if best is not None and at_least_ms >= best[0]:
                continue
            finish_ms = self._finish_ms(trip, self.world.nodes[index])
            if finish_ms is not None and (best is None or (finish_ms, index) < best):
                best = (finish_ms, index)
        if best is None:
            trip.fail("it fits no engine")
            return
        node = self.world.nodes[best[1]]
        coming = self._coming.setdefault(node.index, [])
        coming.append(trip)
        delay_us = self.world.network.round_trip_us(home.index, node.index)
        self.world.loop.after(delay_us, self._forget, coming, trip)
        self.world.serve(trip, node, home)

    @staticmethod
    def _forget(coming: list[Trip], trip: Trip) -> None:
        coming.remove(trip)

    def _at_least_ms(self, trip: Trip) -> dict[tuple[str, str, float], float]:
        """Alone on an engine of each kind: nothing can finish earlier."""
        request, found = trip.request, {}
        for node in self.world.eligible(request):
            kind = _kind(node)
            if kind not in found:
                engine = node.engine
                found[kind] = idle_ms(engine.model, engine.limits, request.input_tokens, request.output_tokens)[1]
        return found

    def _finish_ms(self, trip: Trip, node: NodeTwin) -> float | None:
        seen = node.engine.snapshot()
        there = len(seen)
        work = [
            Work(input_tokens_left=s.input_left, output_tokens_left=s.output_left, context_tokens=s.context)
            for s in seen
        ]
        held = [
            Work(input_tokens_left=other.request.input_tokens, output_tokens_left=other.request.output_tokens)
            for other in self._coming.get(node.index, ())
            if other not in node.running and not other.over
        ]
        load = Load(running=0, waiting=there, work=tuple(work), holds=tuple(held))
        table = TableLatency(model=node.engine.model, limits=node.engine.limits)
        try:
            return table.predict(
                load, input_tokens=trip.request.input_tokens, output_tokens=trip.request.output_tokens
            ).finish_ms
        except TooLarge:
            return None


def _kind(node: NodeTwin) -> tuple[str, str, float]:
    return node.spec.gpu, node.spec.model, node.engine.model.weights_ms


RIVALS: Final[tuple[Callable[[World], Rival], ...]] = (
    Single,
    RandomNode,
    PowerOfTwo,
    StaleQueue,
    CentralPublished,
    CentralOracle,
)
