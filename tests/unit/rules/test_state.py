"""The fold of entries: what is refused, what follows, and what the root says of it."""

import re
from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PEOPLE,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    Ledger,
    make_attestation,
    make_genesis,
    make_offer,
    make_receipt,
    make_settlement,
    named,
)
from wwwmarket.crypto import canonical
from wwwmarket.domain.book import Account, AccountRow, AwardRow, OfferRow, UnbondingRow
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Refusal, Stale
from wwwmarket.domain.identity import NO_ENTRY
from wwwmarket.domain.quantity import INTEGER_MAX
from wwwmarket.domain.records import Grant, Mark, Transfer, Withdrawal
from wwwmarket.rules import state as state_module
from wwwmarket.rules.state import State

HOUR_MS = 3_600_000
"""The default unbonding time."""


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun()


def refused(kind: type[Refusal], reason: str, ledger: Ledger, checked) -> None:
    """``checked`` is refused for ``reason``, and nothing has changed."""
    before = (ledger.state.snapshot(), ledger.state.root()) if ledger.state.genesis else None
    with pytest.raises(kind) as refusal:
        ledger.state.apply(checked)
    assert refusal.value.reason == reason
    assert ((ledger.state.snapshot(), ledger.state.root()) if ledger.state.genesis else None) == before


PAY = Transfer(to=PROVIDER.account, amount_micro=10)


def test_a_genesis_grants_all_the_credits_there_are(ledger):
    """After entry 0 the accounts have their grants, time is the genesis's, and the author's chain has begun."""
    state = ledger.state
    assert state.size == 1
    assert state.now_ms == NOW
    assert state.genesis == make_genesis()
    assert state.total_micro == 5_000_000
    assert dict(state.accounts()) == {person.account: Account(available_micro=1_000_000) for person in PEOPLE}
    assert state.chain_head(OPERATOR.account).next_seq == 1
    assert State(REGISTRY).total_micro == 0


def test_an_accounts_first_entry_follows_the_genesis(ledger):
    """So a chain that began in one log can be replayed in no other, whose genesis differs."""
    genesis = ledger.state.chain_head(OPERATOR.account).prev
    assert ledger.state.chain_head(CLIENT.account) == (0, genesis)
    assert genesis != NO_ENTRY
    first = ledger.entry(CLIENT, PAY)
    other = Ledger.begun(at_ms=NOW + 1)
    refused(Conflict, "chain", other, first)


def test_what_was_applied_is_told(ledger):
    """The index, the entry and the rows that changed come back, so that others can react."""
    checked = ledger.entry(CLIENT, PAY)
    applied = ledger.state.apply(checked)
    assert (applied.index, applied.checked) == (1, checked)
    assert applied.rows == (
        AccountRow(id=CLIENT.account, value=Account(available_micro=999_990)),
        AccountRow(id=PROVIDER.account, value=Account(available_micro=1_000_010)),
    )
    assert ledger.state.chain_head(CLIENT.account) == (1, checked.id)


def test_an_entry_is_applied_once_and_in_its_place(ledger):
    """1: a repeated entry, one that skips, and one with another predecessor are refused."""
    first = ledger.entry(CLIENT, PAY)
    refused(Conflict, "chain", ledger, replace(first, seq=1))
    refused(Conflict, "chain", ledger, replace(first, prev=named("another")))
    ledger.state.apply(first)
    refused(Conflict, "chain", ledger, first)
    refused(Conflict, "chain", ledger, replace(first, seq=1))


def test_entry_0_is_a_genesis_and_no_other_is(ledger):
    """2: a log begins with a genesis, and has one."""
    refused(Conflict, "genesis", ledger, ledger.entry(OPERATOR, make_genesis()))
    empty = Ledger()
    for body in (PAY, make_offer(), Mark(at_ms=NOW, state_root=empty.state.root())):
        refused(Conflict, "genesis", empty, empty.entry(OPERATOR, body))


