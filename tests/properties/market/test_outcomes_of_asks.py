"""What a provider learns does not depend on the order in which it learns it, and its evidence holds."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.market.accused import ASK, BID, BOTH, OFFER_ENTRY, RULE, WORSE, award_to_the_worse, receipt, text
from tests.unit.rules.world import CLIENT, NOW, make_award, make_offer
from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import entry_id, sign_entry
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.records import Award, Evidence
from wwwmarket.market.evidence import judge
from wwwmarket.market.outcomes import Accuse, AskMade, AwardSeen, Concluded, Outcomes, ReceiptArrived, TimeMoved

HONEST = sign_entry(CLIENT, seq=0, prev=NO_ENTRY, body=make_award(BID, ASK, make_offer(), None, asks=BOTH))
ENTRIES = (HONEST, award_to_the_worse(), award_to_the_worse(listed=False))
NAMES = st.sampled_from([None, *map(entry_id, ENTRIES)])
LISTED = st.sampled_from([BOTH, (digest(ASK.body),), (digest(WORSE.body),), ()])


@st.composite
def stories(draw):
    """At most one receipt, some awards in the ledger's places, time; and two orders in which they are learnt."""
    awards = [
        AwardSeen(index=index, name=entry_id(entry), bid=digest(BID), award=canonical.decode(bytes(entry.body), Award))
        for index, entry in enumerate(draw(st.lists(st.sampled_from(ENTRIES), unique_by=id)))
    ]
    receipts = [ReceiptArrived(received=receipt(draw(NAMES), asks=draw(LISTED)))] if draw(st.booleans()) else []
    events = [*awards, *receipts, TimeMoved(at_ms=NOW + 10)]
    return draw(st.permutations(events)), draw(st.permutations(events))


def play(ask, events):
    machine = Outcomes(RULE, patience_ms=10, kept_ms=100)
    made = AskMade(at_ms=NOW, bid=BID, ask=ask.signed, terms=make_offer())
    effects = [effect for event in (made, *events) for effect in machine.step(event)]
    return effects, dict(+machine._tally)


@given(stories(), st.sampled_from([ASK, WORSE]))
def test_the_last_verdict_does_not_depend_on_the_order(story, ask):
    """Receipts, awards and time in two orders: the same verdict at the end, counted once."""
    ends = []
    for events in story:
        effects, tally = play(ask, events)
        last = [effect.outcome for effect in effects if isinstance(effect, Concluded)][-1]
        assert tally == {last.verdict: 1}
        ends.append(last)
    assert ends[0] == ends[1]


@given(stories())
def test_every_accusation_is_proven_by_its_evidence(story):
    """Whatever the machine accuses of, the judge finds proven, by the same name."""
    for events in story:
        effects, _ = play(ASK, events)
        for before, effect in pairwise(effects):
            if isinstance(effect, Accuse):
                award = next(
                    entry
                    for seen in events
                    if isinstance(seen, AwardSeen) and seen.index == effect.award_index
                    for entry in ENTRIES
                    if entry_id(entry) == seen.name
                )
                evidence = Evidence(
                    ask=effect.ask, received=effect.received, award=text(award), offer=text(OFFER_ENTRY)
                )
                assert judge(evidence, RULE).fault == before.outcome.verdict
