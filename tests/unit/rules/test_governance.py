"""What a committee decides: its successors, new contracts from a stated entry on, new credits."""

from pathlib import Path

import pytest
from msgspec.structs import replace

from tests.unit.rules.world import (
    ADDRESS,
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    Ledger,
    key,
    make_genesis,
)
from wwwmarket.crypto.signing import certify
from wwwmarket.domain.book import Account
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.errors import Conflict, Forbidden, Malformed, Refusal, Stale, Unauthorised
from wwwmarket.domain.quantity import INTEGER_MAX
from wwwmarket.domain.records import Certified, Decree, Dispute, Election, Mark, Mint, Succession, Upgrade, Withdrawal
from wwwmarket.rules import registry
from wwwmarket.rules.state import State

ORIGIN = "test.example/log"
HASHES = REGISTRY.hashes
MIRRORS = [key(f"mirror {number}") for number in range(4)]


def committee(mirrors) -> Committee:
    return Committee(
        members=tuple(
            Member(
                name=f"mirror.example/{mirror.account[:8]}",
                account=mirror.account,
                cosigner=key(f"cosigner of {mirror.account}").account,
                url="http://127.0.0.1:9100",
            )
            for mirror in mirrors
        )
    )


def decree(resolution, signers=MIRRORS[:3]) -> Decree:
    signatures = sorted((certify(signer, resolution) for signer in signers), key=lambda each: each.signer)
    return Decree(resolution=Certified(body=resolution, signatures=tuple(signatures)))


def mint(number=0, **changes) -> Mint:
    return replace(Mint(origin=ORIGIN, number=number, to=CLIENT.account, amount_micro=7), **changes)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun(committee=committee(MIRRORS))


def refused(kind: type[Refusal], reason: str, ledger: Ledger, body) -> None:
    before = (ledger.state.snapshot(), ledger.state.root())
    with pytest.raises(kind) as refusal:
        ledger.submit(STRANGER, body)
    assert refusal.value.reason == reason
    assert (ledger.state.snapshot(), ledger.state.root()) == before