def test_only_contracts_in_force_are_followed():
    """3: what the genesis does not put in force cannot be said."""
    hashes = REGISTRY.latest
    del hashes["offer/v2"]
    ledger = Ledger.begun(contracts=hashes)
    refused(Conflict, "not_in_force", ledger, ledger.entry(PROVIDER, make_offer()))
    refused(Conflict, "not_in_force", ledger, ledger.entry(PROVIDER, Withdrawal(offer=NO_ENTRY)))
    ledger.submit(CLIENT, PAY)


def test_a_genesis_is_the_operator_s():
    """6: nobody founds a log in another's name."""
    empty = Ledger()
    refused(Forbidden, "not_operator", empty, empty.entry(STRANGER, make_genesis()))


@pytest.mark.parametrize(
    ("change", "kind", "reason"),
    [
        ({"contracts": {"award/v1": "0" * 64}}, Conflict, "contract_differs"),
        ({"contracts": {"award/v9": "0" * 64}}, Conflict, "contract_missing"),
        ({"grants": (Grant(account=CLIENT.account, amount_micro=1),) * 2}, Malformed, "granted_twice"),
        (
            {
                "grants": (
                    Grant(account=CLIENT.account, amount_micro=INTEGER_MAX),
                    Grant(account=RIVAL.account, amount_micro=1),
                )
            },
            Malformed,
            "overflow",
        ),
    ],
)
def test_a_genesis_that_does_not_hold_is_refused(change, kind, reason):
    """7, 8, 9: other contracts, a second grant to one account, more credits than an integer holds."""
    empty = Ledger()
    refused(kind, reason, empty, empty.entry(OPERATOR, make_genesis(**change)))
    assert empty.state.genesis is None
    assert empty.state.size == 0


def test_all_the_credits_that_can_be_may_be_granted():
    """The largest grant is the largest integer, and it can move."""
    ledger = Ledger.begun(grants=(Grant(account=CLIENT.account, amount_micro=INTEGER_MAX),))
    ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=INTEGER_MAX))
    assert dict(ledger.state.accounts()) == {RIVAL.account: Account(available_micro=INTEGER_MAX)}
    assert ledger.state.account(CLIENT.account) == Account()


def test_a_mark_is_the_operator_s_and_true(ledger):
    """11, 12, 13: only the operator marks, never back in time, and only over the state that there is."""
    root = ledger.state.root()
    refused(Forbidden, "not_operator", ledger, ledger.entry(STRANGER, Mark(at_ms=NOW, state_root=root)))
    refused(Stale, "time_goes_back", ledger, ledger.entry(OPERATOR, Mark(at_ms=NOW - 1, state_root=root)))
    refused(Conflict, "other_state", ledger, ledger.entry(OPERATOR, Mark(at_ms=NOW, state_root=NO_ENTRY)))
    ledger.submit(CLIENT, PAY)
    refused(Conflict, "other_state", ledger, ledger.entry(OPERATOR, Mark(at_ms=NOW, state_root=root)))
    ledger.mark(NOW)
    ledger.mark(NOW + 5)
    assert ledger.state.now_ms == NOW + 5


def test_a_refusal_of_a_contract_changes_nothing(ledger):
    """What a contract refuses leaves the state, the root and the chain as they were."""
    refused(Malformed, "to_itself", ledger, ledger.entry(CLIENT, Transfer(to=CLIENT.account, amount_micro=1)))
    refused(Conflict, "not_open", ledger, ledger.entry(CLIENT, settlement_of(named("no award"))))
    ledger.submit(CLIENT, PAY)


def settlement_of(award, *, receipt=True):
    return make_settlement(award, make_attestation(PROVIDER, award), make_receipt(CLIENT, award) if receipt else None)


def test_an_award_locks_and_a_settlement_pays_once(ledger):
    """The lock is the client's, the payment the provider's, the rest returns, and nothing settles twice."""
    state, award = ledger.state, ledger.award(ledger.list_offers())
    locked_micro = state.award(award).award.locked_micro
    assert state.account(CLIENT.account) == Account(available_micro=1_000_000 - locked_micro, locked_micro=locked_micro)
    settlement = settlement_of(award)
    paid = REGISTRY.current.settlement.payment(
        state.award(award).award, settlement.attestation.body, settlement.receipt.body
    )
    applied = ledger.submit(CLIENT, settlement)
    assert AwardRow(id=award, value=None) in applied.rows
    assert state.account(CLIENT.account) == Account(available_micro=1_000_000 - paid)
    assert state.account(PROVIDER.account) == Account(available_micro=995_000 + paid, bonded_micro=5_000)
    for author in (CLIENT, PROVIDER):
        refused(Conflict, "not_open", ledger, ledger.entry(author, settlement))


