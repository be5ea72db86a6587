"""What became of a provider's asks: won, or why not; with what it takes to prove a wrong.

It promises that an ask's last verdict depends on the receipts and awards that came, never on their order, and to forget
each ask soon. It knows neither how receipts travel nor where entries are kept.
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Final, Literal, Protocol, TypeAlias, assert_never

from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import Verified
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.identity import Digest, EntryId, NodeId
from wwwmarket.domain.quantity import Count, Millis
from wwwmarket.domain.records import Ask, AsksReceived, Award, Bid, Offer, Signed
from wwwmarket.domain.shape import Value

Verdict: TypeAlias = Literal["won", "lost", "omitted", "outbid", "unproven", "unacknowledged", "no_award"]
"""``omitted`` and ``outbid`` are proven faults; ``unproven`` and ``unacknowledged`` look like one without proof."""

ASKS_MAX: Final = 4_096
"""Asks in mind at once; the oldest give way."""
ASKS_PER_BID_MAX: Final = 8
"""An auctioneer asks once about each offer; whoever repeats a bid does not crowd others out."""
AWARDS_PER_BID_MAX: Final = 4
"""The winner's, and those of its failovers."""


class AskOutcome(Value):
    """``score`` and ``winner_score`` are the contract's, in micro-credits: anybody can compute them from the award."""

    ask: Digest
    bid: Digest
    offer: EntryId
    asked_ms: Millis
    verdict: Verdict
    award: EntryId | None
    score: Count
    winner_score: Count | None
    reason: str


class AskMade(Value):
    at_ms: Millis
    bid: Bid
    ask: Signed[Ask]
    terms: Offer


class ReceiptArrived(Value):
    received: Verified[AsksReceived]


class AwardSeen(Value):
    """An award stands on the ledger, at ``index``."""

    index: Count
    name: EntryId
    bid: Digest
    award: Award


class TimeMoved(Value):
    at_ms: Millis


Event: TypeAlias = AskMade | ReceiptArrived | AwardSeen | TimeMoved


class Concluded(Value):
    """The latest verdict on an ask; it replaces the one before, if there was one."""

    outcome: AskOutcome


class Accuse(Value):
    """What evidence is made of: with it go the entries at ``award_index`` and of the ask's offer."""

    ask: Signed[Ask]
    received: Signed[AsksReceived]
    award_index: Count


Effect: TypeAlias = Concluded | Accuse


class ScoringRule(Protocol):
    """The award contract's order, and whom it lets win."""

    def score(self, bid: Bid, ask: Ask) -> int: ...
    def check_ask(self, bid: Bid, ask: Ask, offer: Offer) -> None:
        """Raises a Refusal that says why this ask cannot win this bid."""
        ...


class _Asked:
    """One ask in mind."""

    def __init__(self, made: AskMade, name: Digest, score: int) -> None:
        self.made = made
        self.name = name
        self.score = score
        self.overdue = False
        self.outcome: AskOutcome | None = None


class _Auction:
    """What is known of one bid, whoever of our offers was asked."""

    def __init__(self, bid: Bid) -> None:
        self.bid = bid
        self.asks: dict[Digest, _Asked] = {}
        self.awards: dict[EntryId, AwardSeen] = {}
        self.received: Verified[AsksReceived] | None = None


