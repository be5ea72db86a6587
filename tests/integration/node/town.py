"""A market in one event loop: an operator, providers, memory between them, and time that jumps where nobody works.

A node can be killed at any write to its store, before or after the write, and come back over what is stored.
"""

import asyncio
import contextvars
import selectors
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from random import Random
from typing import Any, TypeVar

from msgspec.structs import replace

from tests.unit.rules.world import key
from wwwmarket.bootstrap import OfferSettings, begin_selling
from wwwmarket.config import LOCAL, NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.derivation import child
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.evidence import LogEvidence
from wwwmarket.domain.identity import AccountId, EntryId, NodeId
from wwwmarket.domain.quantity import Prices, Slo
from wwwmarket.domain.records import Body, Genesis, Grant, NodeAddress, Settlement
from wwwmarket.ledger.evidence import EVIDENCE_BYTES_MAX
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.node.answers import Answers
from wwwmarket.node.node import Founding, Joining, Node, World
from wwwmarket.node.service import Delivered, DeliveryEvent, Preferences, Purchase
from wwwmarket.ports.engine import ResponsePiece, ServedModel
from wwwmarket.ports.mirrors import Mirrors
from wwwmarket.ports.store import Orderer
from wwwmarket.ports.transport import RequestHandler, Stream, StreamHandler
from wwwmarket.rules.registry import Registry
from wwwmarket.simulator.engine import HELLO, Play, PlayingEngine
from wwwmarket.simulator.store import MemoryLedger, MemoryRecords
from wwwmarket.simulator.transport import MemoryTransport, Network

T = TypeVar("T")

REGISTRY = Registry.load()
MODEL = ServedModel(name="test/model", revision="main", precision="bf16", context_tokens=32_768)
START_MS = 1_800_000_000_000
CREDITS_MICRO = 1_000_000_000
REQUEST = b'{"messages":[{"content":"hello","role":"user"}],"model":"test/model"}'

STORY_S_MAX = 3_600
"""Of simulated time: a story that takes longer has come to a halt."""

OWNER: contextvars.ContextVar[str] = contextvars.ContextVar("OWNER", default="")


class _Selector(selectors.SelectSelector):
    """Where nothing is ready it moves time on to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.elapsed_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = super().select(0)
        if not ready:
            assert timeout is not None, "everybody waits, and nothing will ever happen"
            self.elapsed_s += timeout
        return ready


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in simulated time, for what neither sockets nor threads take part in."""

    def __init__(self) -> None:
        self._jumping = _Selector()
        super().__init__(self._jumping)
        self._clock_resolution = 1e-6

    def time(self) -> float:
        return self._jumping.elapsed_s


class LoopClock:
    """``ports.clock.Clock`` over the time of the running loop."""

    def now_ms(self) -> int:
        return START_MS + int(self.monotonic_ms())

    def monotonic_ms(self) -> float:
        return asyncio.get_running_loop().time() * 1_000

    async def sleep_until_ms(self, monotonic_ms: float) -> None:
        await asyncio.sleep(max(0.0, monotonic_ms - self.monotonic_ms()) / 1_000)


class SeededEntropy:
    def __init__(self, seed: int) -> None:
        self._chance = Random(seed)

    def bytes(self, count: int) -> bytes:
        return self._chance.randbytes(count)

    def below(self, bound: int) -> int:
        return self._chance.randrange(bound)


class Life:
    """One life of a node between two deaths. ``die_at`` is the write at which it ends, ``after`` it or before."""

    def __init__(self, die: Callable[[], None], die_at: int | None = None, *, after: bool = False) -> None:
        self._die, self._die_at, self._after = die, die_at, after
        self.writes = 0
        self.over = False

    def aim(self, writes_ahead: int, *, after: bool) -> None:
        """Die at the write that is so many ahead from now."""
        self._die_at, self._after = self.writes + writes_ahead, after

    def spare(self) -> None:
        """Live on."""
        self._die_at = None

    async def write(self, doing: Callable[[], Awaitable[T]]) -> T:
        self.writes += 1
        last = self.writes == self._die_at
        if not self.over and not (last and not self._after):
            done = await doing()
            if not last:
                return done
        if not self.over:
            self.over = True
            self._die()
        await asyncio.get_running_loop().create_future()
        raise AssertionError("nobody returns from here")


