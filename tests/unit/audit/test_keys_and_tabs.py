"""Keys and tabs in an audit: what a replaced key wrote, and what a tab paid that nobody vouched for, is found."""

import pytest
from msgspec.structs import replace

from tests.unit.audit.logs import audit, audit_leaves, begun, blamed, log_files
from tests.unit.audit.test_second_opinion import registry_with
from tests.unit.rules.world import CLIENT, NOW, PROVIDER, consent, key, make_voucher
from wwwmarket.domain.keys import Delegation, Guard, Rotation
from wwwmarket.domain.records import TabOpening, TabSettlement, Transfer

HOUR_MS = 3_600_000
NEXT, MACHINE, RECOVERY = map(key, ("the next key", "a machine", "the recovery key"))


def open_tab(ledger):
    body = TabOpening(provider=PROVIDER.account, locked_micro=1_000, expires_ms=NOW + HOUR_MS)
    return ledger.submit(CLIENT, body).checked.id


def with_tab():
    """Keys changed in each way, a tab settled, another left to expire."""
    ledger = begun()
    ledger.submit(CLIENT, Rotation(account=CLIENT.account, consent=consent(NEXT, CLIENT)))
    ledger.submit(PROVIDER, Delegation(consent=consent(MACHINE, PROVIDER, "machine")))
    ledger.submit(PROVIDER, Guard(recovery=RECOVERY.account))
    body = TabOpening(provider=PROVIDER.account, locked_micro=1_000, expires_ms=NOW + HOUR_MS)
    tabs = [ledger.submit(NEXT, body).checked.id for _ in range(2)]
    ledger.submit(MACHINE, TabSettlement(tab=tabs[0], voucher=make_voucher(NEXT, tabs[0])))
    ledger.mark(NOW + HOUR_MS)
    ledger.mark(NOW + HOUR_MS + 1)
    return ledger


def test_an_honest_log_with_keys_and_tabs_passes():
    """Every check holds, and payments were examined."""
    report = audit_leaves(with_tab().leaves)
    assert blamed(report) == []
    assert {int(one.check): one.examined for one in report.checks}[13] == 1


@pytest.mark.parametrize("author", [CLIENT, MACHINE])
def test_an_entry_by_a_key_that_may_not_is_found(author):
    """A replaced key, and a machine that spends: the contract accepts neither, check 10."""
    ledger = begun()
    ledger.submit(CLIENT, Rotation(account=CLIENT.account, consent=consent(NEXT, CLIENT)))
    ledger.submit(PROVIDER, Delegation(consent=consent(MACHINE, PROVIDER, "machine")))
    index = ledger.force(author, Transfer(to=PROVIDER.account, amount_micro=1))
    ledger.marked()
    assert blamed(audit_leaves(ledger.leaves)) == [(10, index)]


def test_a_tab_settled_twice_is_found():
    """Check 13: it left the state with its settlement."""
    ledger = begun()
    tab = open_tab(ledger)
    body = TabSettlement(tab=tab, voucher=make_voucher(CLIENT, tab))
    ledger.submit(PROVIDER, body)
    index = ledger.force(PROVIDER, body)
    ledger.marked()
    assert blamed(audit_leaves(ledger.leaves)) == [(13, index)]


def test_a_tab_settled_above_its_lock_is_found():
    """Check 13, also where the client vouched for it."""
    ledger = begun()
    tab = open_tab(ledger)
    voucher = make_voucher(CLIENT, tab, cost_micro=1_001, paid_micro=1_001)
    index = ledger.force(PROVIDER, TabSettlement(tab=tab, voucher=voucher))
    ledger.marked()
    assert blamed(audit_leaves(ledger.leaves)) == [(13, index)]


def test_a_voucher_that_nobody_signed_is_found():
    """Check 8: of what is signed inside an entry."""
    ledger = begun()
    tab = open_tab(ledger)
    forged = make_voucher(PROVIDER, tab)
    index = ledger.force(PROVIDER, TabSettlement(tab=tab, voucher=replace(forged, signer=CLIENT.account)))
    ledger.marked()
    assert blamed(audit_leaves(ledger.leaves)) == [(8, index)]


def test_a_contract_that_pays_more_than_was_vouched_for_is_found(monkeypatch):
    """A market whose tab contract is generous agrees with itself, and fails check 13."""
    generous = registry_with("tab/v2", ("return (*_pay(book, opened, paid),", "return (*_pay(book, opened, paid + 1),"))
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", generous)
    ledger = begun()
    tab = open_tab(ledger)
    settled = ledger.submit(PROVIDER, TabSettlement(tab=tab, voucher=make_voucher(CLIENT, tab)))
    ledger.mark(NOW)
    assert blamed(audit(log_files(ledger.leaves), registry=generous)) == [(13, settled.index)]


def test_a_contract_that_locks_less_for_a_tab_than_it_says_is_found(monkeypatch):
    """Check 15: what is locked belongs to an open award or tab."""
    sticky = registry_with(
        "tab/v2",
        (
            "locked_micro=client.locked_micro + body.locked_micro,",
            "locked_micro=client.locked_micro + body.locked_micro - 1,",
        ),
        (
            "available_micro=client.available_micro - body.locked_micro,",
            "available_micro=client.available_micro - body.locked_micro + 1,",
        ),
    )
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", sticky)
    ledger = begun()
    open_tab(ledger)
    mark = ledger.mark(NOW)
    assert blamed(audit(log_files(ledger.leaves), registry=sticky)) == [(15, mark.index)]
