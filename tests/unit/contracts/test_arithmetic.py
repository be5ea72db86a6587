"""The arithmetic of award/v1 and settlement/v1 against exact fractions and a dumb search."""

from fractions import Fraction
from math import ceil

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    REGISTRY,
    RIVAL,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    named,
    prices,
    usage,
)
from wwwmarket.domain.errors import Conflict, Refusal
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE, Slo

award_v1, settlement_v1 = REGISTRY.current.award, REGISTRY.current.settlement
OFFER, RIVAL_OFFER, AWARD = named("the offer"), named("the rival's offer"), named("the award")

price = st.integers(0, 10**12) | st.integers(0, 2_000_000)
tokens = st.integers(0, 2**32) | st.integers(0, 5_000)


@st.composite
def price_lists(draw, most=None):
    """Prices whose cached input is at most the input, and none above ``most``."""
    top = most or prices(10**12, 10**12, 10**12)
    input_price = min(draw(price), top.input_micro_per_mtok)
    cached = min(draw(price), input_price, top.cached_input_micro_per_mtok)
    return prices(input_price, cached, min(draw(price), top.output_micro_per_mtok))


@st.composite
def usages(draw):
    input_tokens = draw(tokens)
    return usage(input_tokens, min(draw(tokens), input_tokens), draw(tokens))


