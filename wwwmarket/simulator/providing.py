"""A provider of the simulated market: the product's seller, executor and claims on an engine twin.

What it knows of its engine is what a live one knows: its own work in hand, tokens out so far, and a step-time model
that is a little wrong. Real signatures throughout; a record that was verified once in this process is not verified
again (``Notary``), which cannot change any answer.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry, verify
from wwwmarket.dispatch.burden import burden
from wwwmarket.dispatch.occupancy import Occupancy
from wwwmarket.dispatch.prediction import Load, TableLatency, Work
from wwwmarket.dispatch.remaining_length import RemainingLengths
from wwwmarket.domain.errors import Refusal, TooLarge
from wwwmarket.domain.identity import EntryId, NodeId, SealingKey
from wwwmarket.domain.model import EngineFingerprint, Model
from wwwmarket.domain.quantity import Prices, Slo, Usage
from wwwmarket.domain.records import Award, Bid, Capacity, Inclusion, NodeAddress, Offer, Promise, Settlement, Signed
from wwwmarket.domain.shape import Record
from wwwmarket.market import execution, offer, policy, settlement
from wwwmarket.simulator.books import ORIGIN, Books
from wwwmarket.simulator.engines import Seen
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
CALIBRATING_TOKENS: Final = 16
SMOOTHING: Final = 0.1
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


class Knowledge:
    """What a provider knows of its engine: implements ``market.offer.Forecaster``.

    Its step-time model starts a little wrong and is corrected as a live node corrects its own, by what was observed:
    the ratio of a finished request's time to what the model says of the same batch, smoothed over about twenty.
    """

    def __init__(self, world: World, node: NodeTwin) -> None:
        setup = world.setup
        self._loop = world.loop
        self._node = node
        self._model = node.believed
        self._speed = 1.0
        self._promise = PROMISES.get(node.character, 1.0)
        self._lengths = RemainingLengths()
        self._prior, self._longest = setup.output_tokens_prior, setup.output_tokens_max
        self._jobs: dict[int, _Job] = {}
        self._occupancy = Occupancy()

    def forecast(self, *, input_tokens: int, output_tokens: int, held: int) -> offer.Forecast | None:
        work = tuple(
            Work(
                input_tokens_left=seen.input_left,
                output_tokens_left=self._left(seen, output_tokens),
                context_tokens=seen.context,
                time_value_micro_per_s=self._value(seen),
            )
            for seen in self._node.engine.snapshot()
        )
        hold = Work(input_tokens_left=input_tokens, output_tokens_left=output_tokens)
        holds, usual = (hold,) * held, self._occupancy.sequences
        load = Load(running=0, waiting=len(work), work=work, holds=holds, usual=usual)
        table = TableLatency(model=self._model, limits=self._node.engine.limits)
        try:
            predicted = table.predict(load, input_tokens=input_tokens, output_tokens=output_tokens)
        except TooLarge:
            return None
        factor = self._promise * self._speed
        slower = burden(self._model, table.limits, load, input_tokens=input_tokens, output_tokens=output_tokens)
        return offer.Forecast(
            ttft_ms=round(predicted.ttft_ms * factor),
            finish_ms=round(predicted.finish_ms * factor),
            burden_micro=round(slower * self._speed),
        )

    def _value(self, seen: Seen) -> int:
        job = self._jobs.get(seen.key)
        return 0 if job is None else job.time_value_micro_per_s

    def _left(self, seen: Seen, otherwise: int) -> int:
        job = self._jobs.get(seen.key)
        expected = otherwise if job is None else job.expected
        return self._lengths.left(seen.produced, expected=expected, prior=self._prior, longest=self._longest)

    def started(self, key: int, expected: int, time_value_micro_per_s: int) -> None:
        self._jobs[key] = _Job(expected, time_value_micro_per_s)
        self._occupancy.arrived(len(self._jobs))

    def said(self, key: int) -> None:
        """The first token is out."""
        job = self._jobs[key]
        job.first_us = self._loop.now_us
        job.batch, job.context = self._batch()

    def ended(self, key: int, output_tokens: int | None) -> None:
        """It is over; ``output_tokens`` where it ran to its end, so that it can be learnt from."""
        job = self._jobs.pop(key, None)
        if job is None or output_tokens is None:
            return
        self._lengths.observe(output_tokens)
        if job.first_us is None or output_tokens < CALIBRATING_TOKENS:
            return
        batch, context = self._batch()
        step_ms = (self._loop.now_us - job.first_us) / 1_000 / (output_tokens - 1)
        said_ms = self._model.step_ms((batch + 1 + job.batch) // 2, (context + job.context) // 2)
        self._speed += SMOOTHING * (step_ms / said_ms - self._speed)

    def _batch(self) -> tuple[int, int]:
        running = [seen.context for seen in self._node.engine.snapshot() if seen.produced]
        return max(1, len(running)), sum(running)


@dataclass(slots=True)
class _Job:
    expected: int
    time_value_micro_per_s: int
    first_us: int | None = None
    batch: int = 1
    context: int = 0


class Execution:
    """One award at its provider: the executor and who listens to it."""

    def __init__(
        self, award: EntryId, machine: execution.Executor, listener: Callable[[execution.Effect], None]
    ) -> None:
        self.award = award
        self.machine = machine
        self.listener = listener
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
        self._knows = Knowledge(world, node)
        floor_ppm = GREEDY_PPM if node.character == "greedy" else COST_PPM
        self.seller = offer.Seller(
            key,
            self._knows,
            policy.Policy(floor_ppm=floor_ppm),
            hold_ms=HOLD_MS,
            asked_per_bid=setup.asked + setup.asked_more + 1,
        )
        self.claims = settlement.Claims(client_first_ms=2_000, retry_ms=5_000)
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
        """Take an award and run it. Raises a Refusal where it is not to be executed here and now."""
        now_ms = self._world.loop.now_ms
        execution.check_award(award, entry.entry.account, self.key.account, now_ms)
        if not self.seller.has_room(self.terms):
            raise Refusal("all sequences on offer are busy")
        ledger = execution.Ledger(origin=ORIGIN, operator=self._books.key.account)
        machine = execution.Executor(self.key, entry.id, award, self._fingerprint, ledger, started_ms=now_ms)
        running = Execution(entry.id, machine, listener)
        self.executions[entry.id] = running
        self.seller.step(offer.ExecutionStarted(bid=digest(award.bid)))
        ordered = execution.Ordered(at_ms=now_ms, path="/v1/chat/completions", salt=SALT, request=REQUEST)
        self._perform(running, award, machine.step(ordered), output_tokens)

    def promised(self, award: EntryId, inclusion: Verified[Inclusion], terms: Award) -> None:
        running = self.executions.get(award)
        if running is not None:
            event = execution.Promised(at_ms=self._world.loop.now_ms, inclusion=inclusion)
            self._perform(running, terms, running.machine.step(event), 0)

    def cancel(self, award: EntryId, terms: Award) -> None:
        running = self.executions.get(award)
        if running is not None:
            event = execution.CancelAsked(at_ms=self._world.loop.now_ms)
            self._perform(running, terms, running.machine.step(event), 0)

    def _perform(self, running: Execution, award: Award, effects: list[execution.Effect], output_tokens: int) -> None:
        for effect in effects:
            match effect:
                case execution.RunEngine():
                    self._run(running, award, output_tokens)
                case execution.AbortEngine():
                    if running.engine_key is not None:
                        self._node.engine.abort(running.engine_key)
                case execution.Attest():
                    self._attested(running, award, effect)
                    running.listener(effect)
                case execution.KeepAward():
                    pass
                case _:
                    running.listener(effect)

    def _run(self, running: Execution, award: Award, output_tokens: int) -> None:
        machine, loop = running.machine, self._world.loop

        def first() -> None:
            if running.engine_key is not None:
                self._knows.said(running.engine_key)
            started = execution.EngineStarted(at_ms=loop.now_ms, content_type="text/event-stream")
            said = execution.EngineSaid(at_ms=loop.now_ms, data=b".", tokens=True)
            self._perform(running, award, [*machine.step(started), *machine.step(said)], 0)

        def finish() -> None:
            effects: list[execution.Effect] = []
            if output_tokens > 1:
                rest = b"." * (output_tokens - 1)
                effects += machine.step(execution.EngineSaid(at_ms=loop.now_ms, data=rest, tokens=True))
            usage = Usage(input_tokens=award.bid.input_tokens, cached_input_tokens=0, output_tokens=output_tokens)
            effects += machine.step(execution.EngineFinished(at_ms=loop.now_ms, usage=usage))
            self._free(running, output_tokens)
            self._perform(running, award, effects, 0)

        key = self._node.engine.submit(award.bid.input_tokens, output_tokens, first, finish)
        running.engine_key = key
        self._knows.started(key, award.bid.expected_output_tokens, award.bid.time_value_micro_per_s)

    def _free(self, running: Execution, output_tokens: int | None = None) -> None:
        if not running.ended:
            running.ended = True
            self.seller.step(offer.ExecutionEnded())
            if running.engine_key is not None:
                self._knows.ended(running.engine_key, output_tokens)

    def _attested(self, running: Execution, award: Award, attest: execution.Attest) -> None:
        self._free(running)
        self.executions.pop(running.award, None)
        claim = settlement.Claim(
            award=running.award,
            claim_after_ms=award.claim_after_ms,
            expires_ms=award.expires_ms,
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
            self._free(running)
        self.executions.clear()
        return lost
