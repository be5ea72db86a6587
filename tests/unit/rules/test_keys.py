"""An account outlives its keys: what it has, what it promised and what it is known for stay under its name."""

import pytest
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    Ledger,
    consent,
    key,
    make_ask,
    make_attestation,
    make_award,
    make_bid,
    make_offer,
    make_receipt,
    make_settlement,
)
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Refusal, Stale, Unauthorised
from wwwmarket.domain.keys import Delegation, Guard, Keys, Revocation, Rotation
from wwwmarket.domain.records import Dispute, Transfer, Withdrawal
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.rules.state import State

NEXT, LATER, MACHINE, RECOVERY = map(key, ("the next key", "a later key", "a machine", "the recovery key"))
OBJECTION_MS = 3 * 86_400_000


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun()


def rotate(ledger: Ledger, account, to, by=None) -> None:
    ledger.submit(by or account, Rotation(account=account.account, consent=consent(to, account)))


def delegate(ledger: Ledger, account, to) -> None:
    ledger.submit(account, Delegation(consent=consent(to, account, "machine")))


def refused(ledger: Ledger, author, body, reason: str, kind: type[Refusal] = Forbidden) -> None:
    before = (ledger.state.snapshot(), ledger.state.root())
    with pytest.raises(kind) as refusal:
        ledger.submit(author, body)
    assert refusal.value.reason == reason
    assert (ledger.state.snapshot(), ledger.state.root()) == before


def adds_up(ledger: Ledger) -> bool:
    """Credits are conserved, everything held is held for something, and a restart gives the same state."""
    state = ledger.state
    restored = State.restore(REGISTRY, state.snapshot(), state.root())
    faults = (conservation_fault(state.accounts(), state.total_micro), expiry_fault(state), expiry_fault(restored))
    same = all(
        restored.account_of(each.account) == state.account_of(each.account) for each in (PROVIDER, NEXT, MACHINE)
    )
    return faults == (None, None, None) and restored.root() == state.root() and same


def test_a_rotated_account_keeps_its_balance_its_offers_and_its_name(ledger):
    """The next key spends, withdraws and rotates further; the account is called as before."""
    offer = ledger.submit(PROVIDER, make_offer()).checked.id
    rotate(ledger, PROVIDER, NEXT)
    assert ledger.state.owned_by(NEXT.account) == PROVIDER.account
    assert ledger.submit(NEXT, Transfer(to=CLIENT.account, amount_micro=5)).author == PROVIDER.account
    ledger.submit(NEXT, Withdrawal(offer=offer))
    ledger.submit(NEXT, Rotation(account=PROVIDER.account, consent=consent(LATER, PROVIDER)))
    ledger.submit(LATER, Transfer(to=CLIENT.account, amount_micro=5))
    account = ledger.state.account(PROVIDER.account)
    assert (account.available_micro, account.bonded_micro) == (994_990, 5_000)
    assert adds_up(ledger)


def test_a_rotated_key_used_after_rotation_is_refused(ledger):
    """Neither an entry of it counts, nor an ask, an attestation or a receipt inside another's."""
    offers = ledger.list_offers()
    award = ledger.award(offers)
    rotate(ledger, PROVIDER, NEXT)
    rotate(ledger, CLIENT, LATER)
    refused(ledger, PROVIDER, Transfer(to=CLIENT.account, amount_micro=1), "key_replaced")
    refused(ledger, CLIENT, Dispute(award=award), "key_replaced")
    old = make_settlement(award, make_attestation(PROVIDER, award), make_receipt(LATER, award))
    refused(ledger, LATER, old, "not_by_provider")
    old = make_settlement(award, make_attestation(NEXT, award), make_receipt(CLIENT, award))
    refused(ledger, NEXT, old, "not_by_client")
    refused(ledger, LATER, ledger.award_body(offers), "not_provider")
    ledger.submit(NEXT, make_settlement(award, make_attestation(NEXT, award), make_receipt(LATER, award)))
    assert ledger.state.award(award) is None
    assert adds_up(ledger)


