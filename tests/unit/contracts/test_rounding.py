"""How amounts are rounded, row by row of the table in docs/money.md: against exact fractions."""

from fractions import Fraction
from math import ceil, floor
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    REGISTRY,
    make_ask,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    named,
    prices,
)
from wwwmarket.domain.quantity import Slo
from wwwmarket.domain.standing import Standing

RULES = REGISTRY.current
SETTLEMENT = RULES.settlement_v2
AWARD = named("the award")
DAY_MS = 86_400_000
DOCS = Path(__file__).parents[3] / "docs" / "money.md"

amounts = st.integers(0, 10**12)
shares_ppm = st.integers(0, 1_000_000)
times_ms = st.integers(0, 120_000)


@given(amounts, shares_ppm)
def test_fees_are_rounded_down_and_alike_in_both_contracts(paid, fee_ppm):
    """The provider has what the division leaves over."""
    exact = Fraction(paid * fee_ppm, 1_000_000)
    assert SETTLEMENT.fee(paid, fee_ppm) == RULES.tab.fee(paid, fee_ppm) == floor(exact)


@given(st.integers(0, 10**12), st.integers(0, 10**12))
def test_penalties_are_rounded_up_and_bounded(bond, left):
    """A twentieth of the whole bond, at most what is left: so twenty take it all, and none takes more."""
    left = min(left, bond)
    assert SETTLEMENT.penalty(bond, left) == min(ceil(Fraction(bond, 20)), left)


def late_ms(actual, objective):
    """Over the objective, a tenth of it in whole milliseconds, and a second."""
    return max(0, actual - objective - floor(Fraction(objective, 10)) - 1_000)


@given(
    times_ms, times_ms, times_ms, st.integers(1, 300), st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 400)
)
def test_refunds_are_rounded_down_part_by_part(  # noqa: PLR0917 - one late answer
    ttft_ms, latency_ms, ttft_slo, tpot_slo, cost, time_value, tokens
):
    """The share in parts per million, its part of the cost, the value of the time, and the half that bounds them."""
    bid = make_bid(slo=Slo(ttft_ms=ttft_slo, tpot_ms=tpot_slo), time_value_micro_per_s=time_value)
    award = make_award(bid, make_ask(PROVIDER, bid, named("the offer")), make_offer(), None)
    receipt = make_receipt(CLIENT, AWARD, ttft_ms=ttft_ms, latency_ms=latency_ms).body
    end_ms = ttft_slo + tpot_slo * tokens
    overruns = [(late_ms(ttft_ms, ttft_slo), ttft_slo), (late_ms(latency_ms, end_ms), end_ms)]
    share = min(max(floor(Fraction(over * 10**6, max(objective, 1))) for over, objective in overruns), 10**6)
    predicted = 200 + floor(Fraction(5_800 * tokens, 300))
    worth = floor(Fraction(time_value * late_ms(latency_ms, predicted), 1_000))
    due = min(floor(Fraction(cost * share, 10**6)) + worth, floor(Fraction(cost, 2)))
    assert SETTLEMENT.refund(award, receipt, tokens, cost) == due


@given(amounts, st.integers(1, 60))
def test_a_standing_fades_rounded_down_each_day(amount, days):
    """The same whoever looks when: each day's remainder is gone."""
    expected = amount
    for _ in range(days):
        expected = floor(Fraction(expected * 977_160, 1_000_000))
    day = NOW // DAY_MS
    faded = RULES.reputation.faded(Standing(day=day, kept_micro=amount), NOW + days * DAY_MS)
    assert faded.kept_micro == expected


@given(amounts, amounts, amounts)
def test_a_score_is_rounded_down(kept, missed, silent):
    """To whole parts per million."""
    standing = Standing(day=NOW // DAY_MS, kept_micro=kept, missed_micro=missed, silent_micro=silent)
    exact = Fraction(kept + 800_000, kept + missed + 10 * silent + 1_000_000)
    assert RULES.reputation.reputation(standing, NOW).score_ppm == floor(exact * 10**6)


def test_no_token_is_free():
    """A cost is rounded up, so that dust is paid for."""
    assert RULES.settlement.cost(prices(1, 0, 1), make_receipt(CLIENT, AWARD).body.usage) == 1


def test_the_table_of_the_docs_has_each_of_them():
    """Whoever changes a rule finds its row."""
    text = DOCS.read_text(encoding="utf-8")
    for row in (
        "the cost of an answer | up",
        "the fee | down",
        "a penalty | up",
        "the fee of a tab | down",
        "from one day",
    ):
        assert row in text
