"""The provider's half of a node: answers bids, runs awards on its engine, claims what it earned.

Performs the effects of ``market.offer``, ``market.execution`` and ``market.settlement``: a award is durable before its
first byte leaves, an attestation is durable before it is sent.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Final

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.sealing import Channel, SealingPair
from wwwmarket.crypto.signing import KeyPair, VerifiedEntry
from wwwmarket.domain.book import OpenAward
from wwwmarket.domain.errors import (
    Conflict,
    Exhausted,
    InsufficientCredit,
    Malformed,
    Refusal,
    Stale,
    TooLarge,
    Unavailable,
)
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.model import EngineFingerprint
from wwwmarket.domain.quantity import Count, MicroCredits, Millis
from wwwmarket.domain.records import Attestation, Award, Inclusion, Offer, Settlement, Signed
from wwwmarket.domain.shape import Value
from wwwmarket.market import execution, offer, settlement
from wwwmarket.node import messages
from wwwmarket.node.forecasting import Forecasting
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.engine import Engine, EngineRefused, Path, ResponseFinished, ResponsePiece, ResponseStarted
from wwwmarket.ports.store import Change, RecordStore
from wwwmarket.ports.transport import Stream

_log = logging.getLogger("wwwmarket.selling")

RUNNING: Final = "execution"
CLAIM: Final = "claim"

START, TOKENS, PIECE, ATTESTED = b"s", b"t", b"p", b"a"
"""First byte of each unsealed frame from provider to gateway."""

_EVENTS_MAX: Final = 256
_ENGINE_BODY_BYTES_MAX: Final = 32_768
"""Of an engine's refusal: escaped in JSON it still fits into a message."""
_RECEIPT_WAIT_MS: Final = 5_000


class RunningAward(Value):
    """What is kept of an award from before its first byte leaves until it is attested."""

    id: EntryId
    award: Award


@dataclass
class Desk:
    """What selling needs of its node."""

    key: KeyPair
    sealing: SealingPair
    engine: Engine
    fingerprint: EngineFingerprint
    forecasting: Forecasting
    ledger: execution.Ledger
    seller: offer.Seller
    claims: settlement.Claims
    store: RecordStore
    clock: Clock
    entropy: Entropy
    config: NodeConfig
    read_award: Callable[[VerifiedEntry], Award]
    submit: Callable[[Settlement], Awaitable[None]]
    open_award: Callable[[EntryId], OpenAward | None]
    available_micro: Callable[[AccountId], MicroCredits]
    next_seq: Callable[[AccountId], Count]
    submitting: set[asyncio.Task[None]] = field(default_factory=set)


