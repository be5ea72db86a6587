"""What becomes of a provider's asks: each verdict from what was seen, in whatever order it came."""

from itertools import permutations

import pytest
from msgspec.structs import replace

from tests.unit.market.accused import ASK, BID, BOTH, RULE, WORSE, award_to_the_worse, receipt
from tests.unit.rules.world import CLIENT, NOW, PROVIDER, STRANGER, make_ask, make_award, make_bid, make_offer, named
from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import entry_id, sign, sign_entry
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Award
from wwwmarket.market import outcomes
from wwwmarket.market.outcomes import Accuse, AskMade, AwardSeen, Concluded, ReceiptArrived, TimeMoved

PATIENCE_MS, KEPT_MS = 10_000, 60_000
MADE = AskMade(at_ms=NOW, bid=BID, ask=ASK.signed, terms=make_offer())
OVERDUE = TimeMoved(at_ms=NOW + PATIENCE_MS)
HONEST = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=make_award(BID, ASK, make_offer(), None, asks=BOTH))


def seen(entry, index=5):
    award = canonical.decode(bytes(entry.body), Award)
    return AwardSeen(index=index, name=entry_id(entry), bid=digest(award.bid), award=award)


def answered(name):
    return ReceiptArrived(received=receipt(name))


def played(*events):
    """A machine after these events, all that it concluded, and whom it accuses."""
    machine = outcomes.Outcomes(RULE, patience_ms=PATIENCE_MS, kept_ms=KEPT_MS)
    effects = [effect for event in events for effect in machine.step(event)]
    concluded = [effect.outcome for effect in effects if isinstance(effect, Concluded)]
    return machine, concluded, [effect for effect in effects if isinstance(effect, Accuse)]


def test_the_winner_knows_at_once():
    """Its award on the ledger is enough."""
    _, (outcome,), accused = played(MADE, seen(HONEST), OVERDUE)
    assert (outcome.verdict, outcome.award, accused) == ("won", entry_id(HONEST), [])
    assert outcome.score == outcome.winner_score


def test_the_loser_learns_both_scores():
    """An honest award needs no receipt: whoever reads it can compute why."""
    made = AskMade(at_ms=NOW, bid=BID, ask=WORSE.signed, terms=make_offer())
    _, (outcome,), accused = played(made, seen(HONEST), OVERDUE)
    assert (outcome.verdict, accused) == ("lost", [])
    assert (outcome.score, outcome.winner_score) == (RULE.score(BID, WORSE.body), RULE.score(BID, ASK.body))
    assert str(outcome.score - outcome.winner_score) in outcome.reason


@pytest.mark.parametrize(("listed", "verdict"), [(False, "omitted"), (True, "outbid")])
def test_a_fault_is_found_in_any_order(listed, verdict):
    """Receipt, award and time may come as they like: the last verdict is the same, and there is evidence."""
    entry = award_to_the_worse(listed=listed)
    for events in permutations((answered(entry_id(entry)), seen(entry), OVERDUE)):
        machine, concluded, (accused,) = played(MADE, *events)
        assert concluded[-1].verdict == verdict
        assert (accused.ask, accused.award_index) == (ASK.signed, 5)
        assert machine.tally[verdict] == sum(machine.tally.values()) == 1


def test_without_a_receipt_nothing_is_proven():
    """It looks like an omission, and the auctioneer signed nothing."""
    _, (outcome,), accused = played(MADE, seen(award_to_the_worse(listed=False)), OVERDUE)
    assert (outcome.verdict, accused) == ("unacknowledged", [])


def test_an_ask_that_came_late_is_unacknowledged():
    """The receipt came, and lists others only."""
    entry = award_to_the_worse(listed=False)
    received = ReceiptArrived(received=receipt(entry_id(entry), asks=(digest(WORSE.body),)))
    _, (outcome,), accused = played(MADE, received, seen(entry), OVERDUE)
    assert (outcome.verdict, accused) == ("unacknowledged", [])
    assert "in time" in outcome.reason


