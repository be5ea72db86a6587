"""One auction: who is asked, who counts, and why each won or lost."""

import pytest

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    make_ask,
    make_bid,
    make_offer,
    named,
    prices,
)
from wwwmarket.crypto.digest import digest
from wwwmarket.domain.book import ListedOffer
from wwwmarket.market import auction

BID = make_bid()
PEOPLE = (PROVIDER, RIVAL, STRANGER)


def candidate(person) -> auction.Candidate:
    listed = ListedOffer(provider=person.account, offer=make_offer())
    return auction.Candidate(offer=named(person.account), listed=listed)


CANDIDATES = tuple(candidate(person) for person in PEOPLE)


def begun(**options) -> auction.Auction:
    machine = auction.Auction(BID, CANDIDATES, REGISTRY.current.award, ask_timeout_ms=150, **options)
    machine.step(auction.Opened(at_ms=NOW))
    return machine


def arrived(person, at_ms=NOW + 10, *, place=None, signer=None, bid=BID, **changes) -> auction.AskArrived:
    offer = named((place or person).account)
    ask = make_ask(signer or person, bid, changes.pop("offer", offer), **changes)
    return auction.AskArrived(at_ms=at_ms, offer=offer, ask=ask)


def judged(effects) -> dict:
    (decided,) = effects
    return {one.provider: one for one in decided.judged}


def test_everybody_is_asked_and_a_deadline_set():
    """Opening asks each candidate once, and arms the deadline."""
    machine = auction.Auction(BID, CANDIDATES, REGISTRY.current.award, ask_timeout_ms=150)
    effects = machine.step(auction.Opened(at_ms=NOW))
    assert [effect.candidate for effect in effects[:-1]] == list(CANDIDATES)
    assert effects[-1] == auction.ArmDeadline(at_ms=NOW + 150)


def test_the_lowest_score_wins_and_each_hears_why():
    """Winner, runner-up and loser in the order of their scores, each with its distance."""
    machine = begun()
    machine.step(arrived(RIVAL, prices=prices(150_000, 25_000, 300_000)))
    machine.step(arrived(STRANGER, prices=prices(200_000, 25_000, 300_000)))
    effects = machine.step(arrived(PROVIDER))
    seen = judged(effects)
    assert [standing.ask.by for standing in effects[0].standings] == [PROVIDER.account, RIVAL.account, STRANGER.account]
    assert [seen[person.account].verdict for person in PEOPLE] == ["won", "runner_up", "lost"]
    assert seen[RIVAL.account].reason == "its score is 50 above the winner's"


def test_the_lower_digest_wins_a_tie():
    """Equal scores are ordered by digest, whoever came first."""
    asks = {digest(arrived(person).ask.body): person for person in (PROVIDER, RIVAL)}
    machine = begun()
    machine.step(auction.AskMissing(at_ms=NOW, offer=named(STRANGER.account), declined=True, reason="no"))
    machine.step(arrived(RIVAL))
    effects = machine.step(arrived(PROVIDER))
    assert effects[0].standings[0].ask.by == asks[min(asks)].account
    assert "tied" in judged(effects)[asks[max(asks)].account].reason


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (arrived(PROVIDER, signer=STRANGER), "not signed by the provider"),
        (arrived(PROVIDER, offer=named("another")), "another offer"),
        (arrived(PROVIDER, bid=make_bid(issued_ms=1)), "another bid"),
        (arrived(PROVIDER, prices=prices(300_000, 25_000, 300_000)), "never above its offer"),
        (arrived(PROVIDER, predicted_ttft_ms=5_000), "miss the bid's objective"),
        (arrived(PROVIDER, prices=prices(20_000, 25_000, 300_000)), "cached input"),
    ],
)
def test_an_ask_that_may_not_win_hears_why(event, reason):
    """A wrong signer, offer, bid, price or latency is ineligible, with its ask and the reason kept."""
    machine = begun()
    machine.step(event)
    seen = judged(machine.step(auction.DeadlineReached(at_ms=NOW + 150)))
    one = seen[PROVIDER.account]
    assert (one.verdict, one.ask, one.score) == ("ineligible", event.ask.signed, None)
    assert reason in one.reason
    assert {seen[RIVAL.account].verdict, seen[STRANGER.account].verdict} == {"silent"}


def test_what_comes_twice_late_or_unasked_is_ignored():
    """A second ask, an ask from somebody not asked, and anything after the decision change nothing."""
    machine = begun()
    first = arrived(PROVIDER)
    assert machine.step(first) == []
    assert machine.step(arrived(PROVIDER, prices=prices(1, 1, 1))) == []
    assert machine.step(arrived(CLIENT)) == []
    assert machine.step(auction.AskMissing(at_ms=NOW, offer=named("nobody"), declined=True, reason="")) == []
    (decided,) = machine.step(auction.DeadlineReached(at_ms=NOW + 150))
    assert [standing.ask for standing in decided.standings] == [first.ask]
    assert machine.step(arrived(RIVAL)) == machine.step(auction.DeadlineReached(at_ms=NOW + 151)) == []


