"""Evidence against an auctioneer: what proves its fault, and that nothing else does."""

import pytest
from msgspec.structs import replace

from tests.unit.market.accused import (
    ASK,
    AUCTIONEER,
    BID,
    OFFER_ENTRY,
    RULE,
    WORSE,
    award_to_the_worse,
    evidence_of,
    receipt,
    text,
)
from tests.unit.rules.world import CLIENT, PROVIDER, RIVAL, STRANGER, make_ask, make_award, make_bid, make_offer
from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import entry_id, sign, sign_entry
from wwwmarket.domain.errors import Malformed, Refusal, Unauthorised
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Evidence
from wwwmarket.market.evidence import EVIDENCE_BYTES_MAX, judge

OMITTING, OUTBIDDING = award_to_the_worse(listed=False), award_to_the_worse()


def refusal_of(evidence) -> Refusal:
    with pytest.raises(Refusal) as refused:
        judge(evidence, RULE)
    return refused.value


def test_an_omission_is_proven_without_the_offer():
    """A receipt that lists the ask and stands behind an award without it is enough."""
    proven = judge(evidence_of(OMITTING, offer=None), RULE)
    assert (proven.fault, proven.auctioneer, proven.provider) == ("omitted", AUCTIONEER.account, PROVIDER.account)
    assert (proven.award, proven.ask) == (entry_id(OMITTING), digest(ASK.body))


def test_a_better_ask_outbid_is_proven_with_both_scores():
    """The ask could have won under its offer, and its score is the smaller one."""
    proven = judge(evidence_of(OUTBIDDING), RULE)
    assert proven.fault == "outbid"
    assert (proven.score, proven.winner_score) == (RULE.score(BID, ASK.body), RULE.score(BID, WORSE.body))
    assert proven.score < proven.winner_score


def test_evidence_survives_its_bytes():
    """What is written to a file and read again proves the same."""
    evidence = evidence_of(OUTBIDDING)
    read = canonical.decode(canonical.encode(evidence), Evidence, bytes_max=EVIDENCE_BYTES_MAX)
    assert judge(read, RULE) == judge(evidence, RULE)


def test_the_better_ask_that_won_proves_nothing():
    """An honest award to this very ask."""
    award = replace(make_award(BID, ASK, make_offer(), None), asks=tuple(sorted((digest(ASK.body),))))
    entry = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=award)
    assert refusal_of(evidence_of(entry)).reason == "not_better"


def test_the_worse_ask_cannot_complain():
    """An honest award, and the loser's complaint about it."""
    asks = tuple(sorted((digest(ASK.body), digest(WORSE.body))))
    entry = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=make_award(BID, ASK, make_offer(), None, asks=asks))
    own = sign_entry(RIVAL, seq=0, prev=NO_ENTRY, body=make_offer())
    loser = make_ask(RIVAL, BID, entry_id(own), predicted_finish_ms=12_000)
    listing = receipt(entry_id(entry), asks=tuple(sorted((*asks, digest(loser.body)))))
    award = sign_entry(
        CLIENT, seq=0, prev=NO_ENTRY, body=make_award(BID, ASK, make_offer(), None, asks=listing.body.asks)
    )
    received = receipt(entry_id(award), asks=listing.body.asks)
    evidence = Evidence(ask=loser.signed, received=received.signed, award=text(award), offer=text(own))
    assert refusal_of(evidence).reason == "not_better"


@pytest.mark.parametrize(
    "changes",
    [
        {"ask": replace(ASK.signed, signer=RIVAL.account)},
        {"ask": replace(ASK.signed, body=replace(ASK.body, predicted_finish_ms=1))},
        {"received": replace(receipt(entry_id(OMITTING)).signed, signature="0" * 128)},
        {"award": text(replace(OMITTING, signature="0" * 128))},
    ],
    ids=["another's ask", "a changed ask", "a forged receipt", "a forged award"],
)
def test_forged_pieces_are_not_accepted(changes):
    """Each signature must be its signer's, over exactly what is shown."""
    assert isinstance(refusal_of(evidence_of(OMITTING, **changes)), Unauthorised)


