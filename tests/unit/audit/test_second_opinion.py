"""What the audit computes once more, held against contracts and states that are wrong themselves."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.audit.logs import AWARD, SETTLEMENT, SIGNER, FilesLog, audit, begun, blamed, log_files, story
from tests.unit.rules.world import CLIENT, NOW, PROVIDER, REGISTRY, RIVAL, Ledger, make_offer
from wwwmarket.domain.book import Account, ListedOffer, OpenAward
from wwwmarket.domain.records import Transfer
from wwwmarket.market.audit import Auditor, BalanceClaimed, follow
from wwwmarket.market.audit.balances import conservation_fault, holding_fault
from wwwmarket.rules.registry import CATALOGUE, Registry

CONTRACTS = Path(__file__).parents[3] / "contracts"


def registry_with(rule: str, *changes: tuple[str, str]) -> Registry:
    """A program whose contract ``rule`` is another one, in force by its own hash."""
    sources = {name: (CONTRACTS / f"{name}.py").read_bytes() for name in CATALOGUE}
    for old, new in changes:
        assert old.encode() in sources[rule]
        sources[rule] = sources[rule].replace(old.encode(), new.encode())
    return Registry(sources)


def story_under(registry: Registry, monkeypatch):
    """The story, as a market whose every node runs that program writes it."""
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", registry)
    monkeypatch.setattr("tests.unit.audit.logs.REGISTRY", registry)
    return log_files(story().leaves)


def test_a_contract_that_takes_any_winner_is_found(monkeypatch):
    """A market whose award contract lets the worse ask win agrees with itself, and fails check 12."""
    lax = registry_with("award/v2", ("        _check_order(body, body.runner_up, facts)\n", ""))
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", lax)
    ledger = begun()
    body = ledger.award_body(ledger.list_offers())
    swapped = replace(body, winner=body.runner_up, runner_up=body.winner)
    offer = ledger.state.offer(swapped.winner.body.offer).offer
    clearing = lax.current.award.clear(body.bid, swapped.winner.body, offer, swapped.runner_up.body)
    ledger.submit(CLIENT, replace(swapped, prices=clearing.prices, locked_micro=clearing.locked_micro))
    ledger.mark(NOW)
    assert blamed(audit(log_files(ledger.leaves), registry=lax)) == [(12, AWARD)]


def test_a_contract_that_takes_any_price_is_found(monkeypatch):
    """A market whose award contract does not look at prices fails check 12."""
    lax = registry_with("award/v2", ("    if award.prices != clearing.prices:", "    if False:"))
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", lax)
    ledger = begun()
    body = ledger.award_body(ledger.list_offers())
    ledger.submit(CLIENT, replace(body, prices=replace(body.prices, input_micro_per_mtok=1)))
    ledger.mark(NOW)
    assert blamed(audit(log_files(ledger.leaves), registry=lax)) == [(12, AWARD)]


def test_a_contract_that_pays_more_than_was_counted_is_found(monkeypatch):
    """A market whose settlement contract moves a credit too many to the provider fails check 13."""
    generous = registry_with(
        "settlement/v2", ("return (*_pay(book, opened, paid),", "return (*_pay(book, opened, paid + 1),")
    )
    files = story_under(generous, monkeypatch)
    assert blamed(audit(files, registry=generous)) == [(13, SETTLEMENT)]


def test_a_contract_that_leaves_the_award_open_is_found(monkeypatch):
    """A market in which an award stays open after it was paid fails check 13."""
    forgetful = registry_with(
        "settlement/v2",
        ("return (*_pay(book, opened, paid), AwardRow(id=body.award, value=None))", "return _pay(book, opened, paid)"),
    )
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", forgetful)
    ledger = begun()
    ledger.settle(ledger.award(ledger.list_offers()))
    ledger.mark(NOW)
    assert (13, 4) in blamed(audit(log_files(ledger.leaves), registry=forgetful))


def test_a_contract_that_locks_for_nothing_is_found(monkeypatch):
    """A market whose accounts hold locks that no award explains fails check 15."""
    sticky = registry_with(
        "award/v2",
        (
            "        locked_micro=client.locked_micro + body.locked_micro,",
            "        locked_micro=client.locked_micro + body.locked_micro - 1,",
        ),
        (
            "        available_micro=client.available_micro - body.locked_micro,",
            "        available_micro=client.available_micro - body.locked_micro + 1,",
        ),
    )
    monkeypatch.setattr("tests.unit.rules.world.REGISTRY", sticky)
    ledger = begun()
    ledger.award(ledger.list_offers())
    ledger.mark(NOW)
    assert blamed(audit(log_files(ledger.leaves), registry=sticky)) == [(15, 4)]


def opened(ledger: Ledger, **changes) -> OpenAward:
    award = ledger.award_body(ledger.list_offers(), **changes)
    return OpenAward(client=CLIENT.account, provider=PROVIDER.account, award=award, awarded_ms=NOW)


def test_what_is_open_past_its_expiry_is_found():
    """An award at its expiry, or an offer at its end, has outlived it."""
    award = opened(Ledger.begun())
    locks = {CLIENT.account: Account(locked_micro=award.award.locked_micro)}
    assert holding_fault(locks, {"a": award}, {}, {}, award.award.expires_ms - 1) is None
    assert holding_fault(locks, {"a": award}, {}, {}, award.award.expires_ms).account == CLIENT.account
    offer = ListedOffer(provider=RIVAL.account, offer=make_offer())
    bonds = {RIVAL.account: Account(bonded_micro=5_000)}
    assert holding_fault(bonds, {}, {"o": offer}, {}, NOW) is None
    assert holding_fault(bonds, {}, {"o": offer}, {}, offer.offer.valid_until_ms).account == RIVAL.account


@pytest.mark.parametrize("held", [Account(locked_micro=1), Account(bonded_micro=1)])
def test_what_is_held_for_nothing_is_found(held):
    """A lock without an award and a bond without an offer are faults."""
    assert holding_fault({RIVAL.account: held}, {}, {}, {}, NOW).account == RIVAL.account


def test_credits_that_do_not_add_up_are_found():
    """Accounts that hold more or less than the genesis granted, or that owe, are faults."""
    accounts = {CLIENT.account: Account(available_micro=3, locked_micro=2), RIVAL.account: Account(bonded_micro=1)}
    assert conservation_fault(accounts, 6) is None
    assert conservation_fault(accounts, 5) is not None
    assert conservation_fault(accounts, 7) is not None
    owing = {CLIENT.account: Account(available_micro=-1, locked_micro=7)}
    assert conservation_fault(owing, 6).account == CLIENT.account


def followed_story() -> Auditor:
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    list(follow(auditor, FilesLog(log_files(story().leaves))))
    return auditor


def test_true_balances_pass():
    """Claims of what the replay comes to pass check 16."""
    auditor = followed_story()
    for account, held in auditor.state.accounts().items():
        auditor.step(
            BalanceClaimed(
                account=account,
                available_micro=held.available_micro,
                locked_micro=held.locked_micro,
                bonded_micro=held.bonded_micro,
            )
        )
    report = auditor.report()
    assert (report.verdict, report.checks[15].verdict, report.checks[15].examined) == ("pass", "pass", 5)


@given(st.sampled_from(["available_micro", "locked_micro", "bonded_micro"]), st.integers(1, 10**9))
def test_a_forged_balance_is_found(field, more):
    """A claim that differs in any part fails check 16, and names the account."""
    auditor = followed_story()
    held = auditor.state.account(CLIENT.account)
    claim = {name: getattr(held, name) for name in ("available_micro", "locked_micro", "bonded_micro")}
    claim[field] += more
    auditor.step(BalanceClaimed(account=CLIENT.account, **claim))
    assert auditor.disputes_balances
    report = auditor.report()
    assert [(int(each.check), each.account) for each in report.findings] == [(16, CLIENT.account)]


def test_a_balance_of_entries_still_to_come_is_borne_out_by_them():
    """A claim about a longer ledger is held against what the account comes to hold as the audit reads on."""
    ledger = story()
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    list(follow(auditor, FilesLog(log_files(ledger.leaves))))
    ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=7))
    later = ledger.state.account(CLIENT.account).available_micro
    auditor.step(BalanceClaimed(account=CLIENT.account, available_micro=later))
    assert auditor.disputes_balances
    ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=7))
    ledger.mark(NOW + 200_000)
    list(follow(auditor, FilesLog(log_files(ledger.leaves))))
    assert not auditor.disputes_balances
    assert auditor.report().verdict == "pass"


def test_nobodys_balance_is_empty():
    """An account that nothing is known of holds nothing; a claim that says more is found."""
    auditor = followed_story()
    auditor.step(BalanceClaimed(account="f" * 64, available_micro=0))
    auditor.step(BalanceClaimed(account="e" * 64, available_micro=1))
    assert [each.account for each in auditor.report().findings] == ["e" * 64]
