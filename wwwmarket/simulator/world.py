"""A world to dispatch in: nodes with engines, a network, the trips of requests, and who leaves and comes when.

Every dispatch rule gets the same requests, engines, delays and departures; chance is drawn from streams of their own,
so that what one part draws never changes another.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Final, Literal, Protocol, TypeAlias

from wwwmarket.dispatch.step_time import StepTimeModel
from wwwmarket.domain.shape import Value
from wwwmarket.simulator.engines import EngineTwin
from wwwmarket.simulator.events import EventLoop
from wwwmarket.simulator.fleet import NodeSpec
from wwwmarket.simulator.network import Network
from wwwmarket.simulator.workload import Request

Character: TypeAlias = Literal[
    "honest",
    "greedy",
    "over-promising",
    "under-promising",
    "silent",
    "slow",
    "lying",
    "ceiling",
    "ring",
    "favouring",
    "omitting",
    "denying",
    "sybil-silent",
    "sybil-lying",
    "sybil-selling",
]
Overlay: TypeAlias = Literal["static", "live"]
MIXING_US: Final = 120_000_000
"""How long the members of a live overlay have known each other when the first request comes."""
TIME_VALUE_MICRO_PER_S: Final = 10
"""What a second saved is worth to clients: about what a second of one place in a batch costs its provider (0.2 micro
a token at 30 to 60 tokens a second), so that time and price weigh alike. Far above it every ask reaches its list price
wherever anybody runs, and prices say no more who is busy.
"""
SLOWNESS: Final = 2.0
"""A slow provider's engine takes so many times what its owner believes."""


class Leaving(Value):
    """A node that is gone from ``leaves_s`` on (a crash, or in order), or not there before ``joins_s``."""

    node: int
    leaves_s: float | None = None
    joins_s: float | None = None
    crash: bool = True


class Cut(Value):
    """From ``from_s`` to ``until_s`` the last ``share`` of the nodes and the others cannot hear each other."""

    from_s: float
    until_s: float
    share: float = 0.5


class Setup(Value):
    """All that a run depends on, but for the dispatch rule."""

    seed: int
    nodes: tuple[NodeSpec, ...]
    characters: tuple[Character, ...] = ()
    accept: tuple[float | None, ...] = ()
    """Of each node: the share of others' bids that it answers; None: as the dispatch rule has it."""
    offload: tuple[float | None, ...] = ()
    """Of each node: the share of its clients' requests that it offers to others; None: as the dispatch rule has it."""
    comings: tuple[Leaving, ...] = ()
    cuts: tuple[Cut, ...] = ()
    overlay: Overlay = "static"
    """Whether views are a stand-in's, or the overlay's own machines run."""
    loss: float = 0.0
    output_tokens_max: int = 8_192
    prediction_error: float = 0.09
    """Standard deviation of the logarithm of each provider's error in its own engine's speed."""
    time_value_micro_per_s: int = TIME_VALUE_MICRO_PER_S
    asked: int = 3
    """Others asked in the first round, beside oneself."""
    asked_more: int = 5
    """In the second round, where the first found nothing good enough."""
    seconds_max: float = 7_200.0


@dataclass(slots=True, eq=False)
class Trip:
    """A request on its way. ``messages`` are those of dispatch between nodes, up to the engine."""

    request: Request
    messages: int = 0
    executor: int | None = None
    first_us: int | None = None
    finish_us: int | None = None
    failed: str | None = None

    @property
    def over(self) -> bool:
        return self.finish_us is not None or self.failed is not None

    def fail(self, reason: str) -> None:
        if not self.over:
            self.failed = reason


@dataclass(eq=False)
class NodeTwin:
    index: int
    spec: NodeSpec
    engine: EngineTwin
    character: Character
    believed: StepTimeModel
    accept: float | None = None
    offload: float | None = None
    up: bool = True
    running: set[Trip] = field(default_factory=set)
    assigned: set[Trip] = field(default_factory=set)
    """Those that run, and those on their way here."""
    knocked: list[Trip] = field(default_factory=list)
    """Requests that came in here: they go down with it."""


class Policy(Protocol):
    """A dispatch rule. ``gone`` and ``came`` tell of nodes, when the world changes."""

    name: str

    def arrive(self, trip: Trip) -> None: ...
    def gone(self, node: NodeTwin, *, crash: bool) -> None: ...
    def came(self, node: NodeTwin) -> None: ...