@st.composite
def auctions(draw):
    """A bid, a winner's ask and offer, and perhaps a runner-up; every price cap, also ones just met."""
    offer = make_offer(prices=draw(price_lists()))
    input_max, output_max = draw(tokens), draw(tokens)
    bid = make_bid(
        input_tokens=draw(st.integers(0, input_max)),
        max_input_tokens=input_max,
        expected_output_tokens=draw(st.integers(0, output_max)),
        max_output_tokens=output_max,
        max_price_micro=INTEGER_MAX,
        time_value_micro_per_s=draw(st.integers(0, INTEGER_MAX) | st.integers(0, 100)),
    )
    latency = st.integers(0, INTEGER_MAX) | st.integers(0, 20_000)
    ask = make_ask(PROVIDER, bid, OFFER, prices=draw(price_lists(offer.prices)), predicted_finish_ms=draw(latency)).body
    rival = make_ask(RIVAL, bid, RIVAL_OFFER, prices=draw(price_lists()), predicted_finish_ms=draw(latency)).body
    low, high = award_v1.lock(bid, ask.prices), award_v1.lock(bid, offer.prices)
    bid = replace(bid, max_price_micro=draw(st.sampled_from([low, low + 1, (low + high) // 2, high, INTEGER_MAX])))
    return bid, ask, offer, draw(st.sampled_from([None, rival]))


@given(price_lists(), usages())
def test_cost_is_the_exact_fraction_rounded_up_once(listed, used):
    """A cost is the exact sum over the token classes, rounded up once, in both contracts alike, and fits an integer."""
    exact = Fraction(
        (used.input_tokens - used.cached_input_tokens) * listed.input_micro_per_mtok
        + used.cached_input_tokens * listed.cached_input_micro_per_mtok
        + used.output_tokens * listed.output_micro_per_mtok,
        1_000_000,
    )
    assert award_v1.cost(listed, used) == settlement_v1.cost(listed, used) == ceil(exact) <= INTEGER_MAX


def test_one_token_at_the_lowest_price_costs_one():
    """What is not free costs at least a micro-credit."""
    assert award_v1.cost(prices(1, 0, 0), usage(1, 0, 0)) == 1
    assert award_v1.cost(prices(1, 0, 0), usage(1, 1, 0)) == 0
    assert award_v1.cost(prices(1, 1, 1), usage(500_000, 0, 500_001)) == 2


@given(auctions())
def test_the_winner_is_paid_between_its_ask_and_its_offer(auction):
    """Each clearing price lies between ask and offer, cached input costs no more than input, the lock fits the cap."""
    bid, ask, offer, runner_up = auction
    clearing = award_v1.clear(bid, ask, offer, runner_up)
    for field in clearing.prices.__struct_fields__:
        assert getattr(ask.prices, field) <= getattr(clearing.prices, field) <= getattr(offer.prices, field)
    assert clearing.prices.cached_input_micro_per_mtok <= clearing.prices.input_micro_per_mtok
    assert clearing.locked_micro == award_v1.lock(bid, clearing.prices) <= bid.max_price_micro


def at_share(ask, offer, share_ppm):
    return prices(
        *(
            getattr(ask.prices, field)
            + (getattr(offer.prices, field) - getattr(ask.prices, field)) * share_ppm // 10**6
            for field in ask.prices.__struct_fields__
        )
    )


@given(auctions())
def test_the_clearing_share_is_the_largest_allowed(auction):
    """The prices are those of the largest share, in whole ppm, that the runner-up, the offer and the cap allow."""
    bid, ask, offer, runner_up = auction
    expected = usage(bid.input_tokens, 0, bid.expected_output_tokens)
    asked, listed = award_v1.cost(ask.prices, expected), award_v1.cost(offer.prices, expected)
    due = listed
    if runner_up is not None:
        own_time = award_v1.score(bid, ask) - asked
        due = max(asked, min(listed, award_v1.score(bid, runner_up) - own_time))
    tied_ppm = Fraction(due - asked, listed - asked) * 10**6 // 1 if listed > asked else 0
    clearing = award_v1.clear(bid, ask, offer, runner_up)
    assert award_v1.cost(clearing.prices, expected) <= max(due, asked)
    if award_v1.lock(bid, at_share(ask, offer, tied_ppm)) <= bid.max_price_micro:
        assert clearing.prices == at_share(ask, offer, tied_ppm)
        return
    shares = [share for share in range(0, 10**6, 10**6 // 64) if share <= tied_ppm]
    fitting = [share for share in shares if award_v1.lock(bid, at_share(ask, offer, share)) <= bid.max_price_micro]
    assert clearing.locked_micro >= award_v1.lock(bid, at_share(ask, offer, fitting[-1]))


def test_the_cap_shrinks_the_share_to_the_last_part_per_million():
    """Where the maximum price binds, one part per million more would lock too much."""
    bid = make_bid(max_input_tokens=2**32 // 2, max_output_tokens=2**32 // 2, max_price_micro=1_000_000_007)
    offer, ask = make_offer(), make_ask(PROVIDER, bid, OFFER).body
    clearing = award_v1.clear(bid, ask, offer, None)
    share = next(s for s in range(10**6) if award_v1.lock(bid, at_share(ask, offer, s + 1)) > bid.max_price_micro)
    assert clearing.prices == at_share(ask, offer, share)


@given(auctions(), st.integers(0, 1_000_000))
def test_the_winner_s_own_ask_does_not_set_its_price(auction, shade_ppm):
    """Second score: a winner that asks less, and so still wins, is paid no more than rounding allows for it."""
    bid, ask, offer, runner_up = auction
    if runner_up is None or award_v1.score(bid, ask) > award_v1.score(bid, runner_up):
        return
    bid = replace(bid, max_price_micro=INTEGER_MAX)
    lower = replace(
        ask, prices=at_share(replace(ask, prices=prices(0, 0, 0)), replace(offer, prices=ask.prices), shade_ppm)
    )
    expected = usage(bid.input_tokens, 0, bid.expected_output_tokens)
    listed = award_v1.cost(offer.prices, expected)
    honest = award_v1.cost(award_v1.clear(bid, ask, offer, runner_up).prices, expected)
    shaded = award_v1.cost(award_v1.clear(bid, lower, offer, runner_up).prices, expected)
    # One part per million of the way, and one micro-credit per million tokens of each class.
    assert abs(honest - shaded) <= listed // 10**6 + 2 * (2**32 // 10**6 + 2)


def test_the_slo_bounds_the_first_token_and_the_finish():
    """An ask meets the objective up to its exact milliseconds, and not one later."""
    bid = make_bid(slo=Slo(ttft_ms=1_000, tpot_ms=50))
    just = make_ask(PROVIDER, bid, OFFER, predicted_ttft_ms=1_000, predicted_finish_ms=16_000).body
    assert award_v1.meets_slo(bid, just)
    assert not award_v1.meets_slo(bid, replace(just, predicted_ttft_ms=1_001))
    assert not award_v1.meets_slo(bid, replace(just, predicted_finish_ms=16_001))


def test_check_ask_says_why_an_ask_cannot_win():
    """The market learns by the contract's own check whether an ask may win, and why not."""
    bid, offer = make_bid(), make_offer()
    award_v1.check_ask(bid, make_ask(PROVIDER, bid, OFFER).body, offer)
    with pytest.raises(Conflict, match="latencies miss") as refused:
        award_v1.check_ask(bid, make_ask(PROVIDER, bid, OFFER, predicted_ttft_ms=9_999).body, offer)
    assert refused.value.reason == "slo_missed"


@given(auctions())
def test_what_clears_can_be_locked(auction):
    """An ask that passes the check clears to an award that the contract's own arithmetic accepts."""
    bid, ask, offer, runner_up = auction
    try:
        award_v1.check_ask(bid, ask, offer)
    except Refusal:
        return
    clearing = award_v1.clear(bid, ask, offer, runner_up)
    assert award_v1.clear(bid, ask, offer, runner_up) == clearing
    assert award_v1.lock(bid, ask.prices) <= clearing.locked_micro <= award_v1.lock(bid, offer.prices)


@given(usages(), usages() | st.none(), st.sampled_from(["completed", "cancelled", "failed"]))
def test_payment_is_bounded_by_the_lock_and_by_both_counts(attested, received, outcome):
    """Nobody pays for more than either side counted, more than the bounds, or more than was locked."""
    bid, offer = make_bid(), make_offer()
    award = make_award(bid, make_ask(PROVIDER, bid, OFFER), offer, None)
    attestation = make_attestation(PROVIDER, AWARD, usage=attested, outcome=outcome).body
    receipt = None if received is None else make_receipt(CLIENT, AWARD, usage=received, latency_ms=900).body
    counted = settlement_v1.count(award, attestation, receipt)
    sides = [attested, received or attested]
    assert counted.input_tokens == min(bid.max_input_tokens, *(side.input_tokens for side in sides))
    assert counted.output_tokens == min(bid.max_output_tokens, *(side.output_tokens for side in sides))
    assert counted.cached_input_tokens <= counted.input_tokens
    paid = settlement_v1.payment(award, attestation, receipt)
    expected = 0 if outcome == "failed" else settlement_v1.cost(award.prices, counted)
    assert paid == expected <= award.locked_micro


def test_the_lock_covers_the_dearest_count():
    """What is locked is what the bid's bounds cost, so that an honest count is never cut."""
    bid = make_bid()
    award = make_award(bid, make_ask(PROVIDER, bid, OFFER), make_offer(), None, claim_after_ms=NOW)
    most = make_attestation(PROVIDER, AWARD, usage=usage(bid.max_input_tokens, 0, bid.max_output_tokens)).body
    assert settlement_v1.payment(award, most, None) == award.locked_micro
    assert settlement_v1.payment(award, replace(most, usage=NO_USAGE), None) == 0