def test_awards_outlive_a_withdrawal(ledger):
    """A withdrawn offer takes no new award, and those that it has are settled as before."""
    offers = ledger.list_offers()
    award = ledger.award(offers)
    late = ledger.entry(CLIENT, ledger.award_body(offers))
    ledger.submit(PROVIDER, Withdrawal(offer=offers[0]))
    with pytest.raises(Refusal, match="not listed"):
        ledger.state.apply(late)
    ledger.submit(PROVIDER, settlement_of(award))
    assert ledger.state.award(award) is None


def test_what_is_due_at_a_mark_is_freed(ledger):
    """Awards at their expiry unlock, offers at their end unlist and unbond, by (instant, id), and not a moment before."""
    state, offers = ledger.state, ledger.list_offers()
    awards = [ledger.award(offers), ledger.award(offers, expires_ms=NOW + 90_000), ledger.award(offers)]
    assert ledger.mark(NOW + 89_999).rows == ()
    assert ledger.mark(NOW + 90_000).rows[-1] == AwardRow(id=awards[1], value=None)
    applied = ledger.mark(NOW + 86_400_000)
    gone = [AwardRow(id=award, value=None) for award in sorted((awards[0], awards[2]))]
    gone += [OfferRow(id=offer, value=None) for offer in sorted(offers)]
    rows = [row for row in applied.rows if not isinstance(row, AccountRow)]
    assert rows[: len(gone)] == gone
    assert {row.id for row in rows[len(gone) :]} == set(offers) == set(state.unbondings())
    ledger.mark(NOW + 86_400_000 + HOUR_MS - 1)
    assert set(state.unbondings()) == set(offers)
    freed = ledger.mark(NOW + 86_400_000 + HOUR_MS)
    assert freed.rows[-2:] == tuple(UnbondingRow(id=offer, value=None) for offer in sorted(offers))
    assert set(state.accounts().values()) == {Account(available_micro=1_000_000)}
    assert not state.awards()
    assert not state.offers()


def test_after_its_expiry_an_award_cannot_be_settled(ledger):
    """Once a mark has unlocked an award, its settlement comes too late."""
    award = ledger.award(ledger.list_offers())
    ledger.mark(NOW + 120_000)
    refused(Conflict, "not_open", ledger, ledger.entry(PROVIDER, settlement_of(award, receipt=False)))


def test_a_provider_claims_alone_between_claim_and_expiry(ledger):
    """Without a receipt the provider is paid from the time for claiming on."""
    award = ledger.award(ledger.list_offers())
    alone = settlement_of(award, receipt=False)
    refused(Stale, "too_early", ledger, ledger.entry(PROVIDER, alone))
    ledger.mark(NOW + 60_000)
    ledger.submit(PROVIDER, alone)
    assert ledger.state.account(PROVIDER.account).available_micro > 995_000


def test_offers_can_be_found_by_model(ledger):
    """Listed offers are found by their model's name, and by their number for each provider."""
    state, offers = ledger.state, ledger.list_offers()
    assert set(state.offers()) == set(state.offers_for("qwen3-8b")) == set(offers)
    assert not state.offers_for("another")
    assert state.offers_of(PROVIDER.account) == 1
    ledger.submit(PROVIDER, Withdrawal(offer=offers[0]))
    assert set(state.offers_for("qwen3-8b")) == {offers[1]}
    assert state.offer(offers[0]) is None
    assert state.offers_of(PROVIDER.account) == 0
    ledger.submit(RIVAL, Withdrawal(offer=offers[1]))
    assert not state.offers_for("qwen3-8b")


