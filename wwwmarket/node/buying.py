"""The buyer's half of a node: bids, auctions, awards, and the answers that come back.

Performs the effects of ``market.auction`` and ``market.award``. One task drives one request to its end, also when the
client has gone: then what was delivered is still settled.
"""

import asyncio
import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.digest import request_digest
from wwwmarket.crypto.signing import Verified, VerifiedEntry
from wwwmarket.domain.errors import Conflict, InsufficientCredit, Malformed, NotFound, Refusal, Unavailable
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.records import (
    Award,
    Bid,
    NodeAddress,
)
from wwwmarket.market import auction, award
from wwwmarket.market.bid import estimate
from wwwmarket.node import messages, spans
from wwwmarket.node.delivery import DISPATCH_MESSAGES, Decision, Delivery, Purse
from wwwmarket.node.handover import Goods
from wwwmarket.node.service import DeliveryEvent, Preferences, Purchase
from wwwmarket.node.speaking import AccountOf, heard
from wwwmarket.ports.tracing import Span

_log = logging.getLogger("wwwmarket.buying")


class Buying:
    def __init__(self, purse: Purse) -> None:
        self.purse = purse
        self._deliveries: set[asyncio.Task[None]] = set()

    @property
    def in_flight(self) -> int:
        return len(self._deliveries)

    async def drain(self) -> None:
        """Wait for what is in flight."""
        while self._deliveries:
            await asyncio.wait(self._deliveries)

    async def close(self) -> None:
        """Stop at once: what was awarded settles without this node, or expires."""
        for task in self._deliveries:
            task.cancel()
        if self._deliveries:
            await asyncio.wait(self._deliveries)

    async def purchase(self, purchase: Purchase) -> AsyncGenerator[DeliveryEvent]:
        """See ``node.service.Service.purchase``."""
        path, model, most = purchase.path, purchase.model, purchase.max_output_tokens
        span = self.purse.tracer.begin(
            spans.name_of(path, model), "server", purchase.traceparent, spans.asked(path, model, most)
        )
        told, ended_by = spans.Told(span), "cancelled"
        try:
            async with contextlib.aclosing(self._purchase(purchase, span)) as events:
                async for event in events:
                    told.hear(event)
                    yield event
        except Refusal as refusal:
            ended_by = refusal.code
            raise
        else:
            ended_by = ""
        finally:
            span.end(ended_by or None)

    async def _purchase(self, purchase: Purchase, span: Span) -> AsyncGenerator[DeliveryEvent]:
        await self.purse.names.check(purchase)
        salt = self.purse.entropy.bytes(32)
        bid = self._bid(purchase, salt)
        decision = await self.hold_auction(
            signing.sign(self.purse.author.key(purchase.account), bid), purchase.preferences
        )
        goods = Goods(path=purchase.path, request=purchase.request, salt=salt, traceparent=span.traceparent)
        delivery = Delivery(self.purse, self._buyer(decision), decision, goods, purchase)
        async with contextlib.aclosing(self._stream(delivery, award.Begun(at_ms=self.purse.clock.now_ms()))) as events:
            async for event in events:
                yield event

    async def hold_auction(self, bid: Verified[Bid], preferences: Preferences) -> Decision:
        """Ask, wait, rank.

        Raises:
            NotFound: no offer is for that model.
            InsufficientCredit: the account could not even lock the cheapest of them.
            Unavailable: nobody eligible asked.
        """
        purse = self.purse
        begun = purse.clock.monotonic_ms()
        purse.count("auctions_total")
        asked, reserves = self._draw(bid.body, preferences)
        timeout_ms = purse.config.auction.ask_timeout_ms
        decided = await self._ask_all(bid, asked, reserves, timeout_ms)
        patient_ms = timeout_ms * purse.config.auction.patience_factor
        if patient_ms < bid.body.slo.ttft_ms and all(judged.verdict == "silent" for judged in decided.judged):
            decided = await self._ask_all(bid, [*asked, *reserves], (), patient_ms)
        elapsed_ms = purse.clock.monotonic_ms() - begun
        purse.observe("auction_ms", elapsed_ms)
        if not decided.standings:
            raise _nobody(decided, auction.come_again_ms(decided.soonest_ms, purse.entropy.below(auction.WHOLE_PPM)))
        return Decision(bid=bid.body, decided=decided, auction_us=round(elapsed_ms * 1_000))

    def propose(self, decision: Decision) -> Award:
        """The award that the auction comes to, for a client that signs for itself."""
        effects = self._buyer(decision).step(award.Begun(at_ms=self.purse.clock.now_ms()))
        (proposal,) = [effect for effect in effects if isinstance(effect, award.SignAward)]
        return proposal.award

    async def accept(
        self, decision: Decision, entry: VerifiedEntry, terms: Award, goods: Goods
    ) -> AsyncGenerator[DeliveryEvent]:
        """Execute an award that its client signed itself; there is one attempt, since another needs another signature.

        Raises:
            Conflict: the award's winner was not eligible in this auction, or it leaves out an ask.
        """
        if terms.asks != decision.decided.digests:
            raise Conflict("the award does not list the asks that its auction received", param="asks")
        winning = [one for one in self._contenders(decision) if one.ask.signed == terms.winner]
        if not winning:
            raise Conflict("the award's winner did not win this auction", param="winner")
        machine = award.Buyer(decision.bid, tuple(winning), decision.decided.digests, self.purse.rule(), self._terms())
        delivery = Delivery(self.purse, machine, decision, goods)
        delivery.signed(entry, terms, self.purse.submit(entry), attempt=1)
        adopted = award.Adopted(at_ms=self.purse.clock.now_ms(), award=entry.id)
        async with contextlib.aclosing(self._stream(delivery, adopted)) as events:
            async for event in events:
                yield event

    def _bid(self, purchase: Purchase, salt: bytes) -> Bid:
        purse, wants = self.purse, purchase.preferences
        most = purchase.max_output_tokens
        if most is None:
            most = purse.config.execution.output_tokens_default
        tokens = estimate(
            prompt_bytes=purchase.prompt_bytes,
            messages=purchase.messages,
            expected_output_tokens=purse.lengths.expected(purchase.account, purchase.model, most).expected,
            max_output_tokens=most,
        )
        now_ms = purse.clock.now_ms()
        available = purse.available_micro(purchase.account)
        cap = available if wants.max_price_micro is None else min(available, wants.max_price_micro)
        return Bid(
            client=purchase.account,
            model=ModelRequirement(name=purchase.model, precisions=wants.precisions),
            input_tokens=tokens.input_tokens,
            max_input_tokens=tokens.max_input_tokens,
            expected_output_tokens=tokens.expected_output_tokens,
            max_output_tokens=tokens.max_output_tokens,
            max_price_micro=cap,
            time_value_micro_per_s=wants.time_value_micro_per_s,
            slo=wants.slo or purse.config.auction.slo_default,
            request_digest=request_digest(salt, purchase.request),
            auctioneer=purse.node,
            issued_ms=now_ms,
            expires_ms=now_ms + purse.config.auction.bid_validity_ms,
        )

    def _draw(
        self, bid: Bid, preferences: Preferences
    ) -> tuple[Sequence[auction.Candidate], Sequence[auction.Candidate]]:
        """Whom to ask: oneself if eligible and a few random others; and whom else, if none of them is good enough."""
        purse = self.purse
        everyone = purse.candidates(bid.model.name)
        if not everyone:
            raise NotFound(f"no provider offers {bid.model.name}; GET /v1/models lists what is offered", param="model")
        wanted = [candidate for candidate in everyone if _wanted(candidate, preferences)]
        eligible = [candidate for candidate in wanted if self._may_win(bid, candidate)]
        if not eligible:
            raise self._why_nobody(bid, wanted)
        own = [candidate for candidate in eligible if candidate.listed.offer.address.node == purse.node]
        others = [candidate for candidate in eligible if candidate.listed.offer.address.node != purse.node]
        terms = purse.config.auction
        shuffled = auction.draw(others, purse.entropy.bytes(32), len(others))
        ranked: Sequence[auction.Candidate] = purse.order(shuffled)
        if purse.entropy.below(auction.WHOLE_PPM) < terms.newcomer_ppm:
            ranked = auction.seat_newcomer(ranked, terms.neighbours_asked, purse.is_newcomer)
        first, second = ranked[: terms.neighbours_asked], ranked[terms.neighbours_asked :]
        return [*own[:1], *first], second[: terms.reserves_asked]

    def _may_win(self, bid: Bid, candidate: auction.Candidate) -> bool:
        offer = candidate.listed.offer
        fits = bid.max_input_tokens + bid.max_output_tokens <= offer.model.context_tokens
        precise = not bid.model.precisions or offer.model.precision in bid.model.precisions
        return fits and precise and offer.valid_until_ms > self.purse.clock.now_ms()

    def _why_nobody(self, bid: Bid, wanted: Sequence[auction.Candidate]) -> Refusal:
        longest = max((candidate.listed.offer.model.context_tokens for candidate in wanted), default=0)
        needed = bid.max_input_tokens + bid.max_output_tokens
        if wanted and needed > longest:
            return Malformed(
                f"the request may need {needed} tokens of context and the longest on offer is {longest}; "
                "shorten the prompt or lower max_tokens",
                param="messages",
                reason="context_length_exceeded",
            )
        return Unavailable("no offer of this model meets your provider preferences", retry_after_ms=5_000)

    async def _ask_all(
        self,
        bid: Verified[Bid],
        asked: Sequence[auction.Candidate],
        reserves: Sequence[auction.Candidate],
        timeout_ms: int,
    ) -> auction.Decided:
        machine = auction.Auction(
            bid.body,
            asked,
            self.purse.rule(),
            ask_timeout_ms=timeout_ms,
            reserves=reserves,
            margin_ppm=self.purse.config.auction.margin_ppm,
        )
        clock = self.purse.clock
        events: asyncio.Queue[auction.Event] = asyncio.Queue()
        tasks: list[asyncio.Task[None]] = []
        event: auction.Event = auction.Opened(at_ms=clock.now_ms())
        try:
            while True:
                for effect in machine.step(event):
                    match effect:
                        case auction.RequestAsk():
                            asking = self._ask(effect.candidate, bid, events, timeout_ms)
                            tasks.append(asyncio.create_task(asking))
                        case auction.ArmDeadline():
                            tasks.append(asyncio.create_task(self._deadline(effect.at_ms, events)))
                        case auction.Decided():
                            return effect
                event = await events.get()
        finally:
            for task in tasks:
                task.cancel()

    async def _deadline(self, at_ms: int, events: "asyncio.Queue[auction.Event]") -> None:
        clock = self.purse.clock
        await clock.sleep_until_ms(clock.monotonic_ms() + at_ms - clock.now_ms())
        await events.put(auction.DeadlineReached(at_ms=at_ms))

    async def _ask(
        self, candidate: auction.Candidate, bid: Verified[Bid], events: "asyncio.Queue[auction.Event]", timeout_ms: int
    ) -> None:
        purse = self.purse
        request = messages.AskRequest(offer=candidate.offer, bid=bid.signed)
        try:
            answer = await self._put_to(candidate.listed.offer.address, request, timeout_ms)
            event = _ask_event(candidate, answer, purse.clock.now_ms(), purse.account_of)
        except Refusal as refusal:
            if candidate.node != purse.node:
                purse.let_down_by(candidate.node)
            event = auction.AskMissing(
                at_ms=purse.clock.now_ms(), offer=candidate.offer, declined=False, reason=refusal.message
            )
        await events.put(event)

    async def _put_to(self, address: NodeAddress, request: messages.AskRequest, timeout_ms: int) -> messages.Answer:
        purse = self.purse
        if address.node == purse.node:
            if purse.selling is None:
                raise Unavailable("this node sells nothing now", retry_after_ms=1_000)
            return purse.ask_self(request)
        purse.count(DISPATCH_MESSAGES)
        reply = await purse.transport.request(address, canonical.encode(request), timeout_ms=timeout_ms)
        purse.count(DISPATCH_MESSAGES)
        return messages.read_answer(reply)

    def _buyer(self, decision: Decision) -> award.Buyer:
        contenders = self._contenders(decision)
        return award.Buyer(decision.bid, contenders, decision.decided.digests, self.purse.rule(), self._terms())

    def _contenders(self, decision: Decision) -> tuple[award.Contender, ...]:
        return tuple(
            award.Contender(digest=standing.digest, ask=standing.ask, offer=standing.candidate.listed.offer)
            for standing in decision.decided.standings
        )

    def _terms(self) -> award.Terms:
        execution, tries = self.purse.config.execution, self.purse.config.auction.attempts_max
        return award.Terms(
            attempts_max=tries,
            bound_base_ms=execution.bound_base_ms,
            bound_factor=execution.bound_factor,
            execution_max_ms=execution.execution_max_ms,
            claim_after_ms=execution.claim_after_ms,
            claim_window_ms=execution.claim_window_ms,
            first_token_slack_ms=execution.first_token_slack_ms,
            first_token_slack_percent=execution.first_token_slack_percent,
        )

    async def _stream(self, delivery: Delivery, first: award.Event) -> AsyncGenerator[DeliveryEvent]:
        task = asyncio.create_task(delivery.run(first))
        self._deliveries.add(task)
        task.add_done_callback(self._deliveries.discard)
        try:
            async for event in delivery.answer():
                yield event
        finally:
            delivery.leave()