class MortalRecords:
    def __init__(self, life: Life, records: MemoryRecords) -> None:
        self._life, self._records = life, records
        self.read, self.scan = records.read, records.scan

    async def write(self, changes: Sequence[Any], **options: Any) -> None:
        await self._life.write(lambda: self._records.write(changes, **options))


class MortalLedger:
    def __init__(self, life: Life, ledger: MemoryLedger) -> None:
        self._life, self._ledger = life, ledger
        self.size, self.promised = ledger.size, ledger.promised
        self.read, self.index_of = ledger.read, ledger.index_of
        self.checkpoint, self.tile = ledger.checkpoint, ledger.tile

    async def append(self, first_index: int, leaves: Sequence[bytes], ids: Sequence[EntryId]) -> None:
        await self._life.write(lambda: self._ledger.append(first_index, leaves, ids))

    async def put_checkpoint(self, size: int, note: bytes, tiles: Sequence[Any]) -> None:
        await self._life.write(lambda: self._ledger.put_checkpoint(size, note, tiles))

    async def cut(self, size: int) -> None:
        await self._life.write(lambda: self._ledger.cut(size))


class OwnedTransport:
    """Its handlers run as their node's, so that they end with it."""

    def __init__(self, town: "Town", name: str, transport: MemoryTransport) -> None:
        self._town, self._name, self._transport = town, name, transport
        self.address, self.request = transport.address, transport.request
        self.open_stream, self.round_trip_ms = transport.open_stream, transport.round_trip_ms
        self.close = transport.close

    def serve(self, on_request: RequestHandler, on_stream: StreamHandler) -> None:
        async def request(peer: NodeId, message: bytes) -> bytes:
            self._town.own(self._name)
            return await on_request(peer, message)

        async def stream(opened: Stream, opening: bytes) -> None:
            self._town.own(self._name)
            await on_stream(opened, opening)

        self._transport.serve(request, stream)


