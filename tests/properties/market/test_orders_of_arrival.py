"""Whatever the order in which things happen, the machines keep what they promise."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transcripts.stages import BuyerStage, ExecutorStage
from tests.unit.rules.world import (
    NOW,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    key,
    make_ask,
    make_bid,
    make_offer,
    named,
    prices,
)
from wwwmarket.domain.book import ListedOffer
from wwwmarket.market import auction, award, execution

BID = make_bid()
PEOPLE = (PROVIDER, RIVAL, STRANGER, key("fourth"))
CANDIDATES = tuple(
    auction.Candidate(offer=named(person.account), listed=ListedOffer(provider=person.account, offer=make_offer()))
    for person in PEOPLE
)


def answer(place: int, price: int | None) -> auction.Event:
    person, offer = PEOPLE[place], CANDIDATES[place].offer
    if price is None:
        return auction.AskMissing(at_ms=NOW, offer=offer, declined=True, reason="no")
    ask = make_ask(person, BID, offer, prices=prices(price, 25_000, 300_000))
    return auction.AskArrived(at_ms=NOW, offer=offer, ask=ask)


def decide(events) -> auction.Decided:
    machine = auction.Auction(BID, CANDIDATES, REGISTRY.current.award, ask_timeout_ms=150)
    machine.step(auction.Opened(at_ms=NOW))
    effects = [effect for event in events for effect in machine.step(event)]
    effects += machine.step(auction.DeadlineReached(at_ms=NOW + 150))
    (decided,) = [effect for effect in effects if isinstance(effect, auction.Decided)]
    return decided


@given(st.lists(st.sampled_from([None, 100_000, 150_000, 200_000, 900_000]), min_size=1, max_size=4), st.data())
def test_an_auction_does_not_depend_on_the_order_of_arrival(answers, data):
    """Any order of the same answers has the same outcome, and each asked provider is judged exactly once."""
    events = [answer(place, price) for place, price in enumerate(answers)]
    first = decide(events)
    assert decide(data.draw(st.permutations(events))) == first
    assert sorted(one.provider for one in first.judged) == sorted(person.account for person in PEOPLE)


EXECUTOR_WORDS = (
    "promised",
    "promised other-operator",
    "promised other-entry",
    "promise-overdue",
    "engine-started text/plain",
    "engine-said a",
    "engine-role b",
    "engine-finished 10+1",
    "engine-refused 400",
    "engine-broke x",
    "cancel",
)


@settings(max_examples=300)
@given(st.sampled_from(["ordered", "ordered other-request"]), st.lists(st.sampled_from(EXECUTOR_WORDS), max_size=12))
def test_an_execution_attests_once_and_lets_nothing_out_before_the_promise(first, words):
    """In any order of events: nothing before the true promise, one attestation at the end of all, what was let out
    and no more is charged when cancelled, and nothing for a failure.
    """
    stage = ExecutorStage()
    told: list[execution.Effect] = []
    promised = False
    for line in (first, *words):
        promised = promised or line == "promised"
        stage.now_ms += 1
        effects = stage.machine.step(stage.read(line.split()))
        if not promised:
            assert not any(isinstance(effect, execution.SendStart | execution.SendPiece) for effect in effects)
        told += effects
    attested = [effect for effect in told if isinstance(effect, execution.Attest)]
    assert len(attested) == stage.machine.over
    if attested:
        assert told[-1] is attested[0]
        said = attested[0].attestation.body
        out = sum(effect.tokens for effect in told if isinstance(effect, execution.SendPiece))
        assert said.outcome != "failed" or said.usage.output_tokens == 0
        assert said.outcome != "cancelled" or said.usage.output_tokens == min(out, 4)


BUYER_WORDS = (
    "included {}",
    "answer {}",
    "piece {} hello",
    "role {} hello",
    "broken {} x",
    "overdue {}",
    "refused {} chain",
    "refused {} credit",
    "attested {} completed by provider 10+2",
    "attested {} failed by rival",
    "attested {} cancelled by stranger 10+1",
    "attested {} failed by provider status",
    "gone",
)


@settings(max_examples=300)
@given(st.lists(st.tuples(st.sampled_from(BUYER_WORDS), st.integers(1, 3)), max_size=16))
def test_a_buyer_ends_once_and_changes_nothing_that_was_delivered(words):
    """In any order of events: one end at most and last of all, no second award after something was delivered, one
    beginning of the answer, and no more attempts than allowed, beside those whose award lost its place in the chain.
    """
    stage = BuyerStage()
    told = stage.machine.step(award.Begun(at_ms=NOW))
    for word, attempt in words:
        effects = stage.machine.step(stage.read(word.format(attempt).split()))
        for effect in told[-1:] + effects:
            if isinstance(effect, award.SignAward):
                name = named(f"award {effect.attempt}")
                effects = [*effects, *stage.machine.step(award.AwardSigned(at_ms=NOW, award=name))]
        told += effects
    kinds = [type(effect) for effect in told]
    ends = [place for place, kind in enumerate(kinds) if kind in {award.Finish, award.Fail}]
    assert len(ends) == stage.machine.over
    assert all(place == len(kinds) - 1 for place in ends)
    assert kinds.count(award.Start) <= 1
    assert kinds.count(award.SignAward) <= 3 + award.PLACES_LOST_MAX
    if award.Deliver in kinds:
        assert award.SignAward not in kinds[kinds.index(award.Deliver) :]
