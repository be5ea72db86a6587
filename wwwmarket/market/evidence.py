"""Whether a provider's evidence proves that an auctioneer left its ask out of an award, or outbid it wrongly.

Everything is recomputed from the record alone, under award/v1: no ledger, no clock, nobody's word. Evidence is refused
unless

1. the ask is signed by its provider, and the receipt by its auctioneer (``Unauthorised``),
2. the award is an entry, signed by its author (``Malformed``, ``Unauthorised``),
3. who is the bid's client (``not_client``),
4. the receipt is by the auctioneer that the bid names (``not_auctioneer``),
5. ask and receipt are of the award's bid (``other_bid``),
6. the receipt stands behind this very award (``other_award``),
7. and lists the ask (``not_received``);

where the award does not list it, it was omitted. Else the evidence is refused unless

8. there is the entry of the ask's offer, by the ask's provider (``other_offer``),
9. under which the ask could have won (as award/v1 refuses it),
10. and by (score, digest) it is better than the winner's (``not_better``).

An honest auctioneer lists in its receipt only asks of whom it asked, under the offer it asked about, and stands behind
the first award of its auction alone: a later one, after a winner's failure, rightly passes over better asks.
"""

from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import VerifiedEntry, open_entry, verify
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed
from wwwmarket.domain.identity import AccountId, Digest, EntryId, NodeId
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Ask, Award, Bid, Evidence, Offer
from wwwmarket.domain.shape import Value

EVIDENCE_BYTES_MAX: Final = 524_288
"""Two entries, whose quotes are escaped once more inside, and two small records."""

Fault: TypeAlias = Literal["omitted", "outbid"]


class Proven(Value):
    """A fault of ``auctioneer``'s against ``provider``, proven. Scores are micro-credits; the smaller one is better."""

    fault: Fault
    auctioneer: NodeId
    provider: AccountId
    bid: Digest
    award: EntryId
    ask: Digest
    score: Count
    winner_score: Count
    message: str


class ScoringRule(Protocol):
    """The award contract's order, and whom it lets win."""

    def score(self, bid: Bid, ask: Ask) -> int: ...
    def check_ask(self, bid: Bid, ask: Ask, offer: Offer) -> None:
        """Raises a Refusal that says why this ask cannot win this bid."""
        ...


class _Place(NamedTuple):
    score: int
    digest: Digest


def judge(evidence: Evidence, rule: ScoringRule) -> Proven:
    """What ``evidence`` proves under ``rule``, award/v1. Raises a Refusal, as listed above, where it proves nothing."""
    entry, award = _check_pieces(evidence)
    bid, ask = award.bid, evidence.ask.body
    own, winner = _place(rule, bid, ask), _place(rule, bid, award.winner.body)
    if own.digest in award.asks:
        _check_eligible(evidence, bid, rule)
        if own >= winner:  # 10
            raise Conflict("the winner's ask is the better one", param="ask", reason="not_better")
        fault: Fault = "outbid"
        message = f"the award went to a score of {winner.score}, and this ask's is {own.score}"
    else:
        fault = "omitted"
        message = "the auctioneer signed that it received this ask, and left it out of the award"
    return Proven(
        fault=fault,
        auctioneer=bid.auctioneer,
        provider=evidence.ask.signer,
        bid=ask.bid,
        award=entry.id,
        ask=own.digest,
        score=own.score,
        winner_score=winner.score,
        message=message,
    )


def _check_pieces(evidence: Evidence) -> tuple[VerifiedEntry, Award]:
    ask, received = verify(evidence.ask).body, verify(evidence.received).body  # 1
    entry = open_entry(evidence.award.encode())  # 2
    award = canonical.decode(bytes(entry.entry.body), Award, bytes_max=canonical.ENTRY_BYTES_MAX)
    if entry.entry.account != award.bid.client:  # 3
        raise Forbidden("the award is not by the bid's client", param="award", reason="not_client")
    if NodeId(evidence.received.signer) != award.bid.auctioneer:  # 4
        raise Forbidden("the receipt is not by the bid's auctioneer", param="received", reason="not_auctioneer")
    if not ask.bid == received.bid == digest(award.bid):  # 5
        raise Conflict("ask, receipt and award are not of one bid", param="award", reason="other_bid")
    if received.award != entry.id:  # 6
        raise Conflict("the receipt does not stand behind this award", param="received", reason="other_award")
    if digest(ask) not in received.asks:  # 7
        raise Conflict("the receipt does not list this ask", param="received", reason="not_received")
    return entry, award


def _check_eligible(evidence: Evidence, bid: Bid, rule: ScoringRule) -> None:
    ask = evidence.ask
    if evidence.offer is None:  # 8
        raise Malformed("the award lists this ask, and its offer is not shown", param="offer", reason="other_offer")
    entry = open_entry(evidence.offer.encode())
    if entry.id != ask.body.offer or entry.entry.account != ask.signer:
        raise Conflict("the entry shown is not the ask's own offer", param="offer", reason="other_offer")
    offer = canonical.decode(bytes(entry.entry.body), Offer, bytes_max=canonical.ENTRY_BYTES_MAX)
    rule.check_ask(bid, ask.body, offer)  # 9


def _place(rule: ScoringRule, bid: Bid, ask: Ask) -> _Place:
    return _Place(rule.score(bid, ask), digest(ask))
