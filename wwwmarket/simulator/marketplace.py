"""The market as a dispatch rule: the product's auction, buyer, seller, executor and claims, on simulated time.

A client knocks at a node; the node bids, asks itself and a few others, asks more where nobody is good enough, awards,
hands over, takes the next-best before the first token where a winner fails, and settles. A client that is told to come
again does so twice, as the common SDKs do. Messages counted are asks, answers and handovers between nodes.
"""

from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Final

from wwwmarket.config import WAN
from wwwmarket.crypto.digest import request_digest
from wwwmarket.crypto.signing import KeyPair, Verified, VerifiedEntry, sign
from wwwmarket.dispatch.output_length import OutputLengths
from wwwmarket.domain.book import ListedOffer
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import EntryId, NodeId
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.records import Award, Bid, Inclusion, Settlement
from wwwmarket.market import auction, award, execution, offer
from wwwmarket.overlay.trust import Trust
from wwwmarket.simulator import cast
from wwwmarket.simulator.books import Chain
from wwwmarket.simulator.ledger import Ledger
from wwwmarket.simulator.live_views import LiveViews
from wwwmarket.simulator.providing import REQUEST, SALT, Notary, Provider
from wwwmarket.simulator.reviewing import CORRUPT, Reviewers, favour, friend_of, receipt
from wwwmarket.simulator.views import StaticViews, Views
from wwwmarket.simulator.world import NodeTwin, Trip, World

ASK_TIMEOUT_MS: Final = WAN.auction.ask_timeout_ms
PATIENCE_PERCENT: Final = 200
"""A client rather has its answer late than not at all, up to this part of its objective; that is what it bids."""
MARGIN_PPM: Final = 500_000
"""Of what was bid: where nobody would meet the objective itself, a second round is held."""
ALLOWANCE_MS: Final = 400
"""Of the objective for the auction, the handover and the way back: what providers do not see."""
RETRIES: Final = 2
CRASH_NOTICED_US: Final = 1_000_000
"""Until a connection to a node that is gone is given up."""
CONFIG: Final = WAN.execution
TERMS: Final = award.Terms(
    attempts_max=WAN.auction.attempts_max,
    bound_base_ms=CONFIG.bound_base_ms,
    bound_factor=CONFIG.bound_factor,
    execution_max_ms=CONFIG.execution_max_ms,
    claim_after_ms=CONFIG.claim_after_ms,
    claim_window_ms=CONFIG.claim_window_ms,
    first_token_slack_ms=CONFIG.first_token_slack_ms,
    first_token_slack_percent=CONFIG.first_token_slack_percent,
)