def _wanted(candidate: auction.Candidate, preferences: Preferences) -> bool:
    provider = candidate.listed.provider
    return provider not in preferences.ignore and (not preferences.only or provider in preferences.only)


def _ask_event(
    candidate: auction.Candidate, answer: messages.Answer, at_ms: int, account_of: AccountOf
) -> auction.Event:
    """Raises Unauthorised when the ask's signature does not verify."""
    match answer:
        case messages.AskAnswer():
            return auction.AskArrived(at_ms=at_ms, offer=candidate.offer, ask=heard(answer.ask, account_of))
        case messages.Decline():
            return auction.AskMissing(
                at_ms=at_ms,
                offer=candidate.offer,
                declined=True,
                reason=answer.reason,
                retry_after_ms=answer.retry_after_ms,
            )
        case messages.Refused():
            return auction.AskMissing(at_ms=at_ms, offer=candidate.offer, declined=True, reason=answer.message)
        case _:
            raise Malformed("the provider answered a bid with something else")


def _nobody(decided: auction.Decided, retry_after_ms: Millis) -> Refusal:
    """Why no ask won: price before time, since money is the client's to change."""
    reasons = "; ".join(sorted({judged.reason for judged in decided.judged}))
    if any(judged.verdict == "ineligible" and "lock" in judged.reason for judged in decided.judged):
        return InsufficientCredit(
            f"no provider serves this request within your credit or maximum price ({reasons}); "
            "add credit, raise the maximum price or lower max_tokens",
            reason="insufficient_credit",
        )
    return Unavailable(f"no provider meets the requirements now: {reasons}", retry_after_ms=retry_after_ms)
