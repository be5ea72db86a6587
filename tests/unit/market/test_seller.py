"""The provider's answer to a bid: what it declines and why, what it holds, and what it asks for."""

import pytest

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    STRANGER,
    make_ask,
    make_award,
    make_bid,
    make_offer,
    named,
    prices,
)
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import sign
from wwwmarket.domain.errors import Conflict, Forbidden, Stale, Unauthorised
from wwwmarket.domain.model import ModelRequirement
from wwwmarket.domain.records import Capacity
from wwwmarket.market import execution, offer
from wwwmarket.market.admission import Admission
from wwwmarket.market.policy import Policy

OFFER = named("offer")
HOLD_MS = 300
SOON = offer.Forecast(ttft_ms=100, finish_ms=1_000)


class Oracle:
    """Foresees the same for everybody, and remembers what it was asked."""

    def __init__(self, forecast: offer.Forecast | None = SOON) -> None:
        self.forecast_ = forecast
        self.held: list[int] = []

    def forecast(self, *, input_tokens: int, output_tokens: int, held: int) -> offer.Forecast | None:
        assert input_tokens
        assert output_tokens
        self.held.append(held)
        return self.forecast_

    def next_end_ms(self) -> int | None:
        return 2_500 if self.forecast_ is not None else None


def make_seller(
    oracle: Oracle | None = None,
    *,
    sequences: int = 4,
    floor_ppm: int = 1_000_000,
    policy: Policy | None = None,
    **terms,
) -> offer.Seller:
    policy = policy or Policy(floor_ppm=floor_ppm)
    seller = offer.Seller(PROVIDER, oracle or Oracle(), policy, Admission(), hold_ms=HOLD_MS, asked_per_bid=4)
    listed = make_offer(capacity=Capacity(sequences=sequences, tokens_per_s=1_000), **terms)
    seller.step(offer.OfferListed(offer=OFFER, terms=listed))
    return seller


def put(seller: offer.Seller, *, at_ms: int = NOW, name: str = OFFER, chance_ppm: int = 0, signer=CLIENT, **changes):
    own = {work: changes.pop(work) for work in ("own_running", "own_waiting") if work in changes}
    bid = sign(signer, make_bid(**changes))
    (effect,) = seller.step(offer.BidReceived(at_ms=at_ms, bid=bid, offer=name, chance_ppm=chance_ppm, **own))
    return effect


def test_a_bid_gets_a_signed_ask():
    """The ask is for this bid and offer, at the list price, with what was foreseen, held for as long as it says."""
    effect = put(make_seller())
    ask = effect.ask.body
    assert effect.ask.by == PROVIDER.account
    assert (ask.bid, ask.offer, ask.prices) == (digest(make_bid()), OFFER, make_offer().prices)
    assert (ask.predicted_ttft_ms, ask.predicted_finish_ms, ask.held_until_ms) == (100, 1_000, NOW + HOLD_MS)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"name": named("another offer")}, "not ours"),
        ({"signer": STRANGER}, "not signed by its client"),
        ({"at_ms": NOW + 10**6}, "expired"),
        ({"model": ModelRequirement(name="other")}, "this offer is for"),
        ({"max_input_tokens": 40_000}, "tokens of context"),
        ({"chance_ppm": 1_000_000}, "share of bids"),
    ],
)
def test_a_bid_that_cannot_be_served_is_declined(changes, reason):
    """Each decline says why, and when to come back."""
    effect = put(make_seller(), **changes)
    assert isinstance(effect, offer.BidDeclined)
    assert reason in effect.reason
    assert effect.retry_after_ms == HOLD_MS


def test_the_accept_share_decides_by_chance():
    """Below the share a bid is answered, from the share on it is declined."""
    seller = make_seller(accept_ppm=250_000)
    assert isinstance(put(seller, chance_ppm=249_999), offer.AskSent)
    assert isinstance(put(seller, chance_ppm=250_000), offer.BidDeclined)