class Selling:
    def __init__(self, desk: Desk) -> None:
        self.desk = self._desk = desk
        self._taken: dict[EntryId, Millis] = {}
        self._changed = asyncio.Event()

    async def restore(self) -> None:
        """After a restart: claims go on, and executions that the crash cut off are attested as failed."""
        desk = self._desk
        for _, body in await desk.store.scan(CLAIM):
            claim = canonical.decode(body, settlement.Claim)
            desk.claims.step(settlement.ClaimMade(claim=claim))
            self._taken[claim.award] = claim.expires_ms
        for _, body in await desk.store.scan(RUNNING):
            running = canonical.decode(body, RunningAward)
            self._taken[running.id] = running.award.expires_ms
            attested = execution.lost(desk.key, running.id, running.award, desk.fingerprint, desk.clock.now_ms())
            await self._claim(running.id, running.award, attested)

    def listed(self, name: EntryId, terms: Offer) -> None:
        """One of our offers stands on the ledger."""
        self._desk.seller.step(offer.OfferListed(offer=name, terms=terms))

    def unlisted(self, name: EntryId) -> None:
        self._desk.seller.step(offer.OfferUnlisted(offer=name))

    def models(self) -> list[str]:
        """What is on offer here, by name."""
        return sorted({terms.model.name for terms in self._desk.seller.offers.values()})

    @property
    def in_flight(self) -> int:
        return self._desk.seller.in_flight

    def begin_drain(self) -> None:
        """Ask for nothing more; what is in flight goes on."""
        self._desk.seller.step(offer.DrainBegun())

    async def drained(self) -> None:
        """Wait until nothing is in flight and all that was earned is settled."""
        while self._desk.seller.in_flight or self._desk.submitting or self._desk.claims.open:
            self._changed.clear()
            await self._changed.wait()

    def answer(self, request: messages.AskRequest) -> messages.Answer:
        """A bid's answer: an ask, or a decline with its reason."""
        try:
            bid = signing.verify(request.bid)
        except Refusal as refusal:
            return messages.refused(refusal)
        effects = self._desk.seller.step(
            offer.BidReceived(
                at_ms=self._desk.clock.now_ms(),
                bid=bid,
                offer=request.offer,
                chance_ppm=self._desk.entropy.below(1_000_000),
                own_running=self._desk.forecasting.others_running,
                own_waiting=self._desk.forecasting.others_waiting,
            )
        )
        (effect,) = effects
        match effect:
            case offer.AskSent():
                return messages.AskAnswer(ask=effect.ask.signed)
            case offer.BidDeclined():
                return messages.Decline(reason=effect.reason, retry_after_ms=effect.retry_after_ms)

    async def execute(self, stream: Stream, opening: messages.Execute) -> None:
        """Serve one award over ``stream``, from its sealed order to its attestation and receipt."""
        desk = self._desk
        entry = signing.open_entry(opening.leaf.encode())
        award = desk.read_award(entry)
        channel = desk.sealing.channel(opening.gateway_key, "provider")
        self._recognise(entry, award, opening.promise)
        self._taken[entry.id] = award.expires_ms
        try:
            self._take(award)
        except Refusal as refusal:
            await self._turn_away(stream, channel, entry.id, award, refusal)
        else:
            try:
                await _Serving(self, stream, channel, opening, entry.id, award).run()
            finally:
                self._changed.set()

    def _recognise(self, entry: VerifiedEntry, award: Award, promise: Signed[Inclusion] | None) -> None:
        """Whether this is ours to answer at all. Nothing is signed or kept for a stranger without an ask and funds.

        Once for each award: two attestations of one award would let its client choose the one that pays less.
        """
        desk, now_ms = self._desk, self._desk.clock.now_ms()
        for old in [name for name, expires_ms in self._taken.items() if expires_ms < now_ms]:
            del self._taken[old]
        if entry.id in self._taken:
            raise Conflict("this award is being executed, or was", reason="taken")
        execution.check_award(award, entry.entry.account, desk.key.account, now_ms)
        signing.verify(award.winner)
        if desk.open_award(entry.id) is not None:
            return
        if desk.next_seq(award.bid.client) > entry.entry.seq:
            raise Conflict("this award is closed on the ledger, or lost its place there", reason="closed")
        if promise is not None and desk.ledger.promises(signing.verify(promise), entry.id):
            return  # the ledger has locked them, and this replica has yet to hear of it
        if desk.available_micro(award.bid.client) < award.locked_micro:
            raise InsufficientCredit("the client cannot lock what this award locks")

    def _take(self, award: Award) -> None:
        """Raises a Refusal when the award is good, and yet not to be executed here and now."""
        terms = self._desk.seller.offered(award.winner.body.offer)
        if terms is None:
            raise Stale("the offer behind this award is no longer on the market")
        if not self._desk.seller.has_room(terms):
            raise Exhausted("all sequences on offer are busy", retry_after_ms=self._desk.config.auction.hold_ms)

    async def _turn_away(
        self, stream: Stream, channel: Channel, award_id: EntryId, award: Award, refusal: Refusal
    ) -> None:
        """Attest at once that nothing was done, so that the client's credits are free again."""
        now_ms = self._desk.clock.now_ms()
        attested = execution.lost(self._desk.key, award_id, award, self._desk.fingerprint, now_ms)
        await self._claim(award_id, award, attested)
        given = messages.AttestationGiven(attestation=attested, reason=refusal.message[:512])
        await stream.send(channel.seal(ATTESTED + canonical.encode(given), last=True))
        await stream.finish()

    async def claim(self, award_id: EntryId, award: Award, attest: execution.Attest) -> None:
        await self._claim(award_id, award, attest.attestation)

    async def _claim(self, award_id: EntryId, award: Award, attestation: Signed[Attestation]) -> None:
        claim = settlement.Claim(
            award=award_id,
            claim_after_ms=award.claim_after_ms,
            expires_ms=award.expires_ms,
            attestation=attestation,
            receipt=None,
        )
        effects = self._desk.claims.step(settlement.ClaimMade(claim=claim))
        await self._perform(effects, also=[Change(kind=RUNNING, key=award_id, body=None)])

    async def receipt(self, given: messages.ReceiptGiven, award_id: EntryId, award: Award) -> None:
        """Raises Malformed: a client has no word on another's award."""
        receipt = signing.verify(given.receipt)
        if receipt.by != award.bid.client or receipt.body.award != award_id:
            raise Malformed("the receipt is not by this award's client about this award")
        effects = self._desk.claims.step(settlement.ReceiptArrived(award=receipt.body.award, receipt=receipt.signed))
        await self._perform(effects, patience_ms=self._desk.config.record_patience_ms)

    async def closed(self, awards: list[EntryId]) -> None:
        """The ledger has closed these awards."""
        effects = [effect for award in awards for effect in self._desk.claims.step(settlement.AwardClosed(award=award))]
        await self._perform(effects)

    async def time_moved(self, now_ms: Millis) -> None:
        """Ledger time has moved: settle alone what is due."""
        desk = self._desk
        opened = frozenset(award for award in desk.claims.open if desk.open_award(award) is not None)
        await self._perform(desk.claims.step(settlement.LedgerTimeMoved(now_ms=now_ms, open_awards=opened)))

    async def _perform(
        self, effects: list[settlement.Effect], also: list[Change] | None = None, *, patience_ms: int = 0
    ) -> None:
        changes = list(also or ())
        submissions: list[Settlement] = []
        for effect in effects:
            match effect:
                case settlement.KeepClaim():
                    body = canonical.encode(effect.claim)
                    changes.append(Change(kind=CLAIM, key=effect.claim.award, body=body))
                case settlement.ForgetClaim():
                    self._changed.set()
                    changes.append(Change(kind=CLAIM, key=effect.award, body=None))
                case settlement.SubmitSettlement():
                    submissions.append(effect.settlement)
        if changes:
            await self._desk.store.write(changes, patience_ms=patience_ms)
        for due in submissions:
            task = asyncio.create_task(self._submit(due))
            self._desk.submitting.add(task)
            task.add_done_callback(self._submitted)

    def _submitted(self, task: asyncio.Task[None]) -> None:
        self._desk.submitting.discard(task)
        self._changed.set()

    async def _submit(self, due: Settlement) -> None:
        try:
            await self._desk.submit(due)
        except Refusal as refusal:
            _log.info("settlement of %s refused: %s", due.award, refusal.message)


