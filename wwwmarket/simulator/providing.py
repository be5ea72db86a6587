"""A provider of the simulated market: the product's seller, executor and claims on an engine twin.

What it knows of its engine is what a live one knows, kept by the same code (``dispatch.knowledge``). Real signatures
throughout; a record that was verified once in this process is not verified again (``Notary``), which cannot change any
answer.
"""

from collections.abc import Callable
from typing import Any, Final, TypeVar

from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry, verify
from wwwmarket.dispatch import knowledge
from wwwmarket.dispatch.knowledge import Knowledge
from wwwmarket.dispatch.prediction import CalibratedLatency
from wwwmarket.domain.errors import Exhausted, Refusal
from wwwmarket.domain.identity import EntryId, NodeId, SealingKey
from wwwmarket.domain.model import EngineFingerprint, Model
from wwwmarket.domain.quantity import Prices, Slo, Usage
from wwwmarket.domain.records import Award, Bid, Capacity, Inclusion, NodeAddress, Offer, Promise, Settlement, Signed
from wwwmarket.domain.shape import Record
from wwwmarket.market import execution, offer, policy, settlement
from wwwmarket.market.admission import Admission
from wwwmarket.market.advance import Advances
from wwwmarket.simulator.books import ORIGIN, Books
from wwwmarket.simulator.events import EPOCH_MS
from wwwmarket.simulator.world import NodeTwin, World

R = TypeVar("R", bound=Record)

HOLD_MS: Final = 400
"""About what passes between an ask and its award over wide-area links. Held longer, and by every one of up to twelve
who are asked, places that nobody will take make everybody look busy.
"""
QUEUE_FACTOR: Final = 2
"""Sequences offered for each slot: a short queue keeps the slots full."""
LIST_PRICE: Final = Prices(
    input_micro_per_mtok=100_000, cached_input_micro_per_mtok=100_000, output_micro_per_mtok=400_000
)
COST_PPM: Final = 500_000
"""A truthful provider asks this share of its list price when idle: its cost."""
GREEDY_PPM: Final = 800_000
PROMISES: Final = {"over-promising": 0.5, "under-promising": 2.0}
REQUEST: Final = b"{}"
SALT: Final = b"\x00" * 32


class Notary:
    """Verifies each signature once."""

    def __init__(self) -> None:
        self._known: dict[str, Verified[Any]] = {}

    def verify(self, signed: Signed[R]) -> Verified[R]:
        known: Verified[R] | None = self._known.get(signed.signature)
        if known is not None and known.signed == signed:
            return known
        if len(self._known) > 50_000:
            self._known.clear()
        known = verify(signed)
        self._known[signed.signature] = known
        return known


class Forecasting:
    """What a provider knows of its engine (``dispatch.knowledge``), told by an engine twin. Implements
    ``market.offer.Forecaster``.

    A twin does not say every token when it comes, so they are counted when somebody asks: as many as have come out by
    then. Its model is its table's row, a little wrong, and corrected as live nodes correct theirs.
    """

    def __init__(self, world: World, node: NodeTwin) -> None:
        self._loop = world.loop
        self._engine = node.engine
        self._promise = PROMISES.get(node.character, 1.0)
        self._knowledge: Knowledge[int] = Knowledge(CalibratedLatency(table=node.believed, limits=node.engine.limits))
        self._produced: dict[int, int] = {}

    def forecast(self, *, input_tokens: int, output_tokens: int, held: int) -> offer.Forecast | None:
        self._count()
        seen = self._knowledge.forecast(input_tokens=input_tokens, output_tokens=output_tokens, held=held)
        if seen is None:
            return None
        return offer.Forecast(
            ttft_ms=round(seen.ttft_ms * self._promise),
            finish_ms=round(seen.finish_ms * self._promise),
            burden_micro=seen.burden_micro,
        )

    def next_end_ms(self) -> int | None:
        self._count()
        return self._knowledge.next_end_ms()

    def started(self, key: int, bid: Bid) -> None:
        request = knowledge.Request(
            input_tokens=bid.input_tokens,
            output_tokens=bid.expected_output_tokens,
            output_tokens_max=bid.max_output_tokens,
            time_value_micro_per_s=bid.time_value_micro_per_s,
        )
        self._produced[key] = 0
        self._knowledge.started(key, request, self._now_ms)

    def first(self, key: int) -> None:
        """The first token is out."""
        self._count()
        self._hear(key, 1)

    def ended(self, key: int, output_tokens: int | None) -> None:
        """It is over; ``output_tokens`` where it ran to its end, so that it can be learnt from."""
        self._count()
        self._hear(key, output_tokens or 0)
        self._produced.pop(key, None)
        self._knowledge.ended(key, output_tokens, self._now_ms)

    @property
    def _now_ms(self) -> float:
        return self._loop.now_us / 1_000

    def _count(self) -> None:
        for seen in self._engine.snapshot():
            self._hear(seen.key, seen.produced)

    def _hear(self, key: int, produced: int) -> None:
        more = produced - self._produced.get(key, produced)
        if more > 0:
            self._produced[key] = produced
            self._knowledge.said(key, more, self._now_ms)


