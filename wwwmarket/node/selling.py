"""The provider's half of a node: answers bids, takes awards, claims what it earned.

Performs the effects of ``market.offer`` and ``market.settlement``; each execution is a ``Serving`` of its own.
"""

import asyncio
import logging
from typing import Final

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.sealing import Channel
from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.errors import (
    Conflict,
    Exhausted,
    Forbidden,
    InsufficientCredit,
    Malformed,
    NotFound,
    Refusal,
    Stale,
    Unavailable,
)
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import Attestation, Award, Inclusion, Offer, Settlement, Signed
from wwwmarket.market import execution, offer, settlement
from wwwmarket.market.advance import Advances
from wwwmarket.node import messages
from wwwmarket.node.desk import CLAIM, RUNNING, Desk, RunningAward
from wwwmarket.node.serving import ATTESTED, Serving
from wwwmarket.node.speaking import heard
from wwwmarket.node.tokenizing import Free
from wwwmarket.ports.store import Change
from wwwmarket.ports.transport import Stream

_log = logging.getLogger("wwwmarket.selling")


class Selling:
    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._taken: dict[EntryId, Millis] = {}
        self._changed = asyncio.Event()
        self._free = Free()
        self.advances: Final = Advances()

    @property
    def desk(self) -> Desk:
        return self._desk

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
            bid = heard(request.bid, self._desk.owned_by)
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

    async def tokenize(self, request: messages.Tokenize) -> messages.Tokenized:
        """How the engine splits a text: for nothing, and so only so often for everybody together.

        Raises:
            NotFound: nothing of that name is on offer here.
            Exhausted: too many have asked in this second.
            Unavailable: the engine cannot say.
        """
        if request.model not in self.models():
            raise NotFound(f"{request.model} is not on offer here", param="model")
        self._free.take(self._desk.clock.monotonic_ms())
        tokens = await self._desk.engine.tokenize(request.model, request.text)
        if tokens is None:
            raise Unavailable("the engine cannot tokenize", retry_after_ms=60_000)
        return messages.Tokenized(tokens=tokens)

    async def execute(self, stream: Stream, opening: messages.Execute) -> None:
        """Serve one award over ``stream``, from its sealed order to its attestation and receipt."""
        desk = self._desk
        entry = signing.open_entry(opening.leaf.encode())
        award = desk.read_award(entry)
        channel = desk.sealing.channel(opening.gateway_key, "provider")
        self._recognise(entry, award, opening.promise)
        self._taken[entry.id] = award.expires_ms
        serving = Serving(self, stream, channel, opening, entry.id, award)
        try:
            terms = self.take(award)
            if not serving.promised and not self._in_advance(award, terms):
                await self._at_the_door(serving, entry.id, award, terms)
        except (Exhausted, Stale) as refusal:
            await self._turn_away(stream, channel, entry.id, award, refusal)
        else:
            try:
                await serving.run()
            finally:
                self._changed.set()

    def _in_advance(self, award: Award, terms: Offer) -> bool:
        """Whether to begin on the signed award alone."""
        client = award.bid.client
        return self.advances.may_begin(
            client,
            award.locked_micro,
            available_micro=self._desk.available_micro(client),
            sequences=terms.capacity.sequences,
            now_ms=self._desk.clock.now_ms(),
        )

    async def _at_the_door(self, serving: Serving, name: EntryId, award: Award, terms: Offer) -> None:
        """Wait for the promise without a slot. Raises Exhausted where too many wait, or no slot is free any more."""
        self.advances.wait(name, sequences=terms.capacity.sequences)
        try:
            await serving.wait()
        finally:
            self.advances.leave(name)
        self.take(award)

    def _recognise(self, entry: VerifiedEntry, award: Award, promise: Signed[Inclusion] | None) -> None:
        """Whether this is ours to answer at all. Nothing is signed or kept for a stranger without an ask and funds.

        Once for each award: two attestations of one award would let its client choose the one that pays less.
        """
        desk, now_ms = self._desk, self._desk.clock.now_ms()
        for old in [name for name, expires_ms in self._taken.items() if expires_ms < now_ms]:
            del self._taken[old]
        if entry.id in self._taken:
            raise Conflict("this award is being executed, or was", reason="taken")
        author = desk.owned_by(entry.entry.account) or entry.entry.account
        execution.check_award(award, author, desk.key.account, now_ms)
        signing.verify(award.winner)
        if desk.open_award(entry.id) is not None:
            return
        if desk.next_seq(entry.entry.account) > entry.entry.seq:
            raise Conflict("this award is closed on the ledger, or lost its place there", reason="closed")
        if promise is not None and desk.ledger.promises(signing.verify(promise), entry.id):
            return  # the ledger has locked them, and this replica has yet to hear of it
        if desk.available_micro(award.bid.client) < award.locked_micro:
            raise InsufficientCredit("the client cannot lock what this award locks")

    def take(self, award: Award) -> Offer:
        """Its offer. Raises Stale or Exhausted when the award is good, and yet not to be executed here and now."""
        terms = self._desk.seller.offered(award.winner.body.offer)
        if terms is None:
            raise Stale("the offer behind this award is no longer on the market")
        if not self._desk.seller.has_room(terms):
            raise Exhausted("all sequences on offer are busy", retry_after_ms=self._desk.config.auction.hold_ms)
        return terms

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

    async def keep(self, award_id: EntryId, award: Award) -> None:
        """Before its first byte leaves: from now on it ends in an attestation."""
        running = RunningAward(id=award_id, award=award)
        await self._desk.store.write([Change(kind=RUNNING, key=award_id, body=canonical.encode(running))])

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
        receipt = heard(given.receipt, self._desk.owned_by)
        if receipt.by != award.bid.client or receipt.body.award != award_id:
            raise Malformed("the receipt is not by this award's client about this award")
        effects = self._desk.claims.step(settlement.ReceiptArrived(award=receipt.body.award, receipt=receipt.signed))
        await self._perform(effects, patience_ms=self._desk.config.record_patience_ms)

    async def disowned(self, given: messages.ReceiptGiven) -> messages.Acknowledged:
        """The client's word on an execution whose stream broke: we settle with it.

        Raises:
            NotFound: no such award is open.
            Forbidden: it is another's, or by another than its client.
            Conflict: it is still at work here; ask again (``at_work``).
        """
        desk, receipt = self._desk, heard(given.receipt, self._desk.owned_by)
        opened = desk.open_award(receipt.body.award)
        if opened is None:
            raise NotFound("no such award is open", reason="not_open")
        if opened.provider != desk.account_of(desk.key.account) or opened.client != receipt.by:
            raise Forbidden("only an award's client gives its provider a receipt", reason="not_party")
        if receipt.body.award not in desk.claims.open:
            raise Conflict("this award is not attested yet", reason="at_work")
        arrived = settlement.ReceiptArrived(award=receipt.body.award, receipt=receipt.signed)
        await self._perform(desk.claims.step(arrived), patience_ms=desk.config.record_patience_ms)
        return messages.Acknowledged()

    async def disputed(self, award_id: EntryId, award: Award) -> None:
        """The client says that nothing came of an award to us. What we know of answers by itself, when its time comes;
        of what never came to us we attest the failure: only silence costs a bond.
        """
        if award_id not in self._taken:
            desk = self._desk
            self._taken[award_id] = award.expires_ms
            attested = execution.lost(desk.key, award_id, award, desk.fingerprint, desk.clock.now_ms())
            await self._claim(award_id, award, attested)

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
            if refusal.reason == "not_by_client" and due.receipt is not None:
                void = settlement.ReceiptVoid(award=due.award, receipt=due.receipt)
                await self._perform(self._desk.claims.step(void))
