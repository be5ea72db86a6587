"""One node: its replica, its halves for buying and selling, and the doors at which other nodes knock.

Here parts are put together and started in the right order; what each does is theirs.
"""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from typing import Final

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import KeyPair, VerifiedEntry
from wwwmarket.dispatch.output_length import OutputLengths
from wwwmarket.domain.book import AwardRow, ListedOffer, OfferRow, OpenAward, Row, TabRow
from wwwmarket.domain.errors import Conflict, Forbidden, NotFound, Refusal, Unavailable
from wwwmarket.domain.identity import AccountId, Digest, EntryId, NodeId
from wwwmarket.domain.records import Award, Genesis, Mark, NodeAddress, Settlement
from wwwmarket.ledger.note import VerifierKey
from wwwmarket.market import auction
from wwwmarket.node import messages
from wwwmarket.node.acknowledging import Acknowledging
from wwwmarket.node.author import Author, Included, Submission
from wwwmarket.node.award_records import Recent
from wwwmarket.node.budgets import Budgets
from wwwmarket.node.buying import Buying
from wwwmarket.node.delivery import Purse
from wwwmarket.node.disowning import Disowning
from wwwmarket.node.finality import Gathering
from wwwmarket.node.following import Following, serve_follower
from wwwmarket.node.keys import Keyring
from wwwmarket.node.lengths import Lengths
from wwwmarket.node.measures import Measures
from wwwmarket.node.moves import Moves
from wwwmarket.node.naming import Names
from wwwmarket.node.neighbours import Neighbours
from wwwmarket.node.relaying import Relaying
from wwwmarket.node.repair import Kept, repair, take
from wwwmarket.node.replica import Replica
from wwwmarket.node.reviewing import Reviewing
from wwwmarket.node.selling import Selling
from wwwmarket.node.sequencer import Sequencer
from wwwmarket.node.submission import RemoteSubmission, answer_submit
from wwwmarket.node.succeeding import Succeeding
from wwwmarket.node.tabs_bought import TabsBought
from wwwmarket.node.tabs_sold import TabsSold
from wwwmarket.node.turns import Turns, TurnsSubmission, address_of
from wwwmarket.node.watching import KeepEvidence, Watching
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.mirrors import Mirrors
from wwwmarket.ports.relay import RelayHost, Tunnels
from wwwmarket.ports.store import Change, LedgerStore, Orderer, RecordStore
from wwwmarket.ports.tokenizer import Tokenizers
from wwwmarket.ports.tracing import NO_TRACES, Tracer
from wwwmarket.ports.transport import Stream, Transport
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import Applied
from wwwmarket.rules.succession import Successions

_log = logging.getLogger("wwwmarket.node")

_REPLAY_ENTRIES: Final = 1_024
_CONTACTS_MAX: Final = 8
FINAL: Final = "final-checkpoint"
LATEST: Final = "latest"


@dataclass(frozen=True)
class World:
    """Everything a node stands on."""

    key: KeyPair
    transport: Transport
    records: RecordStore
    ledger: LedgerStore
    clock: Clock
    entropy: Entropy
    registry: Registry
    config: NodeConfig
    admin_token: Digest | None = None
    account_key: KeyPair | None = None
    """What signs for the node's account, where that is not ``key``: the account's key was rotated, or this node is a
    machine of somebody's."""
    mirrors: Mirrors | None = None
    """How an operator reaches its committee's mirrors; None: nothing becomes final."""
    keep_evidence: KeepEvidence | None = None
    """Where evidence of others' faults is written."""
    orderer: Orderer | None = None
    """What an operator shares with its other sequencers; None where it orders alone, in its own store."""
    tokenizers: Tokenizers = field(default_factory=dict)
    """By which answers are recounted, by model."""
    tracer: Tracer = NO_TRACES
    relay_host: RelayHost | None = None
    """How it relays for others; None: it does not."""
    tunnels: Tunnels | None = None
    """How others relay for it; None: it is called where it is, or not at all."""
    relayed_always: bool = False


@dataclass(frozen=True)
class Founding:
    """This node is the operator: it orders with ``key``, and begins an empty log with ``genesis``."""

    key: KeyPair
    genesis: Genesis
    seed_orderer: bool = False
    """Whether the shared orderer is to be given the log as this node has it."""