def test_the_silent_cost_little_once_others_have_answered_well():
    """When most have answered and one is good enough, the rest have as long again as those took, and at least a little."""
    machine = begun()
    assert machine.step(arrived(PROVIDER, NOW + 60)) == []
    assert machine.step(arrived(RIVAL, NOW + 70)) == [auction.ArmDeadline(at_ms=NOW + 140)]
    seen = judged(machine.step(auction.DeadlineReached(at_ms=NOW + 140)))
    assert (seen[STRANGER.account].verdict, seen[STRANGER.account].reason) == (
        "silent",
        "no answer while the others answered, nor in as long again",
    )
    at_once = begun()
    at_once.step(arrived(PROVIDER, NOW + 1))
    assert at_once.step(arrived(RIVAL, NOW + 2)) == [auction.ArmDeadline(at_ms=NOW + 2 + auction.HURRY_MS_MIN)]


def test_nobody_is_hurried_while_nobody_is_good_enough():
    """Without a good ask, and where the deadline is nearer anyway, the deadline stands."""
    machine = begun()
    machine.step(arrived(PROVIDER, predicted_ttft_ms=5_000))
    assert machine.step(arrived(RIVAL, predicted_ttft_ms=5_000)) == []
    late = begun()
    late.step(arrived(PROVIDER, NOW + 90))
    assert late.step(arrived(RIVAL, NOW + 100)) == []


def test_a_second_round_is_asked_where_the_first_has_nobody_good():
    """Reserves are asked once, when no ask meets the objective; a late ask of the first round still counts."""
    reserve = candidate(CLIENT)
    machine = begun(reserves=(reserve,), margin_ppm=0)
    machine.step(arrived(PROVIDER, predicted_ttft_ms=5_000))
    effects = machine.step(auction.DeadlineReached(at_ms=NOW + 150))
    assert effects == [auction.RequestAsk(candidate=reserve), auction.ArmDeadline(at_ms=NOW + 300)]
    assert machine.step(auction.DeadlineReached(at_ms=NOW + 150)) == []
    assert machine.step(arrived(RIVAL, NOW + 200)) == []
    seen = judged(machine.step(auction.DeadlineReached(at_ms=NOW + 300)))
    assert (seen[RIVAL.account].verdict, seen[CLIENT.account].verdict) == ("won", "silent")
    assert len(seen) == 4


def test_reserves_rest_where_somebody_is_good():
    """With one good ask nobody else is bothered."""
    machine = begun(reserves=(candidate(CLIENT),), margin_ppm=0)
    machine.step(arrived(PROVIDER))
    assert PROVIDER.account in judged(machine.step(auction.DeadlineReached(at_ms=NOW + 150)))


def test_a_draw_does_not_depend_on_the_order_of_the_candidates():
    """The same chance draws the same candidates from any order, each at most once."""
    chance = bytes(range(32))
    drawn = auction.draw(CANDIDATES, chance, 2)
    assert drawn == auction.draw(CANDIDATES[::-1], chance, 2)
    assert len({one.offer for one in drawn}) == 2


def declined(person, retry_after_ms=None) -> auction.AskMissing:
    return auction.AskMissing(
        at_ms=NOW, offer=named(person.account), declined=True, reason="no", retry_after_ms=retry_after_ms
    )


def test_who_is_refused_hears_when_the_soonest_could():
    """Of one who declined by its word, of an ask that is too late by how much it is; the sooner counts."""
    late = BID.slo.ttft_ms + 700
    for events, soonest_ms in (
        ((declined(RIVAL, 900), declined(STRANGER, 4_000), arrived(PROVIDER, predicted_ttft_ms=late)), 700),
        ((declined(RIVAL, 300), declined(STRANGER, 4_000), arrived(PROVIDER, predicted_ttft_ms=late)), 300),
        ((declined(RIVAL), declined(STRANGER), declined(PROVIDER)), None),
    ):
        machine = begun()
        *_, effects = [machine.step(event) for event in events]
        assert not effects[0].standings
        assert effects[0].soonest_ms == soonest_ms


@pytest.mark.parametrize("said_ms", [None, 0, 700, 10**9])
def test_when_to_come_again_is_bounded_and_spread(said_ms):
    """Whatever providers say, between half a second and three quarters of a minute; chance only makes it later."""
    times_ms = [auction.come_again_ms(said_ms, chance_ppm) for chance_ppm in (0, 500_000, 999_999)]
    assert times_ms == sorted(times_ms)
    assert times_ms[0] >= auction.AGAIN_MS_MIN
    assert times_ms[-1] <= auction.AGAIN_MS_MAX * 3 // 2
    assert times_ms[1] == times_ms[0] * 5 // 4
