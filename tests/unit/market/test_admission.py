"""The last places of a provider that is nearly full: for whom, and that nobody else notices."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.market.admission import REMEMBERED, Admission, threshold_micro_per_s

worths = st.lists(st.integers(0, 1_000), min_size=1, max_size=REMEMBERED)


@given(st.integers(0, 1_000), st.integers(1, REMEMBERED), st.integers(0, 64), st.integers(1, 64))
def test_equal_values_are_all_admitted(worth, bids, taken, places):
    """Where a second is worth the same to everybody, nobody is turned away, whatever is taken."""
    admission = Admission()
    assert all(admission.admits(worth, taken=taken, places=places) for _ in range(bids))


@given(worths, st.integers(1, 64))
def test_the_threshold_rises_with_occupancy(recent, places):
    """From nothing while other places are free, never down, and never above what somebody bid."""
    thresholds = [threshold_micro_per_s(recent, taken, places) for taken in range(places + 1)]
    assert thresholds == sorted(thresholds)
    assert max(thresholds) <= max(recent)
    assert not any(thresholds[: places - places // 4])


@given(worths, st.integers(0, 64), st.integers(1, 64), st.randoms())
def test_the_order_of_bids_does_not_matter(recent, taken, places, chance):
    """The same bids have the same threshold in any order."""
    shuffled = list(recent)
    chance.shuffle(shuffled)
    assert threshold_micro_per_s(recent, taken, places) == threshold_micro_per_s(shuffled, taken, places)


@pytest.mark.parametrize(("taken", "threshold"), [(0, 0), (11, 0), (12, 7), (13, 14), (14, 21), (15, 28), (16, 28)])
def test_the_last_place_is_for_those_above_the_mean(taken, threshold):
    """Sixteen places, one bid in five worth ten times the others: the mean is reached with the last."""
    assert threshold_micro_per_s([10, 10, 10, 10, 100] * 4, taken, 16) == threshold


@given(st.integers(1, 1_000), st.integers(0, 6), st.integers(0, 16))
def test_a_few_that_claim_a_fortune_turn_nobody_away(worth, liars, taken):
    """Up to a tenth of the bids may claim anything: all others have what they had."""
    recent = [worth] * (REMEMBERED - liars) + [2**53 - 1] * liars
    assert threshold_micro_per_s(recent, taken, 16) <= worth


def test_a_small_provider_reserves_nothing():
    """Below four places there is none to spare."""
    assert not any(threshold_micro_per_s([1, 1_000], taken, 3) for taken in range(4))


def serve(*, admitting: bool) -> dict[int, float]:
    """Twice what sixteen places can do, one bid in five worth ten times the others: shares that were served."""
    chance, admission = Random(1), Admission()
    free_at: list[float] = []
    came, served = {10: 0, 100: 0}, {10: 0, 100: 0}
    now = 0.0
    for _ in range(20_000):
        now += chance.expovariate(32.0)
        free_at = [at for at in free_at if at > now]
        worth = 100 if chance.random() < 0.2 else 10
        came[worth] += 1
        admitted = admission.admits(worth, taken=len(free_at), places=16) or not admitting
        if admitted and len(free_at) < 16:
            served[worth] += 1
            free_at.append(now + chance.expovariate(1.0))
    return {worth: served[worth] / came[worth] for worth in came}


def test_under_overload_the_valuable_is_served_first():
    """At twice the capacity nearly all that is worth most is served, where otherwise half of it was: worth far more in
    all, at the price of places that stand empty for it, which are an eighth at most even where nobody queues.
    """
    first_come, by_worth = serve(admitting=False), serve(admitting=True)
    assert first_come[100] < 0.6
    assert by_worth[100] > 0.9
    served = [0.8 * one[10] + 0.2 * one[100] for one in (first_come, by_worth)]
    worth = [8 * one[10] + 20 * one[100] for one in (first_come, by_worth)]
    assert served[1] > 0.875 * served[0]
    assert worth[1] > 1.4 * worth[0]