class Market:
    name = "market"

    def __init__(self, world: World) -> None:
        self.world = world
        self.chance = world.chance("policy/market")
        self.again = world.chance("come-again")
        self.notary = Notary()
        self.lengths = [OutputLengths() for _ in world.nodes]
        self.trust = [Trust() for _ in world.nodes]
        keys = [_key(world.setup.seed, "provider", node.index) for node in world.nodes]
        clients = [_key(world.setup.seed, "client", node.index) for node in world.nodes]
        self.views: Views = LiveViews(world, keys) if world.setup.overlay == "live" else StaticViews(world)
        self.node_ids = [NodeId(key.account) for key in keys]
        self.ledger = Ledger(world, keys, clients)
        ring = cast.Ring()
        self.providers = [
            cast.provider(world, self.ledger.books, node, key, own.account, ring)
            for node, key, own in zip(world.nodes, keys, clients, strict=True)
        ]
        self.chains = [self.ledger.books.chain(key) for key in clients]
        self.candidates = [
            auction.Candidate(offer=p.offer, listed=ListedOffer(provider=p.key.account, offer=p.terms))
            for p in self.providers
        ]
        self.by_offer = {candidate.offer: i for i, candidate in enumerate(self.candidates)}
        self.ledger.follow(self.providers)
        self.reviewers = self._reviewers()
        self._purchases: dict[EntryId, Purchase] = {}

    def _reviewers(self) -> Reviewers | None:
        """Providers look back where somebody may wrong them: it costs a signature an auction."""
        suspects = any(node.character in CORRUPT for node in self.world.nodes)
        books = self.ledger.books
        return Reviewers(books.state.rules.award, books.listed) if suspects else None

    @property
    def settled(self) -> bool:
        """Whether no award is open on the ledger, nor an entry on its way."""
        return not self.ledger.books.state.awards()

    def arrive(self, trip: Trip) -> None:
        home = self.world.knock(trip)
        if home is None:
            trip.fail("no node is there")
        else:
            Purchase(self, trip, home).begin()

    def gone(self, node: NodeTwin, *, crash: bool) -> None:
        self.views.gone(node, crash=crash)
        provider = self.providers[node.index]
        if not crash:
            provider.seller.step(offer.DrainBegun())
            return
        for lost in provider.crash():
            purchase = self._purchases.get(lost.award)
            if purchase is not None:
                self.world.loop.after(CRASH_NOTICED_US, purchase.broken, lost.award, "the connection is gone")

    def came(self, node: NodeTwin) -> None:
        """Its offer stood on the ledger already; now it answers."""
        self.views.came(node)

    def watch(self, name: EntryId, purchase: "Purchase") -> None:
        self._purchases[name] = purchase

    def forget(self, name: EntryId) -> None:
        self._purchases.pop(name, None)