def test_a_replaced_key_never_comes_back(ledger):
    """Not as an owner, not as a machine, and not for another account."""
    rotate(ledger, PROVIDER, NEXT)
    ledger.submit(NEXT, Transfer(to=CLIENT.account, amount_micro=1))
    ledger.submit(NEXT, Rotation(account=PROVIDER.account, consent=consent(LATER, PROVIDER)))
    for gone in (PROVIDER, NEXT):
        back = Rotation(account=PROVIDER.account, consent=consent(gone, PROVIDER))
        refused(ledger, LATER, back, "key_in_use", Conflict)
        machine = Delegation(consent=consent(gone, PROVIDER, "machine"))
        refused(ledger, LATER, machine, "key_in_use", Conflict)
        refused(ledger, RIVAL, Delegation(consent=consent(gone, RIVAL, "machine")), "key_in_use", Conflict)


def test_a_replaced_key_is_worth_nothing(ledger):
    """It is an account without credits at best, and cannot touch what it once owned."""
    rotate(ledger, PROVIDER, NEXT)
    ledger.submit(NEXT, Rotation(account=PROVIDER.account, consent=consent(LATER, PROVIDER)))
    assert ledger.state.account_of(NEXT.account) == NEXT.account
    refused(ledger, NEXT, Rotation(account=PROVIDER.account, consent=consent(MACHINE, PROVIDER)), "not_guardian")


def test_nobody_s_key_is_taken_without_its_consent(ledger):
    """A consent to another account, to another role, or signed by another key adopts nothing."""
    other = Rotation(account=PROVIDER.account, consent=consent(NEXT, CLIENT))
    refused(ledger, PROVIDER, other, "other_consent", Malformed)
    forged = replace(consent(STRANGER, PROVIDER), signer=NEXT.account)
    with pytest.raises(Unauthorised):
        ledger.submit(PROVIDER, Rotation(account=PROVIDER.account, consent=forged))


def test_several_machines_sell_for_one_account(ledger):
    """Each has a chain of its own; what they earn is the account's."""
    second = key("a second machine")
    delegate(ledger, PROVIDER, MACHINE)
    delegate(ledger, PROVIDER, second)
    first_offer, second_offer = (ledger.submit(machine, make_offer()).checked.id for machine in (MACHINE, second))
    rival_offer = ledger.submit(RIVAL, make_offer()).checked.id
    assert {listed.provider for name, listed in ledger.state.offers().items() if name != rival_offer} == {
        PROVIDER.account
    }
    bid = make_bid()
    rival = make_ask(RIVAL, bid, rival_offer, predicted_finish_ms=9_000)
    body = make_award(bid, make_ask(second, bid, second_offer), make_offer(), rival)
    award = ledger.submit(CLIENT, body).checked.id
    ledger.mark(NOW + 60_000)
    ledger.submit(MACHINE, make_settlement(award, make_attestation(second, award), None))
    earned = ledger.state.account(PROVIDER.account)
    assert earned.available_micro + earned.bonded_micro > 1_000_000
    ledger.submit(MACHINE, Withdrawal(offer=second_offer))
    ledger.submit(second, Withdrawal(offer=first_offer))
    assert adds_up(ledger)


def test_two_machines_of_one_provider_are_no_rivals(ledger):
    """An auction between a provider's own machines has one bidder."""
    delegate(ledger, PROVIDER, MACHINE)
    offers = (ledger.submit(PROVIDER, make_offer()).checked.id, ledger.submit(MACHINE, make_offer()).checked.id)
    bid = make_bid()
    asks = [make_ask(signer, bid, offer) for signer, offer in zip((PROVIDER, MACHINE), offers, strict=True)]
    body = make_award(bid, asks[0], make_offer(), asks[1])
    refused(ledger, CLIENT, body, "same_provider", Malformed)