@pytest.mark.parametrize("behind", [None, named("the first award")])
def test_an_auctioneer_that_stands_behind_another_award_is_not_accused(behind):
    """A failover's award, or a client's own choice."""
    _, (outcome,), accused = played(MADE, answered(behind), seen(award_to_the_worse()), OVERDUE)
    assert (outcome.verdict, accused) == ("unproven", [])


def test_where_nothing_was_awarded_nobody_lost():
    """No award was seen in time; one that comes late still counts."""
    _, concluded, _ = played(MADE, answered(None), OVERDUE, seen(HONEST))
    assert [outcome.verdict for outcome in concluded] == ["no_award", "won"]


def test_a_failover_turns_a_loss_into_a_win():
    """The second award of the bid is to the loser of the first."""
    made = AskMade(at_ms=NOW, bid=BID, ask=WORSE.signed, terms=make_offer())
    machine, concluded, accused = played(made, seen(HONEST), seen(award_to_the_worse(), index=6))
    assert ([outcome.verdict for outcome in concluded], accused) == (["lost", "won"], [])
    assert (machine.tally["lost"], machine.tally["won"]) == (0, 1)


def test_the_winner_of_a_failed_award_is_not_outbid():
    """The second award passes over it, rightly."""
    _, concluded, accused = played(MADE, answered(entry_id(HONEST)), seen(HONEST), seen(award_to_the_worse(), index=6))
    assert ([outcome.verdict for outcome in concluded], accused) == (["won"], [])


def test_an_ask_that_could_not_win_has_lost():
    """The reason is the contract's."""
    ask = make_ask(PROVIDER, BID, ASK.body.offer, predicted_ttft_ms=9_000)
    asks = tuple(sorted((digest(ask.body), digest(WORSE.body))))
    entry = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=make_award(BID, WORSE, make_offer(), None, asks=asks))
    received = ReceiptArrived(received=receipt(entry_id(entry), asks=asks))
    _, (outcome,), accused = played(replace(MADE, ask=ask.signed), received, seen(entry))
    assert (outcome.verdict, accused) == ("lost", [])
    assert "objective" in outcome.reason


def test_a_strangers_receipt_says_nothing():
    """Only the bid's auctioneer acknowledges, and only what was asked here."""
    entry = award_to_the_worse()
    forged = ReceiptArrived(received=receipt(entry_id(entry), STRANGER))
    other = ReceiptArrived(received=receipt(entry_id(entry), bid=named("another bid")))
    machine, (outcome,), accused = played(MADE, forged, other, seen(entry), OVERDUE)
    assert (outcome.verdict, accused) == ("unacknowledged", [])
    assert machine.awaits(named("another bid")) is None


def test_an_ask_is_forgotten():
    """Soon nothing of it is in mind."""
    machine, _, _ = played(MADE, seen(HONEST), TimeMoved(at_ms=NOW + KEPT_MS))
    assert machine.idle
    assert machine.awaits(digest(BID)) is None


def test_memory_is_bounded(monkeypatch):
    """The oldest asks give way; a bid repeated fills its own place only; awards of a bid are few."""
    monkeypatch.setattr(outcomes, "ASKS_MAX", 3)
    bids = [make_bid(input_tokens=count) for count in range(5)]
    machine, _, _ = played(
        *(AskMade(at_ms=NOW, bid=bid, ask=make_ask(PROVIDER, bid, OFFER).signed, terms=make_offer()) for bid in bids)
    )
    assert [machine.awaits(digest(bid)) is not None for bid in bids] == [False, False, True, True, True]
    again = [sign(PROVIDER, replace(ASK.body, held_until_ms=NOW + held)) for held in range(20)]
    machine, _, _ = played(*(replace(MADE, ask=ask.signed) for ask in again))
    assert len(machine._asks) <= outcomes.ASKS_PER_BID_MAX
    machine, _, _ = played(MADE, *(replace(seen(HONEST), name=named(str(index)), index=index) for index in range(20)))
    assert len(machine._auctions[digest(BID)].awards) == outcomes.AWARDS_PER_BID_MAX


OFFER = ASK.body.offer
