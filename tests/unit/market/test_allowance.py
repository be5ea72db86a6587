"""What an API key may do: so many requests and tokens a minute, and no more, whatever the order of calls."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.domain.errors import Exhausted, Forbidden, Unauthorised
from wwwmarket.market.allowance import MINUTE_MS, NO_LIMITS, Allowance, Bucket, Limits

NOW = 1_700_000_000_000
GAPS = st.lists(st.integers(0, 20_000), min_size=1, max_size=80)


@given(limit=st.integers(1, 50), gaps=GAPS)
def test_no_minute_sees_more_than_its_burst_and_its_rate(limit, gaps):
    """In any stretch of t ms at most L + t x L / 60,000 requests are let in (the bucket's bound)."""
    bucket, now, let_in = Bucket(limit), NOW, []
    for gap in gaps:
        now += gap
        if bucket.wait_ms(now) == 0:
            bucket.pour(now, 1)
            let_in.append(now)
    for first, start in enumerate(let_in):
        for count, end in enumerate(let_in[first:], 1):
            assert count * MINUTE_MS <= limit * MINUTE_MS + (end - start) * limit


@given(limit=st.integers(1, 100), gaps=GAPS)
def test_whoever_waits_as_long_as_told_is_let_in_and_not_a_millisecond_before(limit, gaps):
    """``wait_ms`` is exact."""
    bucket, now = Bucket(limit), NOW
    for gap in gaps:
        now += gap
        wait_ms = bucket.wait_ms(now)
        if wait_ms:
            assert bucket.wait_ms(now + wait_ms - 1) == 1
            now += wait_ms
        assert bucket.wait_ms(now) == 0
        bucket.pour(now, 1)


def test_a_burst_of_the_limit_is_let_in_and_the_next_waits():
    """Sixty a minute: sixty at once, then one a second."""
    allowance = Allowance(Limits(requests_per_minute=60))
    for _ in range(60):
        allowance.admit(NOW, "m")
    with pytest.raises(Exhausted, match="60 requests a minute") as refused:
        allowance.admit(NOW, "m")
    assert (refused.value.retry_after_ms, refused.value.reason) == (1_000, "requests_per_minute")
    allowance.admit(NOW + 1_000, "m")


def test_tokens_over_the_limit_are_waited_for():
    """One long answer may go over; the next request waits until it has drained, and refusals cost nothing."""
    allowance = Allowance(Limits(tokens_per_minute=100, requests_per_minute=2))
    allowance.admit(NOW, "m")
    allowance.used(NOW, 200)
    for _ in range(5):
        with pytest.raises(Exhausted) as refused:
            allowance.admit(NOW, "m")
    assert refused.value.reason == "tokens_per_minute"
    allowance.admit(NOW + refused.value.retry_after_ms, "m")


def test_a_clock_that_goes_back_gives_nothing_away():
    """Time before the latest call counts as that call's."""
    bucket = Bucket(1)
    bucket.pour(NOW, 1)
    assert bucket.wait_ms(NOW - 5_000) == MINUTE_MS
    bucket.pour(NOW - 5_000, 1)
    assert bucket.wait_ms(NOW) == 2 * MINUTE_MS


def test_a_key_is_for_its_models_until_it_expires():
    """Other models are forbidden by name; an expired key is no key."""
    allowance = Allowance(Limits(models=("a", "b"), expires_ms=NOW + 1))
    allowance.admit(NOW, "a")
    with pytest.raises(Forbidden, match="a, b"):
        allowance.admit(NOW, "c")
    with pytest.raises(Unauthorised, match="expired"):
        allowance.admit(NOW + 1, "a")


@pytest.mark.parametrize(("asked", "limit", "cap"), [(None, None, None), (5, None, 5), (None, 7, 7), (9, 7, 7)])
def test_the_lower_price_cap_holds(asked, limit, cap):
    """The client's, the key's, or the smaller of both."""
    assert Allowance(Limits(price_max_micro=limit)).cap_micro(asked) == cap


def test_without_limits_everything_is_let_in():
    """As for the node's own account."""
    allowance = Allowance(NO_LIMITS)
    for _ in range(1_000):
        allowance.admit(NOW, "m")
        allowance.used(NOW, 10**9)
