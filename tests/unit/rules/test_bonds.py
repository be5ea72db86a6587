"""Bonds stand for what was promised: longer than the offer, and against silence; never against a word alone."""

import pytest
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    Ledger,
    make_attestation,
    make_offer,
    make_settlement,
)
from wwwmarket.domain.book import Account
from wwwmarket.domain.quantity import NO_USAGE
from wwwmarket.domain.records import Dispute, Parameters, Withdrawal
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.rules.state import State

BOND = 5_000
NO_SHOW = 250
"""5 % of the bond."""


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun()


def adds_up(ledger: Ledger) -> bool:
    """Credits are conserved, everything held is held for something, and a restart gives the same state."""
    state = ledger.state
    restored = State.restore(REGISTRY, state.snapshot(), state.root())
    faults = (conservation_fault(state.accounts(), state.total_micro), expiry_fault(state), expiry_fault(restored))
    return faults == (None, None, None) and restored.root() == state.root()


def disputed(ledger: Ledger, *, withdraw: bool = False):
    """An award whose client says that nothing came of it; the offers, and the award."""
    offers = ledger.list_offers()
    award = ledger.award(offers)
    if withdraw:
        ledger.submit(PROVIDER, Withdrawal(offer=offers[0]))
    ledger.mark(NOW + 60_000)
    ledger.submit(CLIENT, Dispute(award=award))
    return offers, award


def test_silence_under_a_dispute_costs_a_part_of_the_bond(ledger):
    """The lock returns whole, and a twentieth of the bond with it; the offer stays listed."""
    offers, _ = disputed(ledger)
    ledger.mark(NOW + 120_000)
    state = ledger.state
    assert state.account(CLIENT.account) == Account(available_micro=1_000_000 + NO_SHOW)
    assert state.account(PROVIDER.account) == Account(available_micro=995_000, bonded_micro=BOND - NO_SHOW)
    assert state.offer(offers[0]).penalised_micro == NO_SHOW
    assert adds_up(ledger)


def test_a_bond_withdrawn_before_the_penalty_pays_it_all_the_same(ledger):
    """Withdrawing first helps nobody: the bond outlives the offer by the unbonding time."""
    offers, _ = disputed(ledger, withdraw=True)
    assert ledger.state.offer(offers[0]) is None
    assert ledger.state.account(PROVIDER.account) == Account(available_micro=995_000, bonded_micro=BOND)
    ledger.mark(NOW + 120_000)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=1_000_000 + NO_SHOW)
    assert ledger.state.unbonding(offers[0]).amount_micro == BOND - NO_SHOW
    assert adds_up(ledger)
    ledger.mark(NOW + 4_000_000)
    assert ledger.state.account(PROVIDER.account) == Account(available_micro=1_000_000 - NO_SHOW)
    assert adds_up(ledger)


def test_a_provider_that_answers_a_dispute_keeps_its_bond(ledger):
    """With the work's attestation it is paid; with a failure it is not, and either costs it nothing."""
    for outcome in ("completed", "failed"):
        fresh = Ledger.begun()
        _, award = disputed(fresh)
        usage = {"usage": NO_USAGE} if outcome == "failed" else {}
        attestation = make_attestation(PROVIDER, award, outcome=outcome, **usage)
        fresh.submit(PROVIDER, make_settlement(award, attestation, None))
        fresh.mark(NOW + 120_000)
        assert fresh.state.account(PROVIDER.account).bonded_micro == BOND
        assert (fresh.state.account(CLIENT.account).available_micro < 1_000_000) == (outcome == "completed")
        assert adds_up(fresh)


def test_an_award_that_expires_without_a_dispute_costs_no_bond(ledger):
    """Nobody said that nothing came."""
    ledger.award(ledger.list_offers())
    ledger.mark(NOW + 120_000)
    assert ledger.state.account(PROVIDER.account).bonded_micro == BOND
    assert adds_up(ledger)


def test_no_penalty_takes_more_than_is_left(ledger):
    """Twenty silences take the whole bond, and the twenty-first nothing."""
    offers = ledger.list_offers()
    awards = [ledger.award(offers) for _ in range(21)]
    ledger.mark(NOW + 60_000)
    for award in awards:
        ledger.submit(CLIENT, Dispute(award=award))
    ledger.mark(NOW + 120_000)
    assert adds_up(ledger)
    assert ledger.state.account(PROVIDER.account) == Account(available_micro=995_000)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=1_000_000 + BOND)


def test_the_penalty_is_rounded_up(ledger):
    """A bond of one micro-credit is no free pass."""
    small = ledger.submit(PROVIDER, make_offer(bond_micro=1)).checked.id
    award = ledger.award((small, ledger.list_offers()[1]))
    ledger.mark(NOW + 60_000)
    ledger.submit(CLIENT, Dispute(award=award))
    ledger.mark(NOW + 120_000)
    assert ledger.state.offer(small).penalised_micro == 1


def test_everything_that_ends_at_one_mark_ends_in_order(ledger):
    """An award under a dispute, its offer, and nothing is freed twice: all at a single late mark."""
    disputed(ledger)
    ledger.mark(NOW + 86_400_000)
    assert adds_up(ledger)
    ledger.mark(NOW + 2 * 86_400_000)
    assert adds_up(ledger)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=1_000_000 + NO_SHOW)
    assert ledger.state.account(PROVIDER.account) == Account(available_micro=1_000_000 - NO_SHOW)


def test_without_an_unbonding_time_a_bond_is_free_when_its_offer_ends():
    """At the same mark: no bond waits for a further one that may not come for long."""
    ledger = Ledger.begun(parameters=Parameters(unbonding_ms=0))
    ledger.list_offers()
    ledger.mark(NOW + 86_400_000)
    assert ledger.state.account(PROVIDER.account) == Account(available_micro=1_000_000)
    assert not ledger.state.unbondings()
    assert adds_up(ledger)


def test_a_market_s_fee_goes_to_its_operator():
    """Out of what the provider gets, by the genesis's parameters."""
    ledger = Ledger.begun(parameters=Parameters(fee_ppm=100_000))
    award = ledger.award(ledger.list_offers())
    attestation = make_attestation(PROVIDER, award)
    ledger.mark(NOW + 60_000)
    ledger.submit(PROVIDER, make_settlement(award, attestation, None))
    paid = 1_000_000 - ledger.state.account(CLIENT.account).available_micro
    assert ledger.state.account(OPERATOR.account).available_micro == 1_000_000 + paid // 10
    assert ledger.state.account(PROVIDER.account).available_micro == 995_000 + paid - paid // 10
    assert adds_up(ledger)
    assert replace(Parameters(), fee_ppm=0) == Parameters()