def test_every_change_changes_the_root(ledger):
    """Each entry leads to a root that was not seen before."""
    state = ledger.state
    roots = [state.root()]
    steps = [
        lambda: ledger.submit(CLIENT, PAY),
        ledger.list_offers,
        lambda: ledger.award(
            tuple(sorted(state.offers(), key=lambda offer: state.offer(offer).provider != PROVIDER.account))
        ),
        lambda: ledger.submit(CLIENT, settlement_of(next(iter(state.awards())))),
        lambda: ledger.mark(NOW + 1),
        lambda: ledger.mark(NOW + 86_400_000),
    ]
    for step in steps:
        step()
        roots.append(state.root())
    assert len(set(roots)) == len(roots)


def test_another_genesis_is_another_root():
    """The root covers what the genesis says, also what no account shows."""
    assert Ledger.begun().state.root() != Ledger.begun(origin="test.example/other").state.root()


def test_a_replica_may_start_from_a_snapshot(ledger):
    """A restored state has the same root and snapshot, and goes on alike."""
    offers = ledger.list_offers()
    award = ledger.award(offers)
    data, root = ledger.state.snapshot(), ledger.state.root()
    replica = Ledger(State.restore(REGISTRY, data, root))
    assert replica.state.snapshot() == data
    for each in (ledger, replica):
        each.submit(CLIENT, settlement_of(award))
        each.award(offers)
        each.mark(NOW + 86_400_000)
    assert replica.state.root() == ledger.state.root()
    assert replica.state.total_micro == ledger.state.total_micro


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, now_ms=s.now_ms + 1),
        lambda s: replace(s, size=s.size + 1),
        lambda s: replace(s, genesis=replace(s.genesis, origin="test.example/other")),
        lambda s: replace(s, accounts=s.accounts[1:]),
        lambda s: replace(s, accounts=(replace(s.accounts[0], value=Account(available_micro=9)), *s.accounts[1:])),
        lambda s: replace(s, chains=s.chains[1:]),
        lambda s: replace(s, offers=s.offers[1:]),
        lambda s: replace(s, offers=(replace(s.offers[0], value=None), *s.offers[1:])),
        lambda s: replace(s, awards=()),
        lambda s: replace(s, awards=(replace(s.awards[0], value=None),)),
    ],
)
def test_a_snapshot_of_another_state_is_refused(ledger, change):
    """Whatever is changed, added or left out, the root tells."""
    ledger.award(ledger.list_offers())
    data, root = ledger.state.snapshot(), ledger.state.root()
    snapshot = canonical.decode(data, state_module.Snapshot)
    with pytest.raises(Malformed) as refusal:
        State.restore(REGISTRY, canonical.encode(change(snapshot)), root)
    assert refusal.value.reason == "other_state"


def test_a_snapshot_may_repeat_itself_without_harm(ledger):
    """Rows that stand twice are read as one."""
    ledger.award(ledger.list_offers())
    root = ledger.state.root()
    once = canonical.decode(ledger.state.snapshot(), state_module.Snapshot)
    twice = replace(once, offers=once.offers * 2, awards=once.awards * 2, accounts=once.accounts * 2)
    assert State.restore(REGISTRY, canonical.encode(twice), root).snapshot() == ledger.state.snapshot()


def test_a_snapshot_under_other_contracts_is_refused(ledger):
    """A replica that lacks a contract in force does not start."""
    snapshot = canonical.decode(ledger.state.snapshot(), state_module.Snapshot)
    other = replace(snapshot, governance=replace(snapshot.governance, contracts={"award/v1": "0" * 64}))
    with pytest.raises(Conflict, match="in force"):
        State.restore(REGISTRY, canonical.encode(other), ledger.state.root())


def test_every_numbered_refusal_of_the_state_is_tested():
    """Each reason that the module lists is provoked by a test above."""
    listed = re.findall(r"``([a-z_]+)``[,)]", state_module.__doc__)
    assert len(set(listed)) == 25
    tests = [Path(__file__).with_name(f"test_{about}.py") for about in ("state", "governance", "keys")]
    ours = "".join(test.read_text(encoding="utf-8") for test in tests)
    assert [reason for reason in listed if f'"{reason}"' not in ours] == []