def test_a_machine_spends_nothing(ledger):
    """A stolen machine can offer and ask badly; it cannot pay, bid, receive or change keys."""
    delegate(ledger, CLIENT, MACHINE)
    offers = ledger.list_offers()
    award = ledger.award(offers)
    refused(ledger, MACHINE, Transfer(to=STRANGER.account, amount_micro=1), "machine_key")
    refused(ledger, MACHINE, ledger.award_body(offers), "machine_key")
    refused(ledger, MACHINE, Dispute(award=award), "machine_key")
    refused(ledger, MACHINE, Guard(recovery=STRANGER.account), "machine_key")
    refused(ledger, MACHINE, Revocation(key=MACHINE.account), "machine_key")
    refused(ledger, MACHINE, Rotation(account=CLIENT.account, consent=consent(NEXT, CLIENT)), "machine_key")
    said = make_settlement(award, make_attestation(PROVIDER, award), make_receipt(MACHINE, award))
    refused(ledger, MACHINE, said, "not_by_client")


def test_a_revoked_machine_sells_no_more(ledger):
    """From the revocation on its entries are those of a stranger."""
    delegate(ledger, PROVIDER, MACHINE)
    offer = ledger.submit(MACHINE, make_offer()).checked.id
    ledger.submit(PROVIDER, Revocation(key=MACHINE.account))
    refused(ledger, MACHINE, Withdrawal(offer=offer), "not_provider")
    assert ledger.state.offer(offer) is not None
    assert adds_up(ledger)


def test_a_lost_key_is_recovered_after_the_time_to_object(ledger):
    """Announced by the recovery key, three days later put in place by it; balance and name stay."""
    ledger.submit(PROVIDER, Guard(recovery=RECOVERY.account))
    rotate(ledger, PROVIDER, NEXT, by=RECOVERY)
    assert ledger.state.owned_by(PROVIDER.account) == PROVIDER.account
    again = Rotation(account=PROVIDER.account, consent=consent(NEXT, PROVIDER))
    ledger.mark(NOW + OBJECTION_MS - 1)
    refused(ledger, RECOVERY, again, "too_early", Stale)
    ledger.submit(STRANGER, Transfer(to=NEXT.account, amount_micro=1))
    ledger.mark(NOW + OBJECTION_MS)
    ledger.submit(RECOVERY, again)
    assert ledger.state.owned_by(NEXT.account) == PROVIDER.account
    ledger.submit(NEXT, Transfer(to=CLIENT.account, amount_micro=1_000_000))
    assert adds_up(ledger)


def test_an_owner_voids_a_recovery_that_it_did_not_want(ledger):
    """A stolen recovery key announces for everybody to see; the owner names another guard, or rotates."""
    ledger.submit(PROVIDER, Guard(recovery=RECOVERY.account))
    rotate(ledger, PROVIDER, NEXT, by=RECOVERY)
    ledger.submit(PROVIDER, Guard(recovery=LATER.account))
    assert ledger.state.keys(PROVIDER.account) == Keys(owner=PROVIDER.account, recovery=LATER.account)
    ledger.mark(NOW + OBJECTION_MS)
    refused(ledger, RECOVERY, Rotation(account=PROVIDER.account, consent=consent(NEXT, PROVIDER)), "not_guardian")


def test_the_operator_s_key_is_not_rotated_in_its_own_log(ledger):
    """It signs the checkpoints, whose verifiers know it by name."""
    body = Rotation(account=OPERATOR.account, consent=consent(NEXT, OPERATOR))
    refused(ledger, OPERATOR, body, "operator")


def test_credits_do_not_go_to_a_key_of_an_account(ledger):
    """Nobody could spend them there."""
    rotate(ledger, PROVIDER, NEXT)
    refused(ledger, CLIENT, Transfer(to=NEXT.account, amount_micro=1), "no_account", Conflict)
    ledger.submit(CLIENT, Transfer(to=PROVIDER.account, amount_micro=1))
    assert adds_up(ledger)