@dataclass(frozen=True)
class Joining:
    """This node follows a log: where its operator is, and whose signature its checkpoints bear."""

    operator: NodeAddress
    log: VerifierKey
    others: tuple[NodeAddress, ...] = ()
    """Further sequencers of the same log, where there are any."""
    successions: Successions = ()
    """How the log came to this operator, as it says."""

    @property
    def operators(self) -> tuple[NodeAddress, ...]:
        return (self.operator, *(other for other in self.others if other != self.operator))


class Node:
    def __init__(self, world: World, ledger: Founding | Joining) -> None:
        self.world: Final = world
        self.replica: Final = Replica(world.registry)
        self.succeeding: Final = Succeeding(
            self.replica, world.records, world.ledger, world.mirrors, timeout_ms=world.config.submit_timeout_ms
        )
        self.watching: Final = Watching(self.replica, world.ledger, world.keep_evidence)
        self.measures: Final = Measures()
        self.recent: Final = Recent()
        self.started_ms: Final = world.clock.now_ms()
        self.lengths: Final = Lengths(OutputLengths())
        self.keyring: Final = Keyring(world.key, self.account_key, world.records, world.clock, world.entropy)
        self.selling: Selling | None = None
        self.reviewing: Reviewing | None = None
        self.tabs_sold: TabsSold | None = None
        self.draining = False
        self._started = False
        self._ledger = ledger
        self._tasks: set[asyncio.Task[None]] = set()
        self._waiters: dict[EntryId, list[asyncio.Future[None]]] = {}
        self._news: asyncio.Queue[Sequence[Applied]] = asyncio.Queue()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.relaying: Relaying | None = None
        self.moved: Final = asyncio.Event()
        """Set when this node can be called elsewhere than before; whoever has told others the address clears it."""

    @property
    def id(self) -> NodeId:
        return NodeId(self.world.key.account)

    @property
    def account_key(self) -> KeyPair:
        """What signs for this node's account."""
        return self.world.account_key or self.world.key

    @property
    def account(self) -> AccountId:
        """The account for which this node acts, by what it has read of the ledger."""
        key = self.account_key.account
        return self.replica.state.account_of(key) or key

    def offers(self, listed: ListedOffer) -> bool:
        """Whether this node stands behind an offer: its account's, and to be asked about here. Further machines of the
        account have offers of their own.
        """
        return listed.provider == self.account and listed.offer.address.node == self.id

    @property
    def is_operator(self) -> bool:
        return isinstance(self._ledger, Founding)

    @property
    def log(self) -> VerifierKey:
        """The key whose signature this log's next checkpoint bears."""
        if self.replica.size:
            return self.replica.log
        if isinstance(self._ledger, Joining):
            return self._ledger.log
        return VerifierKey(name=self._ledger.genesis.origin, account=self._ledger.key.account)

    async def start(self) -> None:
        """Replay what is stored, take part in the log, open the doors.

        Raises:
            Conflict: the stored log is not what its checkpoint says, or contracts differ from the genesis's.
            Unavailable: a follower could not catch up in time.
            Refusal: the operator served what does not follow.
        """
        await self.keyring.load()
        own = frozenset([self.world.key.account, self.account_key.account])
        own |= {pair.account for pair in self.keyring.pairs()}
        await self.succeeding.give_up(own, Kept.of(await self.world.records.read(FINAL, LATEST)))
        await self._replay()
        await self._restore_final()
        await self.succeeding.hear(self._ledger.successions if isinstance(self._ledger, Joining) else ())
        self.turns: Turns | None = None
        self.sequencer, self.following, self.submission = self._take_part()
        self.author = Author(
            self.submission,
            self.world.records,
            self.replica.state.chain_head,
            self.replica.state.account_of,
            self.world.ledger.index_of,
            lambda index: self.replica.finality(index) == "pending",
        )
        self.author.add_key(self.world.key)
        self.author.add_key(self.account_key)
        moves = Moves(self.author, self.submission, self.world.records, self.world.ledger)
        self.budgets = Budgets(lambda: self.account, self.keyring, self.author, moves, self.replica, self.world.clock)
        self.neighbours = Neighbours(
            self.world.key, self.world.transport, self.world.clock, self.world.entropy, self._contacts()
        )
        self.acknowledging = Acknowledging(
            self.world.key,
            self.world.transport,
            self.world.clock,
            self._address_of,
            self._acknowledged,
            self.replica.state.account_of,
        )
        self.names = Names(self.world.records, self.world.ledger, self.replica, self.world.clock)
        self.disowning = Disowning(
            self.id,
            self.world.transport,
            self.world.records,
            self.world.clock,
            self._disowned,
            self.author.key,
        )
        self.tabs_bought = self._tabs_bought()
        self.buying = Buying(self._purse())
        self._started = True
        self.world.transport.serve(self._on_request, self._on_stream)
        self._run(self._react())
        self._run(self.acknowledging.run())
        if self.sequencer is not None:
            self._run(self.sequencer.run())
            await self._found(self.sequencer)
            self._gather(self.sequencer)
        else:
            assert self.following is not None
            self._run(self.following.run())
            self._run(self.succeeding.watch(self.world.clock, self.world.config.operator_lost_ms))
            await self._catch_up(self.following)
        await self.lengths.restore(self.world.records)
        for pair in self.keyring.pairs():
            self.author.add_key(pair)
        await self.author.resubmit()
        await self.tabs_bought.restore()
        await self.names.forget_old()
        self._run(self.disowning.run())
        self._run(self.neighbours.run())
        self._be_relayed()

    def _be_relayed(self) -> None:
        world = self.world
        if world.tunnels is None:
            return
        self.relaying = Relaying(
            world.transport,
            world.tunnels,
            world.clock,
            world.config.relay,
            known=self._known_nodes,
            moved=self._has_moved,
            always=world.relayed_always,
        )
        self._run(self.relaying.run())

    def _known_nodes(self) -> list[NodeAddress]:
        """Whoever is near and alive, nearest first, and then whoever is known at all."""
        known = self.neighbours.known
        addresses = [member.said.address for member in (*known.members, *known.reserves)]
        unique = {address.node: address for address in reversed([*addresses, *self._contacts()])}
        return [address for address in reversed(unique.values()) if address.node != self.id]

    def _has_moved(self) -> None:
        self.neighbours.serve(self.selling.models() if self.selling is not None else [])
        self.moved.set()

    def _gather(self, sequencer: Sequencer) -> None:
        """Ask the committee's mirrors for cosignatures, where there is a way to reach them."""
        world = self.world
        if world.mirrors is None:
            return
        gathering = Gathering(
            self.replica,
            sequencer,
            world.ledger,
            world.mirrors,
            world.clock,
            world.config.finality,
            self._keep_final,
        )
        self._run(gathering.run())

    async def _keep_final(self, note: bytes) -> None:
        """The latest final checkpoint, and each by which a committee left office."""
        changes = [Change(kind=FINAL, key=LATEST, body=note)]
        final, handovers = self.replica.final, self.replica.handovers
        if final is not None and handovers and handovers[-1] == final:
            changes.append(Change(kind=FINAL, key=str(final.checkpoint.size), body=note))
        await self.world.records.write(changes, patience_ms=self.world.config.record_patience_ms)
        if self._started:
            await self.author.became_final()

    async def _restore_final(self) -> None:
        kept = dict(await self.world.records.scan(FINAL))
        latest = kept.pop(LATEST, None)
        for note in [*(kept[size] for size in sorted(kept, key=int)), *filter(None, [latest])]:
            self.replica.restore_final(note)

    def _contacts(self) -> list[NodeAddress]:
        """Whom to join by: the operator, and after a restart those whose offers are on the ledger."""
        known = [listed.offer.address for listed in self.replica.state.offers().values()]
        first = self._ledger.operators if isinstance(self._ledger, Joining) else ()
        return [*first, *known][:_CONTACTS_MAX]

    async def sell(self, make: Callable[["Node"], Selling]) -> Selling:
        """Begin to sell: ``make`` builds the provider's half over this node."""
        selling = make(self)
        self.selling = self.buying.purse.selling = selling
        world = self.world
        self.reviewing = Reviewing(
            lambda: self.replica.state.rules.award,
            world.records,
            world.ledger,
            world.clock,
            world.config,
            self.measures.count,
        )
        await selling.restore()
        self.tabs_sold = self._tabs_sold(selling)
        await self.tabs_sold.restore()
        self._run(self.tabs_sold.run())
        await self.reviewing.restore()
        self._run(self.reviewing.run())
        await self._answer_disputes(
            selling, [AwardRow(id=name, value=opened) for name, opened in self.replica.state.awards().items()]
        )
        for offer, listed in self.replica.state.offers().items():
            if self.offers(listed):
                selling.listed(offer, listed.offer)
        self.neighbours.serve(selling.models())
        return selling

    async def wait_failed(self) -> None:
        """Returns only by raising: what broke this node."""
        await self._failed

    async def drain(self) -> None:
        """Take nothing new, and wait for what is in flight, as long as the configuration allows."""
        self.draining = True
        if self.selling is not None:
            self.selling.begin_drain()
        try:
            async with asyncio.timeout(self.world.config.drain_ms / 1_000):
                await self.buying.drain()
                await self.tabs_bought.leave()
                if self.tabs_sold is not None:
                    await self.tabs_sold.leave()
                if self.selling is not None:
                    await self.selling.drained()
                if self.tabs_sold is not None:
                    await self.tabs_sold.settled()
        except TimeoutError:
            _log.warning("left with work in flight after %d ms", self.world.config.drain_ms)
        await self.neighbours.leave()

    async def close(self) -> None:
        """Stop at once; what was promised is durable, and goes on at the next start."""
        await self.world.transport.close()
        if self._started:
            await self.buying.close()
            await self.neighbours.close()
        if self._started and isinstance(self.submission, RemoteSubmission):
            await self.submission.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if not self._failed.done():
            self._failed.cancel()

    async def wait_closed(self, award: EntryId, timeout_ms: int) -> bool:
        """Wait until the award is not open on this replica; whether that came in time."""
        if self.replica.state.award(award) is None:
            return True
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.setdefault(award, []).append(waiter)
        done, _ = await asyncio.wait((waiter,), timeout=timeout_ms / 1_000)
        return bool(done)

    def settle(self, account: AccountId, settlement: Settlement) -> None:
        """Submit a settlement and go on; the provider's claim is the remedy if it is refused."""
        self._spawn(self._settle(account, settlement))

    def _keep(self, changes: list[Change]) -> None:
        self._spawn(self._write(changes))

    async def _write(self, changes: list[Change]) -> None:
        try:
            await self.world.records.write(changes, patience_ms=self.world.config.record_patience_ms)
        except Refusal as refusal:
            _log.warning("an award's record was not kept: %s", refusal.message)

    async def _settle(self, account: AccountId, settlement: Settlement) -> None:
        try:
            await self.author.settle(account, settlement)
        except Refusal as refusal:
            _log.info("settlement of %s refused: %s", settlement.award, refusal.message)

    async def _replay(self) -> None:
        world = self.world
        kept = Kept.of(await world.ledger.checkpoint())
        while leaves := await world.ledger.read(self.replica.size, self.replica.size + _REPLAY_ENTRIES):
            for leaf in leaves:
                take(self.replica, leaf, kept)
        if world.orderer is not None:
            await self._fill(world.orderer, kept)
        promised = await world.ledger.promised() if isinstance(self._ledger, Founding) else 0
        if kept is not None:
            promised = max(promised, kept.size)
        if promised > self.replica.size:
            raise Conflict(
                f"the stored ledger ends at {self.replica.size} entries, and {promised} were promised: its end was "
                "lost. Restore the database from a copy that has them. A node that does not order can remove it "
                "instead, and follow the log anew; an operator that accepts the loss removes the file "
                "that ends in .promised",
                reason="lost_tail",
            )

    async def _fill(self, orderer: Orderer, kept: Kept | None) -> None:
        """What this copy lacks, or lost, from the orderer; and what that keeps no more, from another sequencer."""
        size, seeds = await orderer.size(), isinstance(self._ledger, Founding) and self._ledger.seed_orderer
        if size < self.replica.size and not seeds:
            raise Conflict(
                f"the orderer has {size} entries, and this node {self.replica.size}: restore what the orderer lost. If "
                "it is a new one, give it the log of the sequencer that has most of it, with --seed-orderer",
                reason="lost_tail",
            )
        try:
            await repair(self.replica, self.world.ledger, orderer, kept)
        except NotFound:
            known = [address_of(one) for one in await orderer.sequencers()]
            others = [address for address in known if address.node != self.id]
            if not others:
                raise
            following = self._follow(others)
            task = asyncio.ensure_future(following.run())
            task.add_done_callback(self._part_ended)
            try:
                await self._catch_up(following)
            finally:
                task.cancel()
                await asyncio.wait((task,))
            await repair(self.replica, self.world.ledger, orderer, kept)

    def _follow(self, operators: Sequence[NodeAddress]) -> Following:
        world = self.world
        return Following(
            operators,
            self.log,
            self.replica,
            world.ledger,
            world.transport,
            world.clock,
            world.config,
            self._news.put_nowait,
            self._keep_final,
            self.watching,
            self.succeeding.look,
        )

    def _take_part(self) -> tuple[Sequencer | None, Following | None, Submission]:
        world, part = self.world, self._ledger
        if isinstance(part, Joining):
            submission = RemoteSubmission(
                lambda: self.succeeding.operators(part.operators, part.log),
                world.transport,
                world.clock,
                world.config,
                lambda: self.log,
                self.watching.promised,
            )
            return None, self._follow(self.succeeding.operators(part.operators, part.log)), submission
        sequencer = Sequencer(
            part.key, self.replica, world.ledger, world.clock, world.config.ledger, self._news.put_nowait, world.orderer
        )
        sequencer.on_forked = self.watching.forked
        if world.orderer is None:
            return sequencer, None, sequencer
        address = world.transport.address()
        self.turns = Turns(
            sequencer,
            world.orderer,
            world.clock,
            address,
            begin=lambda: self._begin(part, sequencer),
            seed=world.ledger if part.seed_orderer else None,
        )
        return (
            sequencer,
            None,
            TurnsSubmission(sequencer, self.turns, world.transport, world.clock, world.config, lambda: self.log),
        )

    def _begin(self, part: Founding, sequencer: Sequencer) -> Included:
        """Order the first entry."""
        head = self.replica.state.chain_head(part.key.account)
        entry = signing.sign_entry(part.key, seq=head.next_seq, prev=head.prev, body=part.genesis)
        return sequencer.submit(signing.verified_own(entry))

    async def _found(self, sequencer: Sequencer) -> None:
        assert isinstance(self._ledger, Founding)
        if self.turns is not None:
            self._run(self.turns.run())
            await self._in_time(self.turns.ready, "the orderer could not be read to its end in time: does it run?")
        elif self.replica.size == 0:
            await self._begin(self._ledger, sequencer)
        else:
            await self.succeeding.begin(self._ledger.key, sequencer)
        if self.replica.state.operator != self._ledger.key.account:
            raise Forbidden("the stored ledger is operated by another key than this node's")
        if self.replica.state.origin != self._ledger.genesis.origin and self.turns is not None:
            raise Conflict(f"the log in this orderer is {self.replica.state.origin}: give it as this node's origin")

    async def _catch_up(self, following: Following) -> None:
        await self._in_time(
            following.caught_up,
            "the market's ledger could not be read in time: is its node running, and is the address right?",
        )

    async def _in_time(self, ready: asyncio.Event, message: str) -> None:
        """Raises Unavailable, or what broke this node while it waited."""
        waiting = asyncio.ensure_future(ready.wait())
        timeout_s = self.world.config.catch_up_ms / 1_000
        await asyncio.wait((waiting, self._failed), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        waiting.cancel()
        if self._failed.done():
            await self._failed
        if not ready.is_set():
            raise Unavailable(message, retry_after_ms=1_000)

    def _purse(self) -> Purse:
        world, state = self.world, self.replica.state
        return Purse(
            node=self.id,
            transport=world.transport,
            selling=None,
            ask_self=lambda request: self._ask(self.id, request),
            author=self.author,
            rule=lambda: state.rules.award,
            store=world.records,
            clock=world.clock,
            entropy=world.entropy,
            config=world.config,
            candidates=self._candidates,
            order=self.neighbours.order,
            let_down_by=self.neighbours.let_down_by,
            served_by=self.neighbours.served_by,
            is_newcomer=self.replica.is_newcomer,
            available_micro=lambda account: self.replica.state.account(account).available_micro,
            cost_micro=lambda *counted: state.rules.settlement.payment(*counted),  # noqa: PLW0108 - rules change
            settle=self.settle,
            submit=self.submission.submit,
            observe=self.measures.observe,
            count=self.measures.count,
            keep=self._keep,
            recent=self.recent,
            acknowledge=self.acknowledging.acknowledge,
            execute_self=self._execute,
            tabs=self.tabs_bought,
            disown=self.disowning.disown,
            names=self.names,
            lengths=self.lengths,
            tracer=world.tracer,
            tokenizers=world.tokenizers,
            account_of=state.account_of,
        )

    def _tabs_bought(self) -> TabsBought:
        world, state = self.world, self.replica.state
        return TabsBought(
            world.config.tabs,
            self.author,
            world.records,
            world.ledger,
            world.clock,
            state.tab,
            lambda: state.rules.settlement,
            state.account_of,
            lambda account: state.account(account).available_micro,
            self._put_to,
            self._spawn,
            submit_timeout_ms=world.config.submit_timeout_ms,
        )

    def _tabs_sold(self, selling: Selling) -> TabsSold:
        state = self.replica.state
        return TabsSold(
            selling,
            state.tab,
            lambda: state.rules.settlement,
            lambda: state.now_ms,
            lambda due: self.author.settle(self.account, due),
            self._spawn,
            lambda name, award: None if self.reviewing is None else self.reviewing.taken(name, award),
        )

    async def _put_to(self, address: NodeAddress, call: messages.TabCall) -> messages.Answer:
        """Ask a node about a tab, be it this one. Raises Refusal."""
        if address.node == self.id:
            return await self._answer(self.id, call)
        timeout_ms = self.world.config.submit_timeout_ms
        return messages.read_answer(
            await self.world.transport.request(address, canonical.encode(call), timeout_ms=timeout_ms)
        )

    async def _execute(self, stream: Stream, opening: messages.Execute | messages.ExecuteUnderTab) -> None:
        """Raises NotFound, and as ``Selling.execute`` and ``TabsSold.execute``."""
        if self.selling is None or self.tabs_sold is None:
            raise NotFound("this node sells nothing")
        self.measures.count("awards_received_total")
        if isinstance(opening, messages.Execute):
            await self.selling.execute(stream, opening)
        else:
            await self.tabs_sold.execute(stream, opening)

    def _candidates(self, model: str) -> list[auction.Candidate]:
        listed = self.replica.state.offers_for(model)
        return [auction.Candidate(offer=offer, listed=terms) for offer, terms in listed.items()]

    def read_award(self, entry: VerifiedEntry) -> Award:
        """The award in an entry. Raises Malformed."""
        return canonical.decode(bytes(entry.entry.body), Award, bytes_max=canonical.ENTRY_BYTES_MAX)

    async def _react(self) -> None:
        """What the ledger says, to whom it concerns, in the ledger's order."""
        while True:
            applied = await self._news.get()
            self.measures.count("ledger_entries_total", len(applied))
            rows = [row for one in applied for row in one.rows]
            for row in rows:
                if isinstance(row, OfferRow):
                    self._offer_changed(row)
            closed = [row.id for row in rows if isinstance(row, AwardRow) and row.value is None]
            self._wake(closed)
            tabs = [row for row in rows if isinstance(row, TabRow)]
            if tabs:
                await self.tabs_bought.seen(tabs)
            if (closed or tabs) and self.keyring.revoked():
                self._spawn(self._sweep())
            if self.reviewing is not None:
                self.reviewing.seen(applied)
            if self.selling is not None:
                await self.selling.closed(closed)
                if tabs and self.tabs_sold is not None:
                    await self.tabs_sold.seen(tabs)
                await self._answer_disputes(self.selling, rows)
                if any(isinstance(one.checked.body, Mark) for one in applied):
                    await self.selling.time_moved(self.replica.state.now_ms)

    async def _sweep(self) -> None:
        try:
            await self.budgets.sweep()
        except Refusal as refusal:
            _log.info("what revoked keys have left has not returned yet: %s", refusal.message)

    async def _answer_disputes(self, selling: Selling, rows: Sequence[Row]) -> None:
        for row in rows:
            if not isinstance(row, AwardRow) or row.value is None or row.value.disputed_ms is None:
                continue
            if self._serves(row.value):
                await selling.disputed(row.id, row.value.award)

    def _serves(self, opened: OpenAward) -> bool:
        """Whether an award is this node's to answer for: by its key's ask, or, for an ask by a key that is gone, as the
        account's owner. Further machines answer for their own.
        """
        state, signer, own = self.replica.state, opened.award.winner.signer, self.account_key.account
        if opened.provider != self.account:
            return False
        return signer == own or (state.account_of(signer) != opened.provider and state.owned_by(own) is not None)

    def _wake(self, closed: Sequence[EntryId]) -> None:
        for award in closed:
            for waiter in self._waiters.pop(award, ()):
                if not waiter.done():
                    waiter.set_result(None)

    def _offer_changed(self, row: OfferRow) -> None:
        if self.selling is None:
            return
        if row.value is None:
            self.selling.unlisted(row.id)
        elif self.offers(row.value):
            self.selling.listed(row.id, row.value.offer)
        self.neighbours.serve(self.selling.models())

    async def _on_request(self, peer: NodeId, message: bytes) -> bytes:
        try:
            request = messages.read_request(message)
            if isinstance(request, messages.Call):
                return canonical.encode(await self._answer(peer, request))
            return self.neighbours.hear(peer, request, len(message))
        except Refusal as refusal:
            _log.debug("refused %s: %s", peer, refusal.message)
            return canonical.encode(messages.refused(refusal))

    async def _answer(  # noqa: C901, PLR0911 - one case a message
        self, peer: NodeId, request: messages.Call
    ) -> messages.Answer:
        match request:
            case messages.AskRequest():
                answer = self._ask(peer, request)
                self.measures.count("bids_received_total")
                return answer
            case messages.Acknowledge():
                if self.reviewing is None:
                    raise NotFound("this node sells nothing")
                return self.reviewing.heard(peer, request)
            case messages.Submit():
                if self.sequencer is None:
                    raise NotFound("this node does not order the ledger")
                return await answer_submit(self.sequencer, request)
            case messages.Tokenize():
                if self.selling is None:
                    raise NotFound("this node sells nothing")
                return await self.selling.tokenize(request)
            case messages.ReserveRelay():
                if self.world.relay_host is None:
                    raise NotFound("this node does not relay")
                return messages.RelayReserved(reservation=await self.world.relay_host.reserve(peer, request.direct))
            case messages.ReceiptGiven():
                return await self._disowned(request)
            case messages.TabOffered() | messages.Vouch() | messages.Recall() | messages.EndTab():
                return await self._about_tab(request)

    async def _about_tab(self, request: messages.TabCall) -> messages.TabAnswer:
        if self.tabs_sold is None:
            raise NotFound("this node sells nothing")
        match request:
            case messages.TabOffered():
                return self.tabs_sold.offered(request)
            case messages.Vouch():
                return await self.tabs_sold.vouched(request)
            case messages.Recall():
                return await self.tabs_sold.recalled(request)
            case messages.EndTab():
                return await self.tabs_sold.ended(request)

    async def _disowned(self, given: messages.ReceiptGiven) -> messages.Acknowledged:
        """Raises NotFound, and as ``Selling.disowned``."""
        if self.selling is None:
            raise NotFound("this node sells nothing")
        return await self.selling.disowned(given)

    def _ask(self, peer: NodeId, request: messages.AskRequest) -> messages.Answer:
        """Raises NotFound."""
        if self.selling is None or self.reviewing is None:
            raise NotFound("this node sells nothing")
        answer = self.selling.answer(request)
        self.reviewing.asked(peer, request, answer, self.selling.desk.seller.offered(request.offer))
        return answer

    def _address_of(self, offer: EntryId) -> NodeAddress | None:
        listed = self.replica.state.offer(offer)
        return None if listed is None else listed.offer.address

    def _acknowledged(self, message: messages.Acknowledge) -> None:
        """Of this node's own asks, in its own auctions."""
        if self.reviewing is not None:
            self.reviewing.heard(self.id, message)

    async def _on_stream(self, stream: Stream, opening: bytes) -> None:
        try:
            match messages.read_opening(opening):
                case (messages.Execute() | messages.ExecuteUnderTab()) as execute:
                    await self._execute(stream, execute)
                case messages.Follow() as follow:
                    if self.sequencer is None:
                        raise NotFound("this node does not order the ledger")
                    interval_ms = self.world.config.ledger.follow_interval_ms
                    await serve_follower(
                        self.sequencer, self.replica, stream, follow.start, self.world.clock, interval_ms=interval_ms
                    )
        except (Refusal, TimeoutError) as refusal:
            _log.info("ended a stream of %s: %s", stream.peer, refusal)
            await stream.abort()

    def _spawn(self, doing: Coroutine[None, None, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _run(self, doing: Coroutine[None, None, None]) -> None:
        """A part that must not end: when it breaks, the node is broken."""
        self._spawn(doing).add_done_callback(self._part_ended)

    def _part_ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or self._failed.done():
            return
        error = task.exception() or RuntimeError("a part of the node ended")
        while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        self._failed.set_exception(error)

    def run_beside(self, doing: Coroutine[None, None, None]) -> None:
        """Run a further part of this node until it closes."""
        self._run(doing)