class House:
    """A node, over its deaths."""

    def __init__(self, town: "Town", name: str, engine: PlayingEngine | None, **offer: Any) -> None:
        self.town, self.name, self.engine, self.offer = town, name, engine, offer
        self.key = key(name)
        self.account_key: KeyPair | None = None
        self.records, self.ledger = MemoryRecords(), MemoryLedger()
        self.node: Node
        self.answers: Answers
        self.life: Life
        self.transport: MemoryTransport
        self.config: NodeConfig = town.config
        self.died = asyncio.Event()
        self.evidence: list[LogEvidence] = []

    def _keep_evidence(self, _name: str, data: bytes) -> None:
        self.evidence.append(canonical.decode(data, LogEvidence, bytes_max=EVIDENCE_BYTES_MAX))

    @property
    def id(self) -> NodeId:
        return NodeId(self.key.account)

    async def open(self) -> None:
        """Come up, for the first time or again."""
        await asyncio.create_task(self._open(), context=self._context())

    def _context(self) -> contextvars.Context:
        context = contextvars.copy_context()
        context.run(OWNER.set, self.name)
        return context

    async def _open(self) -> None:
        town = self.town
        self.died = asyncio.Event()
        self.life = Life(self.died.set)
        self.transport = town.network.join(self.id)
        world = World(
            key=self.key,
            account_key=self.account_key,
            transport=town.carried(self, OwnedTransport(town, self.name, self.transport)),
            records=town.recorded(self, MortalRecords(self.life, self.records)),
            ledger=town.logged(self, MortalLedger(self.life, self.ledger)),
            clock=town.clock,
            entropy=SeededEntropy(town.next_seed()),
            registry=REGISTRY,
            config=self.config,
            orderer=town.orderer_of(self.name),
            tokenizers=town.tokenizers,
            mirrors=town.mirrors,
            keep_evidence=self._keep_evidence,
        )
        self.node = Node(world, town.part(self.name))
        await self.node.start()
        self.answers = Answers(self.node)
        if self.engine is not None:
            description = await self.engine.describe()
            await begin_selling(self.node, self.engine, description, MODEL, offer_settings(**self.offer))

    async def kill(self) -> None:
        """As kill -9: nothing more is written, said or heard."""
        self.life.over = True
        self.died.set()
        self.town.network.crash(self.id)
        await self.town.end_tasks(self.name)

    async def close(self) -> None:
        await self.node.close()
        await self.town.end_tasks(self.name)

    async def run(self, doing: Coroutine[Any, Any, T]) -> T:
        """As this node's own work: it ends when the node does."""
        return await asyncio.create_task(doing, context=self._context())

    def spawn(self, doing: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        return asyncio.create_task(doing, context=self._context())


def offer_settings(**changes: Any) -> OfferSettings:
    offer: dict[str, Any] = {
        "engines": ("playing",),
        "model": MODEL.name,
        "prices": Prices(
            input_micro_per_mtok=100_000, cached_input_micro_per_mtok=25_000, output_micro_per_mtok=400_000
        ),
        "slo": Slo(ttft_ms=500, tpot_ms=50),
        "sequences": 4,
        "tokens_per_s": 1_000,
    }
    return OfferSettings(**(offer | changes))


def dearer(times: int) -> Prices:
    """List prices so many times the usual ones."""
    return Prices(
        input_micro_per_mtok=100_000 * times,
        cached_input_micro_per_mtok=25_000 * times,
        output_micro_per_mtok=400_000 * times,
    )


class Town:
    """``operator`` founds the ledger; everybody else follows it."""

    def __init__(self, config: NodeConfig = LOCAL, *, seed: int = 0) -> None:
        self.config = config
        self.clock = LoopClock()
        self.network = Network(self.clock, seed=seed)
        self.tokenizers: dict[str, Any] = {}
        self.mirrors: Mirrors | None = None
        self.houses: dict[str, House] = {}
        self._seed = seed * 1_000
        self._owners: dict[asyncio.Task[Any], str] = {}
        asyncio.get_running_loop().set_task_factory(self._make_task)
        founder = key("operator")
        self.log_key = child(founder, "operator")
        self.address = NodeAddress(node=NodeId(founder.account))
        self.genesis = Genesis(
            origin="test.market",
            operator=self.log_key.account,
            operator_address=self.address,
            contracts=REGISTRY.latest,
            grants=(Grant(account=founder.account, amount_micro=CREDITS_MICRO),),
            at_ms=self.clock.now_ms(),
        )

    def _make_task(self, loop: asyncio.AbstractEventLoop, doing: Any, **options: Any) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(doing, loop=loop, **options)
        context = options.get("context")
        self._owners[task] = OWNER.get() if context is None else context.get(OWNER, "")
        task.add_done_callback(self._owners.pop)
        return task

    def own(self, name: str) -> None:
        """The current task is that node's, whoever began it."""
        task = asyncio.current_task()
        assert task is not None
        OWNER.set(name)
        self._owners[task] = name

    async def end_tasks(self, name: str) -> None:
        for _ in range(100):
            tasks = [task for task, owner in self._owners.items() if owner == name]
            if not tasks:
                return
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks, timeout=0.001)
        raise AssertionError(f"these outlive their node: {tasks}")

    def next_seed(self) -> int:
        self._seed += 1
        return self._seed

    def part(self, name: str) -> Founding | Joining:
        if name == "operator":
            return Founding(self.log_key, self.genesis)
        return Joining(self.address, VerifierKey(name=self.genesis.origin, account=self.log_key.account))

    # Where a town of faults steps in between

    def carried(self, _house: House, transport: OwnedTransport) -> Any:
        """A node's network."""
        return transport

    def recorded(self, _house: House, records: MortalRecords) -> Any:
        """A node's records."""
        return records

    def logged(self, _house: House, ledger: MortalLedger) -> Any:
        """A node's copy of the log."""
        return ledger

    def orderer_of(self, _name: str) -> Orderer | None:
        """Nobody shares the order of this log."""
        return None

    def playing(self, play: Play = HELLO) -> PlayingEngine:
        return PlayingEngine(self.clock, MODEL, lambda _request: play)

    async def house(self, name: str, play: Play | None = HELLO, **offer: Any) -> House:
        """A node that comes up; it sells unless its play is None."""
        engine = None if play is None else self.playing(play)
        house = self.houses[name] = House(self, name, engine, **offer)
        await house.open()
        return house

    @property
    def operator(self) -> House:
        return self.houses["operator"]

    async def until(self, condition: Callable[[], bool], patience_ms: int = 900_000) -> None:
        """Wait for a condition, in simulated time."""
        async with asyncio.timeout(patience_ms / 1_000):
            while not condition():  # noqa: ASYNC110 - conditions of whole nodes have no event
                await asyncio.sleep(0.01)

    async def listed(self, count: int) -> None:
        """So many offers stand, and everybody has heard of them."""
        nodes = [house.node for house in self.houses.values()]

        def heard() -> bool:
            seen = {frozenset(node.replica.state.offers()) for node in nodes}
            sellers = [node.selling for node in nodes if node.selling is not None]
            (offers,) = seen if len(seen) == 1 else (frozenset(),)
            known = [offer for offer in offers for selling in sellers if selling.desk.seller.offered(offer)]
            return len(offers) == len(known) == count

        await self.until(heard)

    def available(self, account: AccountId) -> int:
        return self.operator.node.replica.state.account(account).available_micro

    def total(self) -> int:
        return self.operator.node.replica.state.total_micro

    async def settled(self) -> None:
        """No award is open any more, no money is locked, and that is durable."""
        node = self.operator.node
        await self.until(lambda: not node.replica.state.awards() and node.sequencer.committed == node.replica.size)
        accounts = [house.key.account for house in self.houses.values()]
        assert sum(node.replica.state.account(account).locked_micro for account in accounts) == 0

    async def close(self) -> None:
        for house in reversed(self.houses.values()):
            if not house.life.over:
                await house.close()
                house.life.over = True


