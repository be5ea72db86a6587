"""One lock and one settlement for many requests: paid as vouched for, claimed where not, returned where nothing came."""

import pytest
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    Ledger,
    consent,
    key,
    make_unvouched,
    make_voucher,
)
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Conflict, Forbidden, Refusal, Unauthorised
from wwwmarket.domain.keys import Delegation
from wwwmarket.domain.records import Parameters, TabOpening, TabSettlement
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.rules.state import State

HOUR_MS = 3_600_000


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun(parameters=Parameters(fee_ppm=100_000))


def open_tab(ledger: Ledger, locked: int = 10_000):
    opening = TabOpening(provider=PROVIDER.account, locked_micro=locked, expires_ms=ledger.state.now_ms + HOUR_MS)
    return ledger.submit(CLIENT, opening).checked.id


def adds_up(ledger: Ledger) -> bool:
    """Credits are conserved, everything held is held for something, and a restart gives the same state."""
    state = ledger.state
    restored = State.restore(REGISTRY, state.snapshot(), state.root())
    faults = (conservation_fault(state.accounts(), state.total_micro), expiry_fault(state), expiry_fault(restored))
    return faults == (None, None, None) and restored.root() == state.root()


def refused(ledger: Ledger, author, body, reason: str, kind: type[Refusal]) -> None:
    root = ledger.state.root()
    with pytest.raises(kind) as refusal:
        ledger.submit(author, body)
    assert refusal.value.reason == reason
    assert ledger.state.root() == root


def test_a_tab_locks_once_and_settles_once(ledger):
    """What was vouched for is paid, the fee taken of it, and the rest of the lock returned."""
    tab = open_tab(ledger)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=990_000, locked_micro=10_000)
    assert adds_up(ledger)
    body = TabSettlement(tab=tab, voucher=make_voucher(CLIENT, tab, cost_micro=4_000, paid_micro=4_000))
    ledger.submit(PROVIDER, body)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=996_000)
    assert ledger.state.account(PROVIDER.account) == Account(available_micro=1_003_600)
    assert ledger.state.account(OPERATOR.account) == Account(available_micro=1_000_400)
    assert adds_up(ledger)
    refused(ledger, PROVIDER, body, "not_open", Conflict)


def test_a_tab_that_nobody_settles_returns_its_lock(ledger):
    """At its expiry, whole."""
    open_tab(ledger)
    ledger.mark(NOW + HOUR_MS)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=1_000_000)
    assert not ledger.state.tabs()
    assert adds_up(ledger)


def test_an_answer_without_a_voucher_is_claimed_at_its_award_s_price(ledger):
    """With the client's award and the provider's attestation, once the client had its time."""
    award = ledger.award_body(ledger.list_offers())
    tab = open_tab(ledger)
    claim = TabSettlement(tab=tab, voucher=None, unvouched=(make_unvouched(award, tab, 0),))
    ledger.mark(NOW + 60_000)
    attestation = claim.unvouched[0].attestation.body
    due = REGISTRY.current.settlement.payment(award, attestation, None)
    ledger.submit(PROVIDER, claim)
    assert ledger.state.account(CLIENT.account) == Account(available_micro=1_000_000 - due)
    assert adds_up(ledger)


def test_a_client_that_denies_a_voucher_gains_nothing(ledger):
    """The provider claims what is open by the last voucher, beside what that pays."""
    award = ledger.award_body(ledger.list_offers())
    tab = open_tab(ledger)
    ledger.mark(NOW + 60_000)
    voucher = make_voucher(CLIENT, tab, count=1, cost_micro=100, paid_micro=100, next_number=2, open=(1,))
    body = TabSettlement(tab=tab, voucher=voucher, unvouched=(make_unvouched(award, tab, 1),))
    due = REGISTRY.current.settlement.payment(award, body.unvouched[0].attestation.body, None)
    ledger.submit(PROVIDER, body)
    assert ledger.state.account(CLIENT.account).available_micro == 1_000_000 - 100 - due
    assert adds_up(ledger)


def test_a_tab_is_settled_by_its_provider_s_machine_and_by_no_stranger(ledger):
    """Whoever else has the voucher can do nothing with it."""
    machine = key("a machine")
    ledger.submit(PROVIDER, Delegation(consent=consent(machine, PROVIDER, "machine")))
    tab = open_tab(ledger)
    body = TabSettlement(tab=tab, voucher=make_voucher(CLIENT, tab))
    refused(ledger, OPERATOR, body, "not_provider", Forbidden)
    ledger.submit(machine, body)
    assert adds_up(ledger)


def test_forged_vouchers_and_awards_are_refused_before_anything_else(ledger):
    """Signatures inside a settlement are verified with it."""
    award = ledger.award_body(ledger.list_offers())
    tab = open_tab(ledger)
    good = make_voucher(CLIENT, tab)
    one = make_unvouched(award, tab, 0)
    other = replace(one, award=replace(one.award, body=replace(one.award.body, number=1)))
    for body in (
        TabSettlement(tab=tab, voucher=replace(good, body=replace(good.body, paid_micro=1))),
        TabSettlement(tab=tab, voucher=None, unvouched=(other,)),
    ):
        with pytest.raises(Unauthorised):
            ledger.submit(PROVIDER, body)