class _Serving:
    """One execution: its stream, its channel, its machine."""

    def __init__(  # noqa: PLR0913, PLR0917 - what one execution is about
        self,
        selling: Selling,
        stream: Stream,
        channel: Channel,
        opening: messages.Execute,
        award_id: EntryId,
        award: Award,
    ) -> None:
        self._selling = selling
        self._desk = desk = selling.desk
        self._stream = stream
        self._channel = channel
        self._opening = opening
        self._id = award_id
        self._award = award
        self._events: asyncio.Queue[execution.Event] = asyncio.Queue(_EVENTS_MAX)
        self._engine_task: asyncio.Task[None] | None = None
        self._receipt_seen = asyncio.Event()
        self._piece_due_ms = 0.0
        self._output_tokens: int | None = None
        self._machine = execution.Executor(
            desk.key, award_id, award, desk.fingerprint, desk.ledger, started_ms=desk.clock.now_ms()
        )

    async def run(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            with self._slot():
                async with asyncio.timeout(self._desk.config.execution.promise_timeout_ms / 1_000):
                    first = await self._read_order(self._opening.sealed)
                await stack.enter_async_context(_background(self._listen()))
                await self._work(first)
            with contextlib.suppress(TimeoutError, Unavailable):
                async with asyncio.timeout(_RECEIPT_WAIT_MS / 1_000):
                    await self._receipt_seen.wait()
                await self._stream.finish()

    @contextlib.contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the sequences on offer, from the award to the attestation."""
        bid = self._award.bid
        self._desk.seller.step(offer.ExecutionStarted(bid=self._award.winner.body.bid))
        self._desk.forecasting.started(
            self._id, input_tokens=bid.input_tokens, output_tokens=bid.expected_output_tokens
        )
        try:
            yield
        finally:
            self._desk.forecasting.ended(self._id, self._output_tokens)
            self._desk.seller.step(offer.ExecutionEnded())

    async def _work(self, first: execution.Ordered) -> None:
        async with contextlib.AsyncExitStack() as stack:
            await stack.enter_async_context(_background(self._deadlines()))
            stack.push_async_callback(self._stop_engine)
            effects = self._machine.step(first)
            if self._opening.promise is not None:
                promised = signing.verify(self._opening.promise)
                effects += self._machine.step(execution.Promised(at_ms=first.at_ms, inclusion=promised))
            await self._perform_all(effects)
            while not self._machine.over:
                effects = self._machine.step(await self._events.get())
                if any(isinstance(effect, execution.SendPiece) for effect in effects):
                    await self._gather()
                while not self._events.empty():
                    effects += self._machine.step(self._events.get_nowait())
                await self._perform_all(execution.coalesced(effects))

    async def _gather(self) -> None:
        """Let pieces that come faster than anybody reads travel together; the first one never waits."""
        clock = self._desk.clock
        await clock.sleep_until_ms(self._piece_due_ms)
        self._piece_due_ms = clock.monotonic_ms() + self._desk.config.execution.piece_interval_ms

    async def _stop_engine(self) -> None:
        if self._engine_task is not None:
            self._engine_task.cancel()
            await asyncio.wait((self._engine_task,))

    async def _read_order(self, sealed: bytes) -> execution.Ordered:
        limit = self._desk.config.execution.request_bytes_max
        head, _, part = self._channel.open(sealed)[0].partition(b"\n")
        order = canonical.decode(head, messages.Order)
        if order.request_bytes > limit:
            raise TooLarge(f"a request of {order.request_bytes} bytes where at most {limit} are accepted")
        request = bytearray(part)
        while len(request) < order.request_bytes:
            piece = await self._unseal()
            if not piece:
                raise Malformed("an empty piece of a request")
            request += piece
        return execution.Ordered(
            at_ms=self._desk.clock.now_ms(), path=order.path, salt=bytes.fromhex(order.salt), request=bytes(request)
        )

    async def _unseal(self) -> bytes:
        frame = await self._stream.receive()
        if frame is None:
            raise Malformed("the order ended before its request")
        return self._channel.open(frame)[0]

    async def _listen(self) -> None:
        """What the gateway says while the engine works. Its silence after the end is its right."""
        try:
            while (frame := await self._stream.receive()) is not None:
                await self._heard(messages.read_gateway_frame(frame))
        except Refusal as refusal:
            _log.debug("execution %s: %s", self._id, refusal.message)
        await self._events.put(execution.CancelAsked(at_ms=self._desk.clock.now_ms()))

    async def _heard(self, frame: messages.GatewayFrame) -> None:
        now_ms = self._desk.clock.now_ms()
        match frame:
            case messages.Promise():
                await self._events.put(execution.Promised(at_ms=now_ms, inclusion=signing.verify(frame.inclusion)))
            case messages.CancelExecution():
                await self._events.put(execution.CancelAsked(at_ms=now_ms))
            case messages.ReceiptGiven():
                await self._selling.receipt(frame, self._id, self._award)
                self._receipt_seen.set()

    async def _deadlines(self) -> None:
        clock, config = self._desk.clock, self._desk.config.execution
        begun = clock.monotonic_ms()
        await clock.sleep_until_ms(begun + config.promise_timeout_ms)
        await self._events.put(execution.PromiseOverdue(at_ms=clock.now_ms()))
        left_ms = self._award.claim_after_ms - clock.now_ms()
        await clock.sleep_until_ms(clock.monotonic_ms() + left_ms)
        await self._events.put(execution.CancelAsked(at_ms=clock.now_ms()))

    async def _perform_all(self, effects: list[execution.Effect]) -> None:
        for effect in effects:
            await self._perform(effect)

    async def _perform(self, effect: execution.Effect) -> None:
        match effect:
            case execution.RunEngine():
                self._engine_task = asyncio.create_task(self._run_engine(effect))
            case execution.KeepAward():
                running = RunningAward(id=self._id, award=self._award)
                await self._desk.store.write([Change(kind=RUNNING, key=self._id, body=canonical.encode(running))])
            case execution.SendStart():
                await self._send(START, effect.content_type.encode())
            case execution.SendPiece():
                await self._send(TOKENS if effect.tokens else PIECE, effect.data)
            case execution.AbortEngine():
                if self._engine_task is not None:
                    self._engine_task.cancel()
            case execution.Attest():
                await self._selling.claim(self._id, self._award, effect)
                await self._send(ATTESTED, canonical.encode(_given(effect)), last=True)

    async def _send(self, kind: bytes, data: bytes, *, last: bool = False) -> None:
        """The client may be gone: the machine hears of it from the listener, and its attestation stands.

        Who stops reading is gone as well: a slot is not held for it.
        """
        config = self._desk.config.execution
        try:
            for start in range(0, max(len(data), 1), config.piece_bytes_max):
                piece = data[start : start + config.piece_bytes_max]
                async with asyncio.timeout(config.silence_ms / 1_000):
                    await self._stream.send(self._channel.seal(kind + piece, last=last))
        except Unavailable as gone:
            _log.debug("execution %s: %s", self._id, gone.message)
        except TimeoutError:
            await self._stream.abort()

    async def _run_engine(self, effect: execution.RunEngine) -> None:
        now_ms, put = self._desk.clock.now_ms, self._events.put
        path: Path = "/v1/completions" if effect.path == "/v1/completions" else "/v1/chat/completions"
        answer = self._desk.engine.execute(path, effect.request, output_tokens_max=effect.output_tokens_max)
        finished = False
        try:
            async with contextlib.aclosing(answer) as events:  # type: ignore[type-var]
                async for said in events:
                    match said:
                        case ResponseStarted():
                            await put(execution.EngineStarted(at_ms=now_ms(), content_type=said.content_type))
                        case ResponsePiece():
                            if said.tokens:
                                self._desk.forecasting.said(self._id)
                            await put(execution.EngineSaid(at_ms=now_ms(), data=said.data, tokens=said.tokens))
                        case ResponseFinished():
                            finished = True
                            self._output_tokens = said.usage.output_tokens
                            await put(execution.EngineFinished(at_ms=now_ms(), usage=said.usage))
        except EngineRefused as refused:
            await put(execution.EngineRefusedIt(at_ms=now_ms(), status=refused.status, body=refused.body))
        except Refusal as refusal:
            await put(execution.EngineBroke(at_ms=now_ms(), reason=refusal.message))
        else:
            if not finished:
                await put(execution.EngineBroke(at_ms=now_ms(), reason="the engine stopped before its end"))


@contextlib.asynccontextmanager
async def _background(doing: Coroutine[None, None, None]) -> AsyncIterator[None]:
    """Runs beside the body, and never longer."""
    task = asyncio.create_task(doing)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait((task,))


def _given(effect: execution.Attest) -> messages.AttestationGiven:
    status, body = effect.engine or (None, b"")
    return messages.AttestationGiven(
        attestation=effect.attestation,
        reason=effect.reason[:512],
        engine_status=status,
        engine_body=body[:_ENGINE_BODY_BYTES_MAX].decode("utf-8", "replace"),
    )