def test_a_full_seller_declines():
    """As many executions as sequences on offer, and no more; an end makes room again."""
    seller = make_seller(sequences=2)
    for _ in range(2):
        seller.step(offer.ExecutionStarted(bid=named("bid")))
    assert "busy" in put(seller).reason
    seller.step(offer.ExecutionEnded())
    assert isinstance(put(seller), offer.AskSent)
    assert seller.in_flight == 1


def test_a_leaving_seller_declines():
    """Once it drains nothing is asked for."""
    seller = make_seller()
    seller.step(offer.DrainBegun())
    assert "leaving" in put(seller).reason


def test_a_full_seller_says_when_to_come_again():
    """When the first of its work is expected to end; where nobody can say, after a hold."""
    seller = make_seller(sequences=1)
    seller.step(offer.ExecutionStarted(bid=named("bid")))
    assert put(seller).retry_after_ms == 2_500
    blind = make_seller(Oracle(None), sequences=1)
    blind.step(offer.ExecutionStarted(bid=named("bid")))
    assert put(blind).retry_after_ms == HOLD_MS


def test_the_last_places_go_to_those_to_whom_a_second_is_worth_most():
    """With all but the last place taken, the cheap are told to wait, and one that is worth more gets it."""
    seller = make_seller(sequences=4)
    for place in range(8):
        put(seller, issued_ms=place, time_value_micro_per_s=10 if place % 2 else 20)
    for _ in range(3):
        seller.step(offer.ExecutionStarted(bid=named("bid")))
    cheap, dear = (put(seller, time_value_micro_per_s=worth) for worth in (10, 20))
    assert "worth more" in cheap.reason
    assert cheap.retry_after_ms == 2_500
    assert isinstance(dear, offer.AskSent)


def test_an_unlisted_offer_is_not_asked_from():
    """What is off the market has no asks."""
    seller = make_seller()
    seller.step(offer.OfferUnlisted(offer=OFFER))
    assert seller.offered(OFFER) is None
    assert "not ours" in put(seller).reason


def test_an_unknown_engine_is_not_offered():
    """Without a forecast there is no ask."""
    assert "unknown" in put(make_seller(Oracle(None))).reason


def test_holds_expire():
    """A hold counts for as long as it was promised, and its share of a win is foreseen; then it is forgotten."""
    oracle = Oracle()
    seller = make_seller(oracle)
    for place in range(5):
        put(seller, issued_ms=place)
    put(seller, at_ms=NOW + HOLD_MS + 1, issued_ms=9)
    assert oracle.held == [0, 1, 1, 1, 1, 0]


def test_a_won_hold_is_work_and_no_hold():
    """An execution takes its bid's hold away."""
    oracle = Oracle()
    seller = make_seller(oracle)
    put(seller)
    seller.step(offer.ExecutionStarted(bid=digest(make_bid())))
    put(seller, issued_ms=1)
    assert oracle.held == [0, 0]


def test_a_flood_of_holds_passes(monkeypatch):
    """At the limit bids are declined; when the holds are over they are answered again."""
    monkeypatch.setattr(offer, "HOLDS_MAX", 3)
    seller = make_seller()
    answers = [put(seller, issued_ms=place) for place in range(4)]
    assert [type(answer) for answer in answers] == [*[offer.AskSent] * 3, offer.BidDeclined]
    assert isinstance(put(seller, at_ms=NOW + HOLD_MS + 1), offer.AskSent)