def simulate(
    story: Callable[[Any], Coroutine[Any, Any, None]],
    config: NodeConfig = LOCAL,
    *,
    seed: int = 0,
    loop_factory: Callable[[], asyncio.AbstractEventLoop] = JumpingLoop,
    make: Callable[..., Town] = Town,
) -> None:
    """Run a story in simulated time, or on another loop; afterwards nothing is left running."""

    async def main() -> None:
        town = make(config, seed=seed)
        try:
            async with asyncio.timeout(STORY_S_MAX):
                await story(town)
        finally:
            await town.close()

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        runner.run(main())


def purchase(account: AccountId, **changes: Any) -> Purchase:
    bought = Purchase(
        account=account,
        path="/v1/chat/completions",
        request=REQUEST,
        model=MODEL.name,
        prompt_bytes=5,
        messages=1,
        max_output_tokens=16,
        preferences=Preferences(),
    )
    return replace(bought, **changes)


class Bought:
    """What came of a purchase."""

    def __init__(self) -> None:
        self.events: list[DeliveryEvent] = []
        self.refusal: Refusal | None = None

    @property
    def text(self) -> bytes:
        return b"".join(event.data for event in self.events if isinstance(event, ResponsePiece))

    def of(self, kind: type[T]) -> list[T]:
        return [event for event in self.events if isinstance(event, kind)]

    @property
    def delivered(self) -> Delivered:
        assert self.refusal is None, self.refusal
        (delivered,) = self.of(Delivered)
        return delivered


async def collect(events: AsyncIterator[DeliveryEvent]) -> Bought:
    """Everything until its end or refusal."""
    bought = Bought()
    try:
        async for event in events:
            bought.events.append(event)
    except Refusal as refusal:
        bought.refusal = refusal
    return bought


async def buy(house: House, buyer: KeyPair | None = None, **changes: Any) -> Bought:
    """Buy as the node itself, or as one of its accounts."""
    account = (buyer or house.key).account
    return await house.run(collect(house.answers.purchase(purchase(account, **changes))))


def bodies(house: House, kind: type[T]) -> list[T]:
    """What of a kind stands in a node's stored ledger."""
    leaves = [signing.open_entry(leaf) for leaf in house.ledger._leaves]
    read = [canonical.decode(bytes(leaf.entry.body), Body, bytes_max=canonical.ENTRY_BYTES_MAX) for leaf in leaves]
    return [body for body in read if isinstance(body, kind)]


def settlements(house: House) -> dict[EntryId, int]:
    """How many settlements of each award stand in a node's stored ledger."""
    return dict(Counter(settlement.award for settlement in bodies(house, Settlement)))