class Execution:
    """One award at its provider: the executor, once it has begun, and who listens to it."""

    def __init__(
        self, award: EntryId, terms: Award, output_tokens: int, listener: Callable[[execution.Effect], None]
    ) -> None:
        self.award = award
        self.terms = terms
        self.output_tokens = output_tokens
        self.listener = listener
        self.machine: execution.Executor | None = None
        self.engine_key: int | None = None
        self.ended = False


class Provider:
    def __init__(self, world: World, books: Books, node: NodeTwin, key: KeyPair) -> None:
        self._world = world
        self._books = books
        self._node = node
        self.key = key
        self._chain = books.chain(key)
        setup = world.setup
        self._knows = Forecasting(world, node)
        floor_ppm = GREEDY_PPM if node.character == "greedy" else COST_PPM
        self.seller = offer.Seller(
            key,
            self._knows,
            policy.Policy(floor_ppm=floor_ppm),
            Admission(),
            hold_ms=HOLD_MS,
            asked_per_bid=setup.asked + setup.asked_more + 1,
        )
        self.claims = settlement.Claims(client_first_ms=2_000, retry_ms=5_000)
        self.advances = Advances()
        self.executions: dict[EntryId, Execution] = {}
        self._fingerprint = EngineFingerprint(
            engine="simulated", engine_version="1", model_revision="1", precision="bf16", gpu_class=node.spec.gpu
        )
        self.terms = self._offer()
        entry = self._chain.sign(self.terms)
        books.list(entry)
        self.offer = entry.id
        self.seller.step(offer.OfferListed(offer=entry.id, terms=self.terms))

    def _offer(self) -> Offer:
        spec, limits = self._node.spec, self._node.engine.limits
        return Offer(
            model=Model(name=spec.serves, revision="1", precision="bf16", context_tokens=limits.kv_tokens_max),
            prices=LIST_PRICE,
            capacity=Capacity(sequences=QUEUE_FACTOR * limits.sequences_max, tokens_per_s=1_000),
            promise=Promise(slo=Slo(ttft_ms=60_000, tpot_ms=1_000), percentile_ppm=990_000),
            accept_ppm=1_000_000,
            bond_micro=1_000,
            valid_from_ms=EPOCH_MS,
            valid_until_ms=EPOCH_MS + 24 * 3_600_000,
            address=NodeAddress(node=NodeId(self.key.account)),
            sealing_key=SealingKey(self.key.account),
        )

    def answer(self, bid: Verified[Bid]) -> offer.Effect:
        received = offer.BidReceived(at_ms=self._world.loop.now_ms, bid=bid, offer=self.offer, chance_ppm=0)
        (effect,) = self.seller.step(received)
        assert isinstance(effect, offer.AskSent | offer.BidDeclined), "a bid is answered or declined"
        return effect

    def execute(
        self, entry: VerifiedEntry, award: Award, output_tokens: int, listener: Callable[[execution.Effect], None]
    ) -> None:
        """Take an award: begin in advance of the ledger's promise where its client may have that, else wait for it.

        Raises a Refusal where it is not this provider's to answer. Of ledger entries it knows only what it is told, so
        that it waits a little longer than a live one, which follows the ledger itself.
        """
        now_ms, client, sequences = self._world.loop.now_ms, award.bid.client, self.terms.capacity.sequences
        execution.check_award(award, entry.entry.account, self.key.account, now_ms)
        running = Execution(entry.id, award, output_tokens, listener)
        self.executions[entry.id] = running
        try:
            self._take()
            if self.advances.may_begin(
                client,
                award.locked_micro,
                available_micro=self._books.state.account(client).available_micro,
                sequences=sequences,
                now_ms=now_ms,
            ):
                self.advances.begun(entry.id, client, award.locked_micro)
                self._begin(running)
            else:
                self.advances.wait(entry.id, sequences=sequences)
        except Exhausted as refusal:
            self._turn_away(running, refusal)

    def _take(self) -> None:
        if not self.seller.has_room(self.terms):
            raise Exhausted("all sequences on offer are busy", retry_after_ms=HOLD_MS)

    def _begin(self, running: Execution) -> None:
        now_ms = self._world.loop.now_ms
        ledger = execution.Ledger(origin=ORIGIN, operator=self._books.key.account)
        running.machine = execution.Executor(
            self.key, running.award, running.terms, self._fingerprint, ledger, started_ms=now_ms
        )
        self.seller.step(offer.ExecutionStarted(bid=digest(running.terms.bid)))
        self._step(running, execution.Ordered(at_ms=now_ms, path="/v1/chat/completions", salt=SALT, request=REQUEST))

    def _turn_away(self, running: Execution, refusal: Refusal) -> None:
        """Attest at once that nothing was done, so that the client's credits are free again."""
        now_ms = self._world.loop.now_ms
        attested = execution.lost(self.key, running.award, running.terms, self._fingerprint, now_ms)
        self._perform(running, [execution.Attest(attestation=attested, reason=refusal.message)])

    def promised(self, award: EntryId, inclusion: Verified[Inclusion]) -> None:
        running = self.executions.get(award)
        if running is None:
            return
        if self.advances.is_waiting(award):
            self.advances.leave(award)
            try:
                self._take()
            except Exhausted as refusal:
                self._turn_away(running, refusal)
                return
            self._begin(running)
        self.advances.promised(award)
        self._step(running, execution.Promised(at_ms=self._world.loop.now_ms, inclusion=inclusion))

    def cancel(self, award: EntryId) -> None:
        running = self.executions.get(award)
        if running is None:
            return
        if running.machine is None:
            self.advances.leave(award)
            del self.executions[award]
        else:
            self._step(running, execution.CancelAsked(at_ms=self._world.loop.now_ms))

    def _step(self, running: Execution, event: execution.Event) -> None:
        if running.machine is not None:
            self._perform(running, running.machine.step(event))

    def _perform(self, running: Execution, effects: list[execution.Effect]) -> None:
        for effect in effects:
            match effect:
                case execution.RunEngine():
                    self._run(running)
                case execution.AbortEngine():
                    if running.engine_key is not None:
                        self._node.engine.abort(running.engine_key)
                case execution.Attest():
                    self._attested(running, effect)
                    running.listener(effect)
                case execution.KeepAward():
                    pass
                case _:
                    running.listener(effect)

    def _run(self, running: Execution) -> None:
        loop, bid, output_tokens = self._world.loop, running.terms.bid, running.output_tokens

        def first() -> None:
            if running.engine_key is not None:
                self._knows.first(running.engine_key)
            self._step(running, execution.EngineStarted(at_ms=loop.now_ms, content_type="text/event-stream"))
            self._step(running, execution.EngineSaid(at_ms=loop.now_ms, data=b".", tokens=True))

        def finish() -> None:
            if running.engine_key is not None:
                self._knows.ended(running.engine_key, output_tokens)
            if output_tokens > 1:
                rest = b"." * (output_tokens - 1)
                self._step(running, execution.EngineSaid(at_ms=loop.now_ms, data=rest, tokens=True))
            usage = Usage(input_tokens=bid.input_tokens, cached_input_tokens=0, output_tokens=output_tokens)
            self._step(running, execution.EngineFinished(at_ms=loop.now_ms, usage=usage))

        key = self._node.engine.submit(bid.input_tokens, output_tokens, first, finish)
        running.engine_key = key
        self._knows.started(key, bid)

    def _free(self, running: Execution) -> None:
        """Its place is another's: as at a live provider, once it is attested and not when the engine has ended."""
        if running.machine is None or running.ended:
            return
        running.ended = True
        self.seller.step(offer.ExecutionEnded())
        on_ledger = self._books.state.award(running.award) is not None
        self.advances.ended(running.award, on_ledger=on_ledger, now_ms=self._world.loop.now_ms)
        if running.engine_key is not None:
            self._knows.ended(running.engine_key, None)

    def _attested(self, running: Execution, attest: execution.Attest) -> None:
        self._free(running)
        self.executions.pop(running.award, None)
        claim = settlement.Claim(
            award=running.award,
            claim_after_ms=running.terms.claim_after_ms,
            expires_ms=running.terms.expires_ms,
            attestation=attest.attestation,
            receipt=None,
        )
        self.claims.step(settlement.ClaimMade(claim=claim))

    def closed(self, award: EntryId) -> None:
        self.claims.step(settlement.AwardClosed(award=award))

    def ledger_time(self, now_ms: int, open_awards: frozenset[EntryId]) -> None:
        for effect in self.claims.step(settlement.LedgerTimeMoved(now_ms=now_ms, open_awards=open_awards)):
            if isinstance(effect, settlement.SubmitSettlement):
                self._settle(effect.settlement)

    def _settle(self, body: Settlement) -> None:
        self._books.submit(self._node.index, self._chain.sign(body), lambda _answer: None)

    def crash(self) -> list[Execution]:
        """Everything in hand is lost; who waited for it."""
        lost = list(self.executions.values())
        for running in lost:
            self.advances.leave(running.award)
            self._free(running)
        self.executions.clear()
        return lost