def test_what_others_lose_is_asked_for_on_top():
    """The burden is added to the price of the expected tokens, up to the list price and never above it."""
    listed = make_offer().prices
    bid = make_bid()
    whole_micro = bid.input_tokens * listed.input_micro_per_mtok
    whole_micro += bid.expected_output_tokens * listed.output_micro_per_mtok
    quarter = offer.Forecast(ttft_ms=100, finish_ms=1_000, burden_micro=whole_micro // 4_000_000)
    more = put(make_seller(Oracle(quarter), floor_ppm=500_000)).ask.body.prices.output_micro_per_mtok
    assert abs(more - listed.output_micro_per_mtok * 3 // 4) <= listed.output_micro_per_mtok // 50
    beyond = offer.Forecast(ttft_ms=100, finish_ms=1_000, burden_micro=10 * whole_micro)
    assert put(make_seller(Oracle(beyond), floor_ppm=500_000)).ask.body.prices == listed


def test_the_price_rises_with_the_load():
    """From the floor when idle to the list price when full, rounded up, never above the list."""
    seller = make_seller(sequences=4, floor_ppm=500_000)
    seen = []
    for _ in range(4):
        seen.append(put(seller).ask.body.prices.output_micro_per_mtok)
        seller.step(offer.ExecutionStarted(bid=named("bid")))
    assert seen == [300_000, 375_000, 450_000, 525_000]
    assert max(seen) <= make_offer().prices.output_micro_per_mtok


def test_the_policy_has_the_last_word():
    """What the provider's own rules forbid is declined, for their reason; they see own work and what is sold."""
    assert "does not serve" in put(make_seller(policy=Policy(never=frozenset({CLIENT.account})))).reason
    seller = make_seller(policy=Policy(share_ppm=250_000, own_waiting_max=0))
    assert "traffic is waiting" in put(seller, own_waiting=1).reason
    assert isinstance(put(seller, own_running=2), offer.AskSent)
    seller.step(offer.ExecutionStarted(bid=named("bid")))
    assert "for sale" in put(seller).reason


def test_an_execution_ends_once():
    """An end without a beginning is our own bug."""
    with pytest.raises(AssertionError):
        make_seller().step(offer.ExecutionEnded())


def test_an_award_passes_its_checks():
    """An award as it should be."""
    bid = make_bid()
    award = make_award(bid, make_ask(PROVIDER, bid, OFFER), make_offer(), None)
    execution.check_award(award, CLIENT.account, PROVIDER.account, NOW)


@pytest.mark.parametrize(
    ("number", "kind"), [(1, Unauthorised), (2, Forbidden), (3, Conflict), (4, Conflict), (5, Stale), (6, Conflict)]
)
def test_each_check_of_an_award_refuses(number, kind):
    """Each numbered check has an award that fails it alone."""
    bid = make_bid()
    good = make_award(bid, make_ask(PROVIDER, bid, OFFER), make_offer(), None)
    other = make_ask(PROVIDER, make_bid(issued_ms=1), OFFER)
    award, by, own, at_ms = {
        1: (good, STRANGER.account, PROVIDER.account, NOW),
        2: (good, CLIENT.account, STRANGER.account, NOW),
        3: (make_award(bid, other, make_offer(), None), CLIENT.account, PROVIDER.account, NOW),
        4: (
            make_award(bid, make_ask(PROVIDER, bid, OFFER), make_offer(), None, prices=prices(99_999, 25_000, 300_000)),
            CLIENT.account,
            PROVIDER.account,
            NOW,
        ),
        5: (good, CLIENT.account, PROVIDER.account, good.claim_after_ms),
        6: (
            make_award(
                bid,
                make_ask(PROVIDER, bid, OFFER),
                make_offer(),
                None,
                expires_ms=NOW + execution.AWARD_LIFE_MS_MAX + 1,
            ),
            CLIENT.account,
            PROVIDER.account,
            NOW,
        ),
    }[number]
    with pytest.raises(kind) as caught:
        execution.check_award(award, by, own, at_ms)
    assert caught.value.reason == f"award_{number}"


def test_pieces_of_one_breath_travel_together():
    """Neighbouring pieces are joined in their order, and nothing else is."""
    piece = execution.SendPiece
    effects = [
        execution.SendStart(content_type="text/plain"),
        piece(data=b"a", tokens=1),
        piece(data=b"b", tokens=0),
        execution.AbortEngine(),
        piece(data=b"c", tokens=1),
    ]
    assert execution.coalesced(effects) == [effects[0], piece(data=b"ab", tokens=1), effects[3], effects[4]]
