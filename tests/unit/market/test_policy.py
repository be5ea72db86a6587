"""A provider's own rules: what each of them declines, with which words, and what price they come to."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rules.world import CLIENT, STRANGER
from wwwmarket.domain.errors import Malformed
from wwwmarket.market.offer import Picture
from wwwmarket.market.policy import PRESETS, WEEK_MINUTES, WINDOWS_MAX, Policy, Window, daily

MINUTE_MS = 60_000
MONDAY_MS = 4 * 86_400_000
"""1970-01-05 00:00 UTC."""
WEEKDAYS = range(5)


def seen(**changes) -> Picture:
    picture = {
        "at_ms": MONDAY_MS,
        "client": CLIENT.account,
        "sold": 0,
        "own_running": 0,
        "own_waiting": 0,
        "sequences": 10,
    }
    return Picture(**(picture | changes))


def at(day: int, hour: int, minute: int = 0) -> int:
    """An instant of some week; day 0 is Monday."""
    return MONDAY_MS + 52 * WEEK_MINUTES * MINUTE_MS + ((day * 24 + hour) * 60 + minute) * MINUTE_MS


def test_nothing_is_forbidden_by_default():
    """A policy without rules accepts whatever the picture."""
    assert Policy().decide(seen(sold=9, own_waiting=99)) is None


@pytest.mark.parametrize(
    ("policy", "picture", "reason"),
    [
        (Policy(schedule=daily(60, 120)), {}, "hours"),
        (Policy(never=frozenset({CLIENT.account})), {}, "does not serve"),
        (Policy(only=frozenset({STRANGER.account})), {}, "does not serve"),
        (Policy(own_running_max=1), {"own_running": 2}, "comes first"),
        (Policy(own_waiting_max=0), {"own_waiting": 1}, "is waiting"),
        (Policy(share_ppm=500_000), {"sold": 5}, "all 5 sequences for sale"),
        (Policy(share_ppm=1), {"sold": 1}, "all 1 sequences for sale"),
        (Policy(target_ppm=700_000), {"sold": 4, "own_running": 3}, "as busy as"),
    ],
)
def test_each_rule_declines_with_its_reason(policy, picture, reason):
    """What a rule forbids is declined, in words that name the rule."""
    assert reason in policy.decide(seen(**picture))


@pytest.mark.parametrize(
    ("policy", "picture"),
    [
        (Policy(schedule=daily(0, 60)), {}),
        (Policy(never=frozenset({STRANGER.account})), {}),
        (Policy(only=frozenset({CLIENT.account})), {}),
        (Policy(own_running_max=1), {"own_running": 1}),
        (Policy(own_waiting_max=0), {"own_running": 5}),
        (Policy(share_ppm=500_000), {"sold": 4, "own_running": 5}),
        (Policy(share_ppm=1), {}),
        (Policy(target_ppm=700_000), {"sold": 3, "own_running": 3}),
    ],
)
def test_each_rule_lets_the_rest_pass(policy, picture):
    """Just inside each rule a bid is accepted."""
    assert policy.decide(seen(**picture)) is None


@pytest.mark.parametrize(
    ("instant", "sells"),
    [
        (at(0, 19, 59), False),
        (at(0, 20), True),
        (at(1, 5, 59), True),
        (at(1, 6), False),
        (at(4, 23), True),
        (at(5, 5), True),
        (at(5, 20), False),
        (at(0, 3), False),
    ],
)
def test_a_night_belongs_to_the_day_on_which_it_begins(instant, sells):
    """A window over midnight goes on into the next morning, and not into its own day's."""
    policy = Policy(schedule=daily(20 * 60, 6 * 60, WEEKDAYS))
    assert (policy.decide(seen(at_ms=instant)) is None) == sells


def test_a_sunday_night_ends_on_monday():
    """The last window of a week goes on at its beginning."""
    policy = Policy(schedule=daily(20 * 60, 6 * 60, range(6, 7)))
    assert policy.decide(seen(at_ms=at(7, 5))) is None
    assert policy.decide(seen(at_ms=at(7, 6))) is not None