class Outcomes:
    """``patience_ms`` after an ask the absence of a receipt or an award says something; ``kept_ms`` after it the ask is
    forgotten.
    """

    def __init__(self, rule: ScoringRule, *, patience_ms: int, kept_ms: int) -> None:
        self._rule = rule
        self._patience_ms = patience_ms
        self._kept_ms = kept_ms
        self._auctions: OrderedDict[Digest, _Auction] = OrderedDict()
        self._asks: OrderedDict[Digest, _Asked] = OrderedDict()
        self._tally: Counter[Verdict] = Counter()

    @property
    def tally(self) -> Mapping[Verdict, int]:
        """How many asks have which verdict, since the start."""
        return MappingProxyType(self._tally)

    @property
    def idle(self) -> bool:
        """Nothing is in mind: time need not move."""
        return not self._asks

    def awaits(self, bid: Digest) -> Bid | None:
        """The bid, while an ask for it is in mind: receipts and awards of others say nothing here."""
        auction = self._auctions.get(bid)
        return None if auction is None else auction.bid

    def step(self, event: Event) -> list[Effect]:
        match event:
            case AskMade():
                self._remember(event)
                return []
            case ReceiptArrived():
                return self._receipt(event.received)
            case AwardSeen():
                return self._award(event)
            case TimeMoved():
                return self._moved(event.at_ms)
            case _:
                assert_never(event)

    def _remember(self, event: AskMade) -> None:
        bid = event.ask.body.bid
        auction = self._auctions.setdefault(bid, _Auction(event.bid))
        name = digest(event.ask.body)
        if len(auction.asks) >= ASKS_PER_BID_MAX or name in auction.asks:
            return
        asked = _Asked(event, name, self._rule.score(event.bid, event.ask.body))
        auction.asks[name] = self._asks[name] = asked
        if len(self._asks) > ASKS_MAX:
            self._forget(next(iter(self._asks.values())))

    def _forget(self, asked: _Asked) -> None:
        del self._asks[asked.name]
        bid = asked.made.ask.body.bid
        auction = self._auctions[bid]
        del auction.asks[asked.name]
        if not auction.asks:
            del self._auctions[bid]

    def _receipt(self, received: Verified[AsksReceived]) -> list[Effect]:
        """The first that names an award stands: an auctioneer that signs several contradicts itself in any of them."""
        auction = self._auctions.get(received.body.bid)
        if auction is None or NodeId(received.by) != auction.bid.auctioneer:
            return []
        if auction.received is not None and auction.received.body.award is not None:
            return []
        auction.received = received
        return self._conclude(auction, auction.asks.values())

    def _award(self, event: AwardSeen) -> list[Effect]:
        auction = self._auctions.get(event.bid)
        if auction is None or len(auction.awards) >= AWARDS_PER_BID_MAX:
            return []
        auction.awards[event.name] = event
        return self._conclude(auction, auction.asks.values())

    def _moved(self, at_ms: int) -> list[Effect]:
        effects: list[Effect] = []
        for asked in list(self._asks.values()):
            age_ms = at_ms - asked.made.at_ms
            if age_ms >= self._patience_ms and not asked.overdue:
                asked.overdue = True
                effects += self._conclude(self._auctions[asked.made.ask.body.bid], [asked])
            if age_ms >= self._kept_ms:
                self._forget(asked)
        return effects

    def _conclude(self, auction: _Auction, asks: Iterable[_Asked]) -> list[Effect]:
        effects: list[Effect] = []
        for asked in asks:
            outcome, fault = self._judge(auction, asked)
            if outcome is None or outcome == asked.outcome:
                continue
            if asked.outcome is not None:
                self._tally[asked.outcome.verdict] -= 1
            self._tally[outcome.verdict] += 1
            asked.outcome = outcome
            effects.append(Concluded(outcome=outcome))
            if fault is not None and auction.received is not None:
                ask, received = asked.made.ask, auction.received.signed
                effects.append(Accuse(ask=ask, received=received, award_index=fault.index))
        return effects

    def _judge(self, auction: _Auction, asked: _Asked) -> tuple[AskOutcome | None, AwardSeen | None]:
        """The verdict by what is known now, None while more may come; and the award that is at fault."""
        awards = sorted(auction.awards.values(), key=lambda seen: seen.index)
        won = next((seen for seen in awards if seen.award.winner == asked.made.ask), None)
        if won is not None:
            return self._outcome(auction, asked, "won", won, "the award is to this ask"), None
        acknowledged, named = _standing_behind(auction, asked)
        if named is not None:
            wrong = self._wrong(auction, asked, named)
            if wrong is not None:
                return self._outcome(auction, asked, wrong[0], named, wrong[1]), named
        lost = named or next((seen for seen in awards if self._wrong(auction, asked, seen) is None), None)
        if lost is not None:
            return self._outcome(auction, asked, "lost", lost, self._why_lost(auction, asked, lost)), None
        if not asked.overdue:
            return None, None
        if not awards:
            return self._outcome(auction, asked, "no_award", None, "no award of this bid was seen"), None
        return self._without_proof(auction, asked, awards[0], acknowledged=acknowledged), None

    def _without_proof(self, auction: _Auction, asked: _Asked, seen: AwardSeen, *, acknowledged: bool) -> AskOutcome:
        wrong = self._wrong(auction, asked, seen)
        assert wrong is not None, "else the ask has lost"
        if acknowledged:
            reason = f"{wrong[1]}, but its auctioneer's receipt stands behind another award, or none"
            return self._outcome(auction, asked, "unproven", seen, reason)
        if auction.received is not None:
            reason = "by the auctioneer's receipt this ask did not come in time, or was not what it had asked for"
        else:
            reason = f"{wrong[1]}, and the auctioneer sent no receipt"
        return self._outcome(auction, asked, "unacknowledged", seen, reason)

    def _wrong(self, auction: _Auction, asked: _Asked, seen: AwardSeen) -> tuple[Verdict, str] | None:
        """What this award does to this ask that it must not, if its auctioneer received it and stands behind it."""
        if asked.name not in seen.award.asks:
            return "omitted", "the award leaves this ask out"
        winner = seen.award.winner.body
        better = (asked.score, asked.name) < (self._rule.score(auction.bid, winner), digest(winner))
        if not better or self._why_ineligible(auction, asked) is not None:
            return None
        return "outbid", "the award is to a worse ask"

    def _why_ineligible(self, auction: _Auction, asked: _Asked) -> str | None:
        try:
            self._rule.check_ask(auction.bid, asked.made.ask.body, asked.made.terms)
        except Refusal as refusal:
            return refusal.message
        return None

    def _why_lost(self, auction: _Auction, asked: _Asked, seen: AwardSeen) -> str:
        ineligible = self._why_ineligible(auction, asked)
        if ineligible is not None:
            return ineligible
        behind = asked.score - self._rule.score(auction.bid, seen.award.winner.body)
        return f"its score is {behind} above the winner's" if behind else "tied with the winner; the lower digest wins"

    def _outcome(
        self, auction: _Auction, asked: _Asked, verdict: Verdict, seen: AwardSeen | None, reason: str
    ) -> AskOutcome:
        ask = asked.made.ask.body
        return AskOutcome(
            ask=asked.name,
            bid=ask.bid,
            offer=ask.offer,
            asked_ms=asked.made.at_ms,
            verdict=verdict,
            award=None if seen is None else seen.name,
            score=asked.score,
            winner_score=None if seen is None else self._rule.score(auction.bid, seen.award.winner.body),
            reason=reason,
        )


def _standing_behind(auction: _Auction, asked: _Asked) -> tuple[bool, AwardSeen | None]:
    """Whether the receipt lists the ask; and then the award that it names, once that has been seen."""
    if auction.received is None or asked.name not in auction.received.body.asks:
        return False, None
    named = auction.received.body.award
    return True, None if named is None else auction.awards.get(named)