@pytest.mark.parametrize("leaf", ["", "{}", text(OMITTING)[:-1], text(OFFER_ENTRY)])
def test_what_is_no_award_is_not_accepted(leaf):
    """The award is the canonical text of an award's entry."""
    assert isinstance(refusal_of(evidence_of(OMITTING, award=leaf)), Malformed)


def foreign(bid):
    """An award of another bid, whose receipt stands behind it."""
    worse = make_ask(RIVAL, bid, WORSE.body.offer)
    entry = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=make_award(bid, worse, make_offer(), None))
    return entry, receipt(entry_id(entry), bid=digest(bid)).signed


def test_pieces_of_two_auctions_are_not_accepted():
    """An ask of one bid, and receipt and award of another: each combination is refused."""
    entry, received = foreign(make_bid(input_tokens=7))
    assert refusal_of(evidence_of(OMITTING, award=text(entry), received=received)).reason == "other_bid"
    assert refusal_of(evidence_of(OMITTING, received=received)).reason == "other_bid"
    assert refusal_of(evidence_of(OMITTING, award=text(entry))).reason == "other_bid"


def test_a_strangers_pieces_are_not_accepted():
    """A receipt by somebody else than the bid's auctioneer, an award by somebody else than its client."""
    by_stranger = receipt(entry_id(OMITTING), STRANGER).signed
    assert refusal_of(evidence_of(OMITTING, received=by_stranger)).reason == "not_auctioneer"
    award = make_award(BID, WORSE, make_offer(), None)
    foreign_entry = sign_entry(STRANGER, seq=0, prev=NO_ENTRY, body=award)
    assert refusal_of(evidence_of(foreign_entry)).reason == "not_client"


@pytest.mark.parametrize("named", [None, "0" * 64])
def test_a_receipt_that_stands_behind_another_award_proves_nothing(named):
    """After a failover the award that is left rightly passes over the first winner."""
    assert refusal_of(evidence_of(OMITTING, received=receipt(named).signed)).reason == "other_award"


def test_an_ask_that_was_not_received_proves_nothing():
    """The receipt does not list it: it came too late."""
    received = receipt(entry_id(OMITTING), asks=(digest(WORSE.body),)).signed
    assert refusal_of(evidence_of(OMITTING, received=received)).reason == "not_received"


@pytest.mark.parametrize(
    "offer",
    [
        None,
        text(sign_entry(PROVIDER, seq=1, prev=NO_ENTRY, body=make_offer())),
        text(sign_entry(RIVAL, seq=0, prev=NO_ENTRY, body=make_offer())),
    ],
)
def test_an_ask_needs_its_own_offer(offer):
    """Without the very offer that the ask names nobody can see that it could have won."""
    assert refusal_of(evidence_of(OUTBIDDING, offer=offer)).reason == "other_offer"


def test_anothers_offer_does_not_make_an_ask_eligible():
    """The offer that the ask names must be its signer's."""
    foreign_ask = sign(RIVAL, ASK.body)
    assert refusal_of(evidence_of(OUTBIDDING, ask=foreign_ask.signed)).reason == "other_offer"


def test_an_ask_that_could_not_win_was_not_outbid():
    """It misses the objective, however small its score."""
    ask = make_ask(PROVIDER, BID, entry_id(OFFER_ENTRY), predicted_ttft_ms=10_000)
    asks = tuple(sorted((digest(ask.body), digest(WORSE.body))))
    award = replace(make_award(BID, WORSE, make_offer(), None), asks=asks)
    entry = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=award)
    evidence = evidence_of(entry, ask=ask.signed, received=receipt(entry_id(entry), asks=asks).signed)
    assert refusal_of(evidence).reason == "slo_missed"