def test_a_whole_day_is_a_window():
    """From midnight to midnight is a day, and seven of them leave nothing out."""
    policy = Policy(schedule=daily(0, 24 * 60))
    assert all(policy.decide(seen(at_ms=MONDAY_MS + minute * MINUTE_MS)) is None for minute in range(WEEK_MINUTES))


@pytest.mark.parametrize(
    "make",
    [
        lambda: Window(from_minute=-1, until_minute=5),
        lambda: Window(from_minute=WEEK_MINUTES, until_minute=5),
        lambda: Window(from_minute=0, until_minute=WEEK_MINUTES + 1),
        lambda: Window(from_minute=7, until_minute=7),
        lambda: Policy(floor_ppm=1_000_001),
        lambda: Policy(accept_ppm=-1),
        lambda: Policy(floor_ppm=500_000, cap_ppm=400_000),
        lambda: Policy(share_ppm=0),
        lambda: Policy(target_ppm=0),
        lambda: Policy(only=frozenset({CLIENT.account}), never=frozenset({CLIENT.account})),
        lambda: Policy(own_running_max=-1),
        lambda: Policy(own_waiting_max=-1),
        lambda: Policy(schedule=daily(0, 1) * WINDOWS_MAX),
    ],
)
def test_what_no_policy_can_be_is_refused(make):
    """A policy that contradicts itself, or is out of range, does not come to be."""
    with pytest.raises(Malformed):
        make()


def test_too_many_accounts_are_refused(monkeypatch):
    """The lists of accounts are bounded together."""
    monkeypatch.setattr("wwwmarket.market.policy.ACCOUNTS_MAX", 1)
    with pytest.raises(Malformed):
        Policy(only=frozenset({CLIENT.account}), never=frozenset({STRANGER.account}))


def test_the_convex_price_stays_low_for_longer():
    """Linear rises with the load, convex with its square; both begin at the floor and end at the cap."""
    linear = Policy(floor_ppm=200_000, cap_ppm=600_000)
    convex = Policy(floor_ppm=200_000, cap_ppm=600_000, curve="convex")
    assert [linear.price_ppm(sold, 4) for sold in range(6)] == [200_000, 300_000, 400_000, 500_000, 600_000, 600_000]
    assert [convex.price_ppm(sold, 4) for sold in range(6)] == [200_000, 225_000, 300_000, 425_000, 600_000, 600_000]


@given(
    st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)).map(sorted),
    st.sampled_from(["linear", "convex"]),
    st.integers(1, 65_536),
    st.integers(0, 70_000),
)
def test_a_price_lies_between_floor_and_cap_and_never_falls(ends, curve, sequences, sold):
    """Whatever the load: floor ≤ price ≤ cap, and one more sequence sold never makes it cheaper."""
    policy = Policy(floor_ppm=ends[0], cap_ppm=ends[1], curve=curve)
    here, next_one = policy.price_ppm(sold, sequences), policy.price_ppm(sold + 1, sequences)
    assert ends[0] <= here <= next_one <= ends[1]


def test_presets_do_what_they_are_called():
    """Idle-only stops at the first own sequence, night at dawn, WWW.Serve's rule at its target and its queue."""
    assert PRESETS["always"].decide(seen(sold=9, own_running=5)) is None
    assert PRESETS["idle-only"].decide(seen(sold=9)) is None
    assert PRESETS["idle-only"].decide(seen(own_running=1)) is not None
    assert PRESETS["night"].decide(seen(at_ms=at(2, 23))) is None
    assert PRESETS["night"].decide(seen(at_ms=at(2, 12))) is not None
    rival = PRESETS["wwwserve"]
    assert (rival.accept_ppm, rival.decide(seen(sold=6))) == (800_000, None)
    assert rival.decide(seen(sold=7)) is not None
    assert rival.decide(seen(own_waiting=1)) is not None
