"""How long an award waits for its execution."""

import pytest
from msgspec.structs import replace

from tests.unit.rules.world import NOW, PROVIDER, REGISTRY, make_ask, make_bid, make_offer, named
from wwwmarket.crypto.digest import digest
from wwwmarket.domain.book import Clearing
from wwwmarket.domain.quantity import Slo
from wwwmarket.market import award

TERMS = award.Terms(
    attempts_max=1,
    bound_base_ms=1_000,
    bound_factor=5,
    execution_max_ms=600_000,
    claim_after_ms=100,
    claim_window_ms=1_000,
    first_token_slack_ms=100,
)


def waits_ms(expected_output_tokens: int, predicted_finish_ms: int) -> int:
    """How long an award of at most 1,000 tokens can be claimed, with the first of them after 100 ms."""
    bid = make_bid(expected_output_tokens=expected_output_tokens, max_output_tokens=1_000)
    ask = make_ask(PROVIDER, bid, named("offer"), predicted_ttft_ms=100, predicted_finish_ms=predicted_finish_ms)
    winner = award.Contender(digest=digest(ask.body), ask=ask, offer=make_offer())
    clearing = Clearing(prices=make_offer().prices, locked_micro=1)
    return award.propose(bid, winner, None, (), clearing, NOW, TERMS).expires_ms - NOW


def test_an_answer_has_the_time_of_its_maximum():
    """At one pace the award waits as long for a client of short answers as for one of long ones."""
    assert waits_ms(10, 100 + 10 * 20) == waits_ms(500, 100 + 500 * 20) == 1_000 + 5 * 20_100 + 1_100


@pytest.mark.parametrize("expected", [0, 1])
def test_no_lock_waits_for_ever(expected):
    """Whatever is predicted of how few tokens, the longest execution bounds it."""
    assert waits_ms(expected, 2**50) == 600_000 + 1_100


@pytest.mark.parametrize(("promised_ms", "waits_ms"), [(0, 100), (100, 200), (200, 300), (20_000, 30_000)])
def test_the_patience_for_a_first_token_grows_with_its_promise(promised_ms, waits_ms):
    """The stated slack, or half of what was promised, whichever is more."""
    bid = make_bid(slo=Slo(ttft_ms=60_000, tpot_ms=100))
    ask = make_ask(PROVIDER, bid, named("offer"), predicted_ttft_ms=promised_ms, predicted_finish_ms=promised_ms + 100)
    contender = award.Contender(digest=digest(ask.body), ask=ask, offer=make_offer())
    terms = replace(TERMS, first_token_slack_percent=50)
    buyer = award.Buyer(bid, (contender,), (), REGISTRY.current.award, terms)
    buyer.step(award.Begun(at_ms=NOW))
    effects = buyer.step(award.AwardSigned(at_ms=NOW, award=named("award")))
    assert [one.at_ms - NOW for one in effects if isinstance(one, award.ArmFirstToken)] == [waits_ms]