class World:
    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.loop = EventLoop(-MIXING_US if setup.overlay == "live" else 0)
        self.network = Network(
            self.loop, [spec.region for spec in setup.nodes], self.chance("network"), loss=setup.loss
        )
        errors = self.chance("prediction-error")
        self._shared: dict[str, EngineTwin] = {}
        self.nodes = [
            self._node(i, spec, errors.lognormvariate(0.0, setup.prediction_error))
            for i, spec in enumerate(setup.nodes)
        ]
        self.by_model: dict[str, list[NodeTwin]] = {}
        for node in self.nodes:
            self.by_model.setdefault(node.spec.serves, []).append(node)
        self.polled_messages = 0

    def chance(self, stream: str) -> Random:
        return Random(f"{self.setup.seed}/{stream}")

    def _node(self, index: int, spec: NodeSpec, error: float) -> NodeTwin:
        characters = self.setup.characters
        character = characters[index] if characters else "honest"
        model = spec.step_time()
        engine = EngineTwin(self.loop, model.scaled(SLOWNESS) if character == "slow" else model, spec.limits())
        if character == "sybil-selling":
            engine = self._shared.setdefault(spec.serves, engine)
        node = NodeTwin(index, spec, engine, character, model.scaled(error))
        node.accept = self.setup.accept[index] if self.setup.accept else None
        node.offload = self.setup.offload[index] if self.setup.offload else None
        return node

    def eligible(self, request: Request) -> list[NodeTwin]:
        """Nodes that are there, serve the request's model, and have room for the longest answer it may have."""
        longest = self.setup.output_tokens_max
        return [
            node
            for node in self.by_model.get(request.model, ())
            if node.up and node.engine.fits(request.input_tokens, longest)
        ]

    def knock(self, trip: Trip) -> NodeTwin | None:
        """Where the request's client knocks: its own node, or the next live one of the same model."""
        node = self.nodes[trip.request.origin]
        same = self.by_model[node.spec.serves]
        start = same.index(node)
        home = next((other for other in same[start:] + same[:start] if other.up), None)
        if home is not None:
            home.knocked.append(trip)
        return home

    def begin(self, policy: Policy, trips: Sequence[Trip]) -> None:
        """Schedule the arrivals, the departures, the comings and the cuts."""
        for coming in self.setup.comings:
            node = self.nodes[coming.node]
            if coming.joins_s is not None:
                node.up = False
                self.network.down.add(node.index)
                self.loop.at(round(coming.joins_s * 1e6), self._come, node, policy)
            if coming.leaves_s is not None:
                self.loop.at(round(coming.leaves_s * 1e6), self._leave, node, policy, coming.crash)
        for cut in self.setup.cuts:
            apart = range(round(len(self.nodes) * (1 - cut.share)), len(self.nodes))
            self.loop.at(round(cut.from_s * 1e6), self.network.divide, dict.fromkeys(apart, 1))
            self.loop.at(round(cut.until_s * 1e6), self.network.divide, {})
        for trip in trips:
            self.loop.at(trip.request.at_us, policy.arrive, trip)

    def _come(self, node: NodeTwin, policy: Policy) -> None:
        node.up = True
        self.network.down.discard(node.index)
        policy.came(node)

    def _leave(self, node: NodeTwin, policy: Policy, crash: bool) -> None:  # noqa: FBT001 - called by the loop
        node.up = False
        if crash:
            self.network.down.add(node.index)
            node.engine.crash()
            for trip in node.knocked:
                trip.fail("its gateway crashed")
        policy.gone(node, crash=crash)

    def serve(self, trip: Trip, node: NodeTwin, home: NodeTwin) -> None:
        """Send the request to a node and its answer back: what every rival does. One message, if it is another."""
        trip.executor = node.index
        trip.messages += node is not home
        if node.index in self.network.down:
            trip.fail("its node had crashed")
            return
        node.assigned.add(trip)
        self.network.send(home.index, node.index, self._run, trip, node, home, reliable=True)

    def _run(self, trip: Trip, node: NodeTwin, home: NodeTwin) -> None:
        request = trip.request
        if not node.up or not node.engine.fits(request.input_tokens, request.output_tokens):
            trip.fail("the node could not take it")
            return
        node.running.add(trip)

        def first() -> None:
            self.network.send(node.index, home.index, self._first, trip, reliable=True)

        def finish() -> None:
            node.running.discard(trip)
            node.assigned.discard(trip)
            self.network.send(node.index, home.index, self._finish, trip, reliable=True)

        node.engine.submit(request.input_tokens, request.output_tokens, first, finish)

    def _first(self, trip: Trip) -> None:
        if trip.first_us is None and not trip.over:
            trip.first_us = self.loop.now_us

    def _finish(self, trip: Trip) -> None:
        if not trip.over:
            trip.finish_us = self.loop.now_us

    def every(self, period_us: int, action: Callable[[], None]) -> None:
        """Do ``action`` now and in every period, until the run is over."""
        action()
        self.loop.after(period_us, self.every, period_us, action)