@pytest.mark.parametrize(
    ("members", "faults", "quorum"), [(0, 0, 0), (1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (7, 2, 5), (31, 10, 21)]
)
def test_any_two_quorums_share_an_honest_member(members, faults, quorum):
    """Of n members n - f agree; two such groups share at least f + 1 members."""
    seated = committee([key(str(number)) for number in range(members)])
    assert (seated.faults_max, seated.quorum) == (faults, quorum)
    assert members == 0 or 2 * quorum - members > faults


def test_a_quorum_mints_and_anybody_may_write_it(ledger):
    """Three of four certify new credits; they exist from then on, and the total says so."""
    total_micro = ledger.state.total_micro
    ledger.submit(STRANGER, decree(mint()))
    assert ledger.state.account(CLIENT.account) == Account(available_micro=1_000_007)
    assert ledger.state.total_micro == total_micro + 7
    refused(Conflict, "other_number", ledger, decree(mint()))
    ledger.submit(STRANGER, decree(mint(1)))
    assert ledger.state.governance.minted_micro == 14


def test_no_more_credits_than_can_be_counted(ledger):
    """24: all credits together stay within 2^53 - 1."""
    refused(Conflict, "overflow", ledger, decree(mint(amount_micro=INTEGER_MAX)))


def test_a_decree_needs_a_quorum_of_members_in_this_log_and_in_turn(ledger):
    """14 to 17: another log's, another number, a stranger's signature, or too few are refused."""
    refused(Conflict, "other_log", ledger, decree(mint(origin="other.example/log")))
    refused(Conflict, "other_number", ledger, decree(mint(1)))
    refused(Forbidden, "not_member", ledger, decree(mint(), [*MIRRORS[:3], STRANGER]))
    refused(Forbidden, "no_quorum", ledger, decree(mint(), MIRRORS[:2]))
    refused(Forbidden, "no_quorum", Ledger.begun(), decree(mint(), []))


def test_a_signature_that_does_not_hold_is_refused(ledger):
    """A certified record with a false signature, or one signer twice, is refused before the state sees it."""
    true = decree(mint()).resolution
    false = replace(true, body=mint(amount_micro=8))
    with pytest.raises(Unauthorised):
        ledger.submit(STRANGER, Decree(resolution=false))
    twice = replace(true, signatures=(true.signatures[0], *true.signatures[:2]))
    with pytest.raises(Malformed):
        ledger.submit(STRANGER, Decree(resolution=twice))


def test_a_new_committee_takes_the_old_ones_place(ledger):
    """After an election only the new members decree."""
    elected = [key(f"elected {number}") for number in range(7)]
    ledger.submit(STRANGER, decree(Election(origin=ORIGIN, number=0, committee=committee(elected))))
    assert ledger.state.governance.committee == committee(elected)
    refused(Forbidden, "not_member", ledger, decree(mint(1)))
    refused(Forbidden, "no_quorum", ledger, decree(mint(1), elected[:4]))
    ledger.submit(STRANGER, decree(mint(1), elected[:5]))


def test_a_committee_has_members_each_once(ledger):
    """10, 18: nobody elects an empty committee, nor seats one member twice."""
    refused(Malformed, "no_members", ledger, decree(Election(origin=ORIGIN, number=0, committee=Committee())))
    double = committee([*MIRRORS, MIRRORS[0]])
    refused(Malformed, "member_twice", ledger, decree(Election(origin=ORIGIN, number=0, committee=double)))
    with pytest.raises(Malformed) as refusal:
        Ledger.begun(committee=double)
    assert refusal.value.reason == "member_twice"


def upgrade(from_index, contracts, number=0) -> Decree:
    return decree(Upgrade(origin=ORIGIN, number=number, contracts=contracts, from_index=from_index))


FIRST = {rule: source for rule, source in REGISTRY.hashes.items() if rule.endswith("/v1")}


@pytest.fixture
def old() -> Ledger:
    """A log that began with the first version of each contract."""
    return Ledger.begun(committee=committee(MIRRORS), contracts=FIRST)


def test_contracts_change_at_the_stated_entry(old):
    """Before the index the old ones are in force, from it on the new ones, after a restart too; what is open goes on."""
    offers = old.list_offers()
    award = old.award(offers)
    refused(Conflict, "not_in_force", old, Dispute(award=award))
    old.submit(STRANGER, upgrade(old.state.size + 2, REGISTRY.latest))
    old.submit(PROVIDER, Withdrawal(offer=offers[0]))
    assert not old.state.unbondings()
    assert old.state.governance.upgrade is None
    assert dict(old.state.governance.contracts) == REGISTRY.latest
    restored = Ledger(State.restore(REGISTRY, old.state.snapshot(), old.state.root()))
    for ledger in (old, restored):
        ledger.submit(RIVAL, Withdrawal(offer=offers[1]))
        assert set(ledger.state.unbondings()) == {offers[1]}
        ledger.mark(NOW + 60_000)
        ledger.submit(CLIENT, Dispute(award=award))
    assert old.state.root() == restored.state.root()


def test_an_upgrade_is_in_the_future_one_at_a_time_and_known_here(old):
    """19, 20, 21: what is past, what would overtake another, and what this program lacks is refused."""
    refused(Stale, "too_late", old, upgrade(old.state.size, REGISTRY.latest))
    refused(Conflict, "contract_missing", old, upgrade(9, {"lottery/v1": "0" * 64}))
    refused(Conflict, "contract_differs", old, upgrade(9, {"offer/v1": "0" * 64}))
    old.submit(STRANGER, upgrade(9, REGISTRY.latest))
    refused(Conflict, "upgrade_waiting", old, upgrade(12, REGISTRY.latest, number=1))


def test_no_contract_goes_back(ledger):
    """22: what a newer version wrote, an older one would lose; and none is left out."""
    refused(Conflict, "goes_back", ledger, upgrade(9, FIRST))
    without = {rule: source for rule, source in REGISTRY.latest.items() if not rule.startswith("account/")}
    refused(Conflict, "goes_back", ledger, upgrade(9, without))


def test_the_root_tells_governance_apart(ledger):
    """Two states that differ only in what is decided have different roots."""
    before = ledger.state.root()
    ledger.submit(OPERATOR, upgrade(1_000, REGISTRY.latest))
    assert ledger.state.root() != before
    other = Ledger.begun()
    assert other.state.root() != Ledger.begun(committee=committee(MIRRORS)).state.root()
    assert make_genesis().at_ms == NOW


def test_one_version_of_each_contract_is_in_force(monkeypatch):
    """7, 21: two versions of a family would both claim the same entries."""
    monkeypatch.setattr(registry, "CATALOGUE", (*registry.CATALOGUE, "offer/v9"))
    sources = {rule: (Path(registry.__file__).parents[2] / f"contracts/{rule}.py").read_bytes() for rule in HASHES}
    two = registry.Registry(sources | {"offer/v9": sources["offer/v1"]})
    with pytest.raises(Malformed) as refusal:
        two.rules(two.hashes)
    assert refusal.value.reason == "contract_twice"
    assert "offer/v9" in two.latest
    assert "offer/v1" not in two.latest


SUCCESSOR = key("successor")


def succession(ledger: Ledger, **changes) -> Succession:
    """What would follow now."""
    next_one = Succession(
        origin=ledger.state.origin,
        number=ledger.state.governance.decrees,
        size=ledger.state.size,
        root="0" * 64,
        successor="test.example/log2",
        operator=SUCCESSOR.account,
        operator_address=ADDRESS,
    )
    return replace(next_one, **changes)


def test_a_quorum_gives_the_log_to_another_operator(ledger):
    """From then on the new operator marks and the old one does not; balances and contracts stay."""
    total_micro, committee_before = ledger.state.total_micro, ledger.state.governance.committee
    ledger.submit(SUCCESSOR, decree(succession(ledger)))
    assert (ledger.state.origin, ledger.state.operator) == ("test.example/log2", SUCCESSOR.account)
    assert (ledger.state.total_micro, ledger.state.governance.committee) == (total_micro, committee_before)
    mark = Mark(at_ms=NOW + 5, state_root=ledger.state.root())
    with pytest.raises(Forbidden) as refusal:
        ledger.submit(OPERATOR, mark)
    assert refusal.value.reason == "not_operator"
    ledger.submit(SUCCESSOR, mark)
    refused(Conflict, "other_log", ledger, decree(mint(1)))
    ledger.submit(STRANGER, decree(mint(1, origin="test.example/log2")))
    root = ledger.state.root()
    assert State.restore(REGISTRY, ledger.state.snapshot(), root).root() == root


def test_a_succession_stands_in_its_place_by_its_operator_under_a_new_name(ledger):
    """25 to 27."""
    refused(Conflict, "other_place", ledger, decree(succession(ledger, size=ledger.state.size + 1)))
    refused(Forbidden, "not_operator", ledger, decree(succession(ledger)))
    used = decree(succession(ledger, successor=ORIGIN, operator=STRANGER.account))
    refused(Conflict, "origin_used", ledger, used)
    refused(Forbidden, "no_quorum", ledger, decree(succession(ledger, operator=STRANGER.account), MIRRORS[:2]))