class Purchase:
    """One request from its bid to its settlement, at the node where its client knocked."""

    def __init__(self, market: Market, trip: Trip, home: NodeTwin) -> None:
        self._market = market
        self._world = market.world
        self._trip = trip
        self._home = home
        self._tries = 0
        self._auction: auction.Auction | None = None
        self._buyer: award.Buyer | None = None
        self._bid: Verified[Bid] | None = None
        self._awards: dict[EntryId, tuple[Award, Provider, int]] = {}
        self._asked_ms: dict[int, int] = {}

    @property
    def _chain(self) -> Chain:
        return self._market.chains[self._home.index]

    @property
    def _trust(self) -> Trust:
        return self._market.trust[self._home.index]

    def begin(self) -> None:
        """Bid, and ask oneself and a few others."""
        own, others, reserves = self._draw()
        slo = self._slo()
        if slo is None or not (own or others):
            self._trip.fail("its time has passed" if slo is None else "nobody offers it")
            return
        self._tries += 1
        bid = self._make_bid(slo)
        self._bid = sign(self._chain.key, bid)
        machine = auction.Auction(
            bid,
            [self._market.candidates[node.index] for node in (*own, *others)],
            self._market.ledger.books.state.rules.award,
            ask_timeout_ms=ASK_TIMEOUT_MS,
            reserves=[self._market.candidates[node.index] for node in reserves],
            margin_ppm=MARGIN_PPM,
        )
        self._auction = machine
        self._asked_ms.clear()
        self._in_auction(machine, auction.Opened(at_ms=self._world.loop.now_ms))

    def _draw(self) -> tuple[list[NodeTwin], list[NodeTwin], list[NodeTwin]]:
        market, setup, request = self._market, self._world.setup, self._trip.request
        own = self._fitting([self._home]) if self._home.spec.serves == request.model and self._home.up else []
        ranked = self._fitting(market.views.ranked(self._home, request.model))
        now_ms = self._world.loop.now_ms
        others = sorted(ranked, key=lambda node: self._trust.distrusts(market.node_ids[node.index], now_ms))
        if self._home.character in CORRUPT:
            friend = friend_of(self._world, self._home)
            others = [*self._fitting([friend]), *(other for other in others if other is not friend)]
        if self._home.offload is not None and own and market.chance.random() >= self._home.offload:
            others = []
        return own, others[: setup.asked], others[setup.asked :][: setup.asked_more]

    def _fitting(self, nodes: Sequence[NodeTwin]) -> list[NodeTwin]:
        """Those whose offered context has room for the request."""
        longest = self._world.setup.output_tokens_max
        return [node for node in nodes if node.engine.fits(self._trip.request.input_tokens, longest)]

    def _slo(self) -> Slo | None:
        """What is left of the objective for a provider; None where nothing is."""
        request = self._trip.request
        elapsed_ms = (self._world.loop.now_us - request.at_us) // 1_000
        ttft_ms = request.slo_ttft_ms * PATIENCE_PERCENT // 100 - elapsed_ms - ALLOWANCE_MS
        tpot_ms = -(-request.slo_tpot_ms * PATIENCE_PERCENT // 100)
        return Slo(ttft_ms=ttft_ms, tpot_ms=tpot_ms) if ttft_ms > 0 else None

    def _make_bid(self, slo: Slo) -> Bid:
        request, setup, now_ms = self._trip.request, self._world.setup, self._world.loop.now_ms
        longest = setup.output_tokens_max
        expected = (
            self._market.lengths[self._home.index].expected(self._chain.key.account, request.model, longest).expected
        )
        return Bid(
            client=self._chain.key.account,
            model=ModelRequirement(name=request.model),
            input_tokens=request.input_tokens,
            max_input_tokens=request.input_tokens,
            expected_output_tokens=expected,
            max_output_tokens=longest,
            max_price_micro=10**9,
            time_value_micro_per_s=setup.time_value_micro_per_s,
            slo=slo,
            request_digest=request_digest(SALT, REQUEST),
            auctioneer=NodeId(self._chain.key.account),
            issued_ms=now_ms,
            expires_ms=now_ms + WAN.auction.bid_validity_ms,
        )

    def _in_auction(self, machine: auction.Auction, event: auction.Event) -> None:
        if machine is not self._auction:
            return
        for effect in machine.step(event):
            match effect:
                case auction.RequestAsk():
                    self._ask(machine, effect.candidate)
                case auction.ArmDeadline():
                    due_us = self._world.loop.now_us + ASK_TIMEOUT_MS * 1_000
                    self._world.loop.at(due_us, self._in_auction, machine, auction.DeadlineReached(at_ms=effect.at_ms))
                case auction.Decided():
                    self._decided(effect)

    def _ask(self, machine: auction.Auction, candidate: auction.Candidate) -> None:
        index = self._market.by_offer[candidate.offer]
        self._asked_ms[index] = self._world.loop.now_ms
        self._count(index)
        self._world.network.send(self._home.index, index, self._asked, machine, candidate, index)

    def _asked(self, machine: auction.Auction, candidate: auction.Candidate, index: int) -> None:
        """At the provider."""
        node, bid = self._world.nodes[index], self._bid
        if node.character in cast.SILENT or bid is None:
            return
        provider, reviewers = self._market.providers[index], self._market.reviewers
        answer = provider.answer(self._market.notary.verify(bid.signed))
        if reviewers is not None and isinstance(answer, offer.AskSent):
            reviewers.asked(provider, bid.body, answer.ask, self._home.index)
        self._count(index)
        self._world.network.send(index, self._home.index, self._heard, machine, candidate, answer)

    def _heard(self, machine: auction.Auction, candidate: auction.Candidate, answer: offer.Effect) -> None:
        now_ms = self._world.loop.now_ms
        event: auction.Event
        if isinstance(answer, offer.AskSent):
            ask = self._market.notary.verify(answer.ask.signed)
            event = auction.AskArrived(at_ms=now_ms, offer=candidate.offer, ask=ask)
        else:
            event = auction.AskMissing(
                at_ms=now_ms,
                offer=candidate.offer,
                declined=True,
                reason=answer.reason,
                retry_after_ms=answer.retry_after_ms,
            )
        self._in_auction(machine, event)

    def _count(self, index: int) -> None:
        self._trip.messages += index != self._home.index

    def _decided(self, decided: auction.Decided) -> None:
        self._auction = None
        for judged in decided.judged:
            index = self._market.by_offer[judged.offer]
            overdue_ms = self._asked_ms[index] + ASK_TIMEOUT_MS
            if judged.verdict == "silent" and self._world.loop.now_ms >= overdue_ms:
                self._let_down_by(index)
        self._told = self._decision(decided)
        if not decided.standings:
            self._come_again(decided.soonest_ms)
            return
        assert self._bid is not None, "an auction is about a bid"
        contenders = tuple(
            award.Contender(digest=s.digest, ask=s.ask, offer=s.candidate.listed.offer) for s in self._told.standings
        )
        rule = self._market.ledger.books.state.rules.award
        self._buyer = award.Buyer(self._bid.body, contenders, self._told.digests, rule, TERMS)
        self._in_award(award.Begun(at_ms=self._world.loop.now_ms))

    def _decision(self, decided: auction.Decided) -> auction.Decided:
        """What this node makes of an auction; and what its receipts will say came in."""
        market, home = self._market, self._home
        self._acknowledged = decided.digests
        if home.character not in CORRUPT or market.reviewers is None:
            return decided
        friend = market.providers[friend_of(self._world, home).index].offer
        told = favour(decided, home.character, friend)
        if home.character == "denying":
            self._acknowledged = told.digests
        market.reviewers.wronged[home.index] += len(decided.standings) - len(told.standings)
        return told

    def _acknowledge(self, entry: VerifiedEntry, terms: Award) -> None:
        """To whom was asked, behind the first award alone; everybody sees the award."""
        market = self._market
        if market.reviewers is None:
            return
        bid = terms.winner.body.bid
        market.reviewers.awarded(entry, terms, bid)
        if len(self._awards) > 1:
            return
        said = receipt(self._chain.key, bid, self._acknowledged, entry.id, self._world.loop.now_ms)
        for index in self._asked_ms:
            self._send(index, market.reviewers.received, market.providers[index], market.notary.verify(said.signed))

    def _come_again(self, soonest_ms: int | None) -> None:
        """When the refusal says, unless the client's time is over by then."""
        again_ms = auction.come_again_ms(soonest_ms, self._market.again.randrange(auction.WHOLE_PPM))
        slo = self._slo()
        if self._tries > RETRIES or slo is None or slo.ttft_ms <= again_ms:
            self._trip.fail("refused: nobody could answer in time")
        else:
            self._world.loop.after(again_ms * 1_000, self.begin)

    def _in_award(self, event: award.Event) -> None:
        if self._buyer is None:
            return
        for effect in self._buyer.step(event):
            if isinstance(effect, award.Abandon) and not isinstance(event, award.AwardRefused):
                self._let_down_by(self._awards[effect.award][2])
            self._perform(effect)

    def _let_down_by(self, index: int) -> None:
        self._trust.failed(self._market.node_ids[index], self._world.loop.now_ms)

    def _perform(self, effect: award.Effect) -> None:  # noqa: C901 - one case an effect
        match effect:
            case award.SignAward():
                self._sign(effect)
            case award.HandOver():
                self._hand_over(effect)
            case award.ArmFirstToken():
                self._arm(effect)
            case award.ForwardPromise():
                _, provider, index = self._awards[effect.award]
                promise = self._market.notary.verify(effect.inclusion)
                self._send(index, provider.promised, effect.award, promise)
            case award.Deliver():
                self._trip.first_us = self._trip.first_us or self._world.loop.now_us
            case award.Abandon() | award.Cancel():
                _, provider, index = self._awards[effect.award]
                self._market.forget(effect.award)
                self._send(index, provider.cancel, effect.award)
            case award.Settle():
                self._settle(effect)
            case award.Finish():
                self._finished(effect)
            case award.Fail():
                self._trip.fail(effect.refusal.message)
            case award.Start():
                pass

    def _arm(self, effect: award.ArmFirstToken) -> None:
        due_us = (effect.at_ms - self._world.loop.now_ms) * 1_000
        overdue = award.FirstTokenOverdue(at_ms=effect.at_ms, award=effect.award)
        self._world.loop.after(due_us, self._in_award, overdue)

    def _settle(self, effect: award.Settle) -> None:
        receipt = sign(self._chain.key, effect.receipt).signed
        body = Settlement(award=effect.receipt.award, attestation=effect.attestation, receipt=receipt)
        self._market.ledger.books.submit(self._home.index, self._chain.sign(body), lambda _answer: None)

    def _send(self, index: int, action: Callable[..., None], *arguments: object) -> None:
        self._world.network.send(self._home.index, index, action, *arguments, reliable=True)

    def _finished(self, finish: award.Finish) -> None:
        request = self._trip.request
        self._trip.finish_us = self._world.loop.now_us
        self._market.forget(finish.award)
        self._trust.kept(self._market.node_ids[self._awards[finish.award][2]])
        account, longest = self._chain.key.account, self._world.setup.output_tokens_max
        learnt = self._market.lengths[self._home.index]
        learnt.observe(account, request.model, request.output_tokens, max_output_tokens=longest)

    def _sign(self, effect: award.SignAward) -> None:
        entry = self._chain.sign(effect.award)
        index = self._market.by_offer[effect.award.winner.body.offer]
        self._awards[entry.id] = (effect.award, self._market.providers[index], index)
        self._trip.executor = index

        def answered(answer: Verified[Inclusion] | Refusal) -> None:
            now_ms = self._world.loop.now_ms
            if isinstance(answer, Refusal):
                self._in_award(award.AwardRefused(at_ms=now_ms, award=entry.id, refusal=answer))
            else:
                self._acknowledge(entry, effect.award)
                self._in_award(award.Included(at_ms=now_ms, award=entry.id, inclusion=answer))

        self._market.ledger.books.submit(self._home.index, entry, answered)
        self._market.watch(entry.id, self)
        self._handing = entry
        self._in_award(award.AwardSigned(at_ms=self._world.loop.now_ms, award=entry.id))

    def _hand_over(self, effect: award.HandOver) -> None:
        _, provider, index = self._awards[effect.award]
        self._count(index)
        self._send(index, self._handed, self._handing, provider, index)

    def _handed(self, entry: VerifiedEntry, provider: Provider, index: int) -> None:
        """At the provider."""
        terms = self._awards[entry.id][0]

        def told(effect: execution.Effect) -> None:
            self._world.network.send(index, self._home.index, self._hear, entry.id, effect, reliable=True)

        try:
            provider.execute(entry, terms, self._trip.request.output_tokens, told)
        except Refusal as refusal:
            self._world.network.send(index, self._home.index, self.broken, entry.id, refusal.message, reliable=True)

    def broken(self, name: EntryId, reason: str) -> None:
        self._in_award(award.ExecutionBroken(at_ms=self._world.loop.now_ms, award=name, reason=reason))

    def _hear(self, name: EntryId, effect: execution.Effect) -> None:
        """At the buyer."""
        now_ms = self._world.loop.now_ms
        match effect:
            case execution.SendStart():
                self._in_award(award.AnswerStarted(at_ms=now_ms, award=name, content_type=effect.content_type))
            case execution.SendPiece():
                self._in_award(award.PieceArrived(at_ms=now_ms, award=name, data=effect.data, tokens=True))
            case execution.Attest():
                attestation = self._market.notary.verify(effect.attestation)
                self._in_award(award.Attested(at_ms=now_ms, award=name, attestation=attestation, reason=effect.reason))
            case _:
                raise AssertionError(f"an execution does not send {type(effect).__name__}")


def _key(seed: int, role: str, node: int) -> KeyPair:
    return KeyPair(sha256(f"{seed}/{role}/{node}".encode()).digest())
