"""One bought request on its way: the machine of ``market.award``, the winner of the moment, the client's answer.

A task of its own drives it to its end, also when the client has gone: then what was delivered is still settled.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass
from typing import Final

from msgspec.structs import replace

from wwwmarket.config import NodeConfig
from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.errors import Refusal, Unavailable
from wwwmarket.domain.identity import AccountId, EntryId, NodeId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, Usage
from wwwmarket.domain.records import (
    Attestation,
    Award,
    Bid,
    Inclusion,
    NodeAddress,
    Receipt,
    Settlement,
    Signed,
    TabAward,
)
from wwwmarket.domain.shape import Value
from wwwmarket.market import auction, award
from wwwmarket.market.recount import Recount
from wwwmarket.market.tab import name_of
from wwwmarket.node import messages
from wwwmarket.node.author import Author, Included
from wwwmarket.node.award_records import AWARD, AwardRecord, Recent
from wwwmarket.node.handover import Attempt, Goods, Handover
from wwwmarket.node.lengths import Lengths
from wwwmarket.node.naming import Names
from wwwmarket.node.recounting import Recounting
from wwwmarket.node.selling import Selling
from wwwmarket.node.service import Awarded, Delivered, DeliveryEvent, Purchase
from wwwmarket.node.speaking import AccountOf
from wwwmarket.node.tabs_bought import TabsBought
from wwwmarket.ports.clock import Clock, Entropy
from wwwmarket.ports.engine import EngineRefused, ResponsePiece, ResponseStarted
from wwwmarket.ports.store import Change, RecordStore
from wwwmarket.ports.tokenizer import Tokenizers
from wwwmarket.ports.tracing import Tracer
from wwwmarket.ports.transport import Stream, Transport
from wwwmarket.rules.registry import AwardRule

_log = logging.getLogger("wwwmarket.delivery")

DISPATCH_MESSAGES: Final = "dispatch_messages_total"
"""Asks, answers to them and handovers between this node and others, as the simulator counts them, too."""
_WAITING_PIECES_MAX: Final = 256


@dataclass
class Purse:
    """What buying needs of its node."""

    node: NodeId
    transport: Transport
    selling: Selling | None
    ask_self: Callable[[messages.AskRequest], messages.Answer]
    author: Author
    rule: Callable[[], AwardRule]
    store: RecordStore
    clock: Clock
    entropy: Entropy
    config: NodeConfig
    candidates: Callable[[str], Sequence[auction.Candidate]]
    order: Callable[[Sequence[auction.Candidate]], list[auction.Candidate]]
    let_down_by: Callable[[NodeId], None]
    served_by: Callable[[NodeId], None]
    is_newcomer: Callable[[AccountId], bool]
    account_of: AccountOf
    available_micro: Callable[[AccountId], MicroCredits]
    cost_micro: Callable[[Award, Attestation, Receipt], MicroCredits]
    settle: Callable[[AccountId, Settlement], None]
    submit: Callable[[VerifiedEntry], Included]
    observe: Callable[[str, float], None]
    count: Callable[[str], None]
    keep: Callable[[list[Change]], None]
    recent: Recent
    acknowledge: Callable[[Bid, Sequence[auction.JudgedAsk], EntryId | None], None]
    execute_self: Callable[[Stream, messages.Execute | messages.ExecuteUnderTab], Awaitable[None]]
    tabs: TabsBought
    disown: Callable[[AccountId, Signed[Receipt], NodeAddress, Millis], Awaitable[None]]
    names: Names
    lengths: Lengths
    tokenizers: Tokenizers
    tracer: Tracer


class Decision(Value):
    """An auction that is over."""

    bid: Bid
    decided: auction.Decided
    auction_us: Count


class Delivery:
    def __init__(
        self, purse: Purse, machine: award.Buyer, decision: Decision, goods: Goods, purchase: Purchase | None = None
    ) -> None:
        self._purse = purse
        self._purchase = purchase
        self._machine = machine
        self._decision = decision
        self._goods = goods
        self._recounting = Recounting(
            purse.node, decision.bid.model.name, goods.request, purse.tokenizers, purse.selling
        )
        self._events: asyncio.Queue[award.Event] = asyncio.Queue()
        self._out: asyncio.Queue[DeliveryEvent | Refusal | None] = asyncio.Queue()
        self._reading = asyncio.Event()
        self._reading.set()
        self._left = False
        self._helpers: set[asyncio.Task[None]] = set()
        self._attempt: Attempt | None = None
        self._record: AwardRecord | None = None
        self._leaf = b""
        self._under: Signed[TabAward] | None = None
        self._attempts: list[EntryId] = []

    def leave(self) -> None:
        """The client no longer reads."""
        self._left = True
        self._reading.set()
        if not self._machine.over:
            self._events.put_nowait(award.ClientGone(at_ms=self._now_ms()))

    async def answer(self) -> AsyncIterator[DeliveryEvent]:
        """The client's end. Raises the refusal that ended the request, if one did."""
        while (said := await self._out.get()) is not None:
            if isinstance(said, Refusal):
                raise said
            if self._out.qsize() < _WAITING_PIECES_MAX:
                self._reading.set()
            yield said

    async def run(self, first: award.Event) -> None:
        try:
            await self._step(first)
            while not self._machine.over:
                await self._step(await self._counted(await self._events.get()))
        except Exception as error:  # noqa: BLE001 - the client must hear the end of it, whatever broke
            self._say(Unavailable("this node failed in the middle of the request", retry_after_ms=1_000))
            _log.exception("a delivery broke", exc_info=error)
        finally:
            self._out.put_nowait(None)
            await self._close()

    async def _close(self) -> None:
        if self._attempt is not None:
            await self._attempt.close()
        for task in self._helpers:
            task.cancel()

    def _now_ms(self) -> int:
        return self._purse.clock.now_ms()

    def _say(self, said: DeliveryEvent | Refusal) -> None:
        self._out.put_nowait(said)
        if self._out.qsize() >= _WAITING_PIECES_MAX and not self._left:
            self._reading.clear()

    def _help(self, doing: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(doing)
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def _step(self, event: award.Event) -> None:
        for effect in self._machine.step(event):
            if isinstance(effect, award.Abandon) and not isinstance(event, award.AwardRefused):
                self._purse.let_down_by(self._winner())
            elif isinstance(effect, award.Finish) and not self._overcounted():
                self._purse.served_by(self._winner())
            await self._perform(effect)

    async def _counted(self, event: award.Event) -> award.Event:
        """Reads along what arrives, and holds the provider's count against this node's own."""
        if self._record is None or getattr(event, "award", None) != self._record.id:
            return event
        match event:
            case award.AnswerStarted():
                self._recounting.begin(event.content_type)
            case award.PieceArrived():
                self._recounting.feed(event.data)
            case award.Attested():
                recount = await self._recounting.against(event.attestation.body, self._winner())
                self._record = replace(self._record, recount=recount)
                if recount is not None:
                    self._judge(recount)
                    return replace(event, counted=recount.agreed)
            case _:
                pass
        return event

    def _judge(self, recount: Recount) -> None:
        """A provider that counts more than was delivered is asked last for a while; the receipt pays the own count."""
        assert self._record is not None
        self._purse.count("recounts_total")
        if recount.beyond:
            self._purse.count("overcounts_total")
            self._purse.let_down_by(self._winner())
            _log.warning(
                "award %s: %s counted more than %d tokens of output allow",
                self._record.id,
                self._record.award.winner.signer,
                recount.agreed.output_tokens,
            )

    def _overcounted(self) -> bool:
        return self._record is not None and self._record.recount is not None and self._record.recount.beyond

    def _winner(self) -> NodeId:
        """Where the present award went."""
        assert self._record is not None
        return self._contender(self._record.award).node

    def _contender(self, terms: Award) -> auction.Candidate:
        """Who won, of those asked."""
        return next(one.candidate for one in self._decision.decided.standings if one.ask.signed == terms.winner)

    async def _perform(self, effect: award.Effect) -> None:  # noqa: C901 - one case an effect
        match effect:
            case award.SignAward():
                await self._sign(effect)
            case award.HandOver():
                self._hand_over(effect)
                self._keep()
            case award.ForwardPromise():
                self._forward(effect)
            case award.ArmFirstToken():
                self._help(self._later(effect.at_ms, award.FirstTokenOverdue(at_ms=effect.at_ms, award=effect.award)))
            case award.Start():
                self._say(ResponseStarted(content_type=effect.content_type))
            case award.Deliver():
                self._say(ResponsePiece(data=effect.data, tokens=effect.tokens))
            case award.Cancel():
                self._cancel(effect)
            case award.Abandon():
                await self._abandon(effect)
            case award.Settle():
                await self._settle(effect)
            case award.Finish():
                await self._finish(effect)
            case award.Fail():
                await self._fail(effect)

    async def _sign(self, effect: award.SignAward) -> None:
        """Durable before anybody sees it; the ledger's promise follows as an event, unless it is given by a tab."""
        client = effect.award.bid.client
        self._under = await self._under_tab(effect)
        if self._under is not None:
            name = name_of(self._under.body)
            self._begun(name, effect.award, effect.attempt, inclusion=None)
            await self._step(award.AwardSigned(at_ms=self._now_ms(), award=name))
            return
        try:
            keep = None if self._purchase is None else self._purse.names.keep(self._purchase)
            written = await self._purse.author.write(client, effect.award, keep)
            if written.inclusion.done():
                written.inclusion.result()
        except Refusal as refusal:
            self._events.put_nowait(award.AwardRefused(at_ms=self._now_ms(), award=None, refusal=refusal))
            return
        self.signed(written.entry, effect.award, written.inclusion, attempt=effect.attempt)
        await self._step(award.AwardSigned(at_ms=self._now_ms(), award=written.entry.id))

    def signed(self, entry: VerifiedEntry, terms: Award, inclusion: Included, *, attempt: int) -> None:
        """An award of this request is durable, and on its way to the ledger."""
        self._leaf = entry.leaf
        self._begun(entry.id, terms, attempt, inclusion=inclusion.result().signed if inclusion.done() else None)
        self._help(self._await_promise(entry.id, inclusion))

    async def _under_tab(self, effect: award.SignAward) -> Signed[TabAward] | None:
        """The award under a tab, where one can be used; a named purchase is looked up by its award on the ledger."""
        if self._purchase is None or self._purchase.name is not None:
            return None
        terms, ask = effect.award, effect.contender.ask
        return await self._purse.tabs.sign(terms.bid.client, terms, ask.by, effect.contender.offer.address)

    def _begun(self, name: EntryId, terms: Award, attempt: int, *, inclusion: Signed[Inclusion] | None) -> None:
        self._attempts.append(name)
        self._record = AwardRecord(
            id=name,
            award=terms,
            judged=self._decision.decided.judged,
            attempts=tuple(self._attempts),
            auction_us=self._decision.auction_us,
            inclusion=inclusion,
        )
        self._say(
            Awarded(
                award=name,
                provider=self._contender(terms).listed.provider,
                prices=terms.prices,
                locked_micro=terms.locked_micro,
                auction_ms=self._decision.auction_us / 1_000,
                attempt=attempt,
            )
        )
        if attempt == 1:
            self._acknowledge(name, terms)

    def _acknowledge(self, name: EntryId, terms: Award) -> None:
        """This node stands behind the auction's own award; not behind a client's other choice, nor behind failovers."""
        decided = self._decision.decided
        best = terms.winner == decided.standings[0].ask.signed
        self._purse.acknowledge(self._decision.bid, decided.judged, name if best else None)

    async def _await_promise(self, name: EntryId, inclusion: Included) -> None:
        try:
            promised = await asyncio.shield(inclusion)
        except Refusal as refusal:
            self._events.put_nowait(award.AwardRefused(at_ms=self._now_ms(), award=name, refusal=refusal))
        else:
            self._events.put_nowait(award.Included(at_ms=self._now_ms(), award=name, inclusion=promised))

    async def _later(self, at_ms: int, event: award.Event) -> None:
        clock = self._purse.clock
        await clock.sleep_until_ms(clock.monotonic_ms() + at_ms - clock.now_ms())
        self._events.put_nowait(event)

    def _hand_over(self, effect: award.HandOver) -> None:
        """For as long as the award can be executed, and its attestation awaited; a trickle is not an answer."""
        assert self._record is not None
        at_ms = self._record.award.claim_after_ms + self._purse.config.execution.cancel_patience_ms
        reason = "the award's time is over"
        self._help(self._later(at_ms, award.ExecutionBroken(at_ms=at_ms, award=effect.award, reason=reason)))
        opening = Handover(
            award=effect.award,
            leaf=self._leaf,
            contender=effect.contender,
            goods=self._goods,
            promise=self._record.inclusion,
            under_tab=self._under,
        )
        if effect.contender.offer.address.node != self._purse.node:
            self._purse.count(DISPATCH_MESSAGES)
        if len(self._attempts) > 1:
            self._purse.count("failovers_total")
        self._attempt = Attempt(self._purse, opening, self._events, self._reading)

    def _forward(self, effect: award.ForwardPromise) -> None:
        """Unless it went with the opening, because the ledger is this node's own."""
        if self._record is None or self._record.inclusion is not None:
            return
        self._record = replace(self._record, inclusion=effect.inclusion)
        self._tell(messages.Promise(inclusion=effect.inclusion))

    def _tell(self, message: messages.GatewayFrame) -> None:
        if self._attempt is not None:
            self._attempt.tell(message)

    def _cancel(self, effect: award.Cancel) -> None:
        self._tell(messages.CancelExecution(award=effect.award))
        at_ms = self._now_ms() + self._purse.config.execution.cancel_patience_ms
        reason = "the provider did not attest a cancelled execution in time"
        self._help(self._later(at_ms, award.ExecutionBroken(at_ms=at_ms, award=effect.award, reason=reason)))

    async def _abandon(self, effect: award.Abandon) -> None:
        if self._attempt is not None:
            await self._attempt.abandon()
            self._attempt = None
        if effect.disowned is not None:
            await self._disown(effect.disowned)

    async def _disown(self, nothing: Receipt) -> None:
        """In the client's name, where this node signs for it."""
        assert self._record is not None
        terms = self._record.award
        if self._purse.author.signs_for(terms.bid.client):
            receipt = signing.sign(self._purse.author.key(terms.bid.client), nothing).signed
            if self._under is not None:
                await self._purse.tabs.disown(self._under, receipt)
                return
            address = self._contender(terms).listed.offer.address
            await self._purse.disown(terms.bid.client, receipt, address, terms.expires_ms)

    async def _settle(self, effect: award.Settle) -> None:
        """A client that signs for itself finds the attestation with its receipt, and settles, or lets the provider."""
        assert self._record is not None
        client = self._record.award.bid.client
        usage, attestation = effect.receipt.usage, effect.attestation.body
        learnt = self._learn(usage, attestation)
        self._record = replace(
            self._record,
            outcome=attestation.outcome,
            usage=usage,
            ttft_ms=effect.receipt.ttft_ms,
            latency_ms=effect.receipt.latency_ms,
            cost_micro=self._purse.cost_micro(self._record.award, attestation, effect.receipt),
            attestation=effect.attestation,
        )
        if self._purse.author.signs_for(client):
            receipt = signing.sign(self._purse.author.key(client), effect.receipt).signed
            self._record = replace(self._record, receipt=receipt)
            if self._under is not None:
                await self._vouch(self._under, effect.attestation, receipt)
            else:
                self._tell(messages.ReceiptGiven(receipt=receipt))
                self._purse.settle(
                    client, Settlement(award=self._record.id, attestation=effect.attestation, receipt=receipt)
                )
        self._keep(learnt)

    async def _vouch(self, under: Signed[TabAward], attestation: Signed[Attestation], receipt: Signed[Receipt]) -> None:
        try:
            await self._purse.tabs.vouch(under, attestation, receipt)
        except Refusal as refusal:
            _log.info("award %s is not vouched for: %s", attestation.body.award, refusal.message)

    def _learn(self, usage: Usage, attestation: Attestation) -> list[Change]:
        """How long this client's answers are; one that failed or was cancelled says nothing about that."""
        if attestation.outcome != "completed":
            return []
        bid = self._decision.bid
        return self._purse.lengths.observe(
            bid.client, bid.model.name, usage.output_tokens, max_output_tokens=bid.max_output_tokens
        )

    async def _finish(self, effect: award.Finish) -> None:
        assert self._record is not None
        self._purse.observe("ttft_ms", float(effect.ttft_ms or 0))
        self._say(
            Delivered(
                award=effect.award,
                provider=self._contender(self._record.award).listed.provider,
                outcome=effect.outcome,
                usage=effect.usage,
                cost_micro=self._record.cost_micro or 0,
                ttft_ms=effect.ttft_ms,
                latency_ms=effect.latency_ms,
            )
        )

    async def _fail(self, effect: award.Fail) -> None:
        if self._record is not None and self._record.outcome is None:
            self._record = replace(self._record, outcome="failed")
            self._keep()
        if self._purchase is not None:
            await self._purse.names.forget(self._purchase)
        self._say(effect.refusal if effect.engine is None else EngineRefused(*effect.engine))

    def _keep(self, also: Sequence[Change] = ()) -> None:
        """For explanations only: what binds is durable in the ledger, so this can wait to share a commit."""
        assert self._record is not None
        self._purse.recent.put(self._record)
        self._purse.keep([Change(kind=AWARD, key=self._record.id, body=canonical.encode(self._record)), *also])
