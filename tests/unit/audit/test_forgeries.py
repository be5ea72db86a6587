"""What a forger does to a log, and which check names it: the stranger, who can only change files; the operator, who makes
the tree and its note anew; and both with everybody's keys.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.audit.logs import (
    AWARD,
    GENESIS,
    LAST_MARK,
    MARK,
    ORIGIN,
    SECOND_AWARD,
    SECOND_MARK,
    SETTLEMENT,
    SIGNER,
    TRANSFER,
    FilesLog,
    Forge,
    audit,
    audit_leaves,
    begun,
    blamed,
    edited,
    first,
    followed,
    log_files,
    long_story,
    story,
)
from tests.unit.rules.world import (
    CLIENT,
    NOW,
    OPERATOR,
    PROVIDER,
    REGISTRY,
    RIVAL,
    STRANGER,
    make_ask,
    make_award,
    make_bid,
    make_genesis,
    make_offer,
    make_receipt,
    make_settlement,
    named,
    prices,
)
from wwwmarket.crypto.signing import sign
from wwwmarket.domain.records import Mark, Transfer, Withdrawal
from wwwmarket.ledger.checkpoint import Checkpoint, sign_checkpoint
from wwwmarket.ledger.merkle import EMPTY_ROOT, leaf_hash, root_of
from wwwmarket.ledger.note import Signer
from wwwmarket.market.audit import Auditor, Check, follow

STORY = story()
FILES = log_files(STORY.leaves)
BUNDLE = "tile/entries/000.p/10"
TILE = "tile/0/000.p/10"


def raised(award):
    """The same award at a higher price."""
    return replace(award, prices=replace(award.prices, output_micro_per_mtok=award.prices.output_micro_per_mtok + 1))


def swapped(award):
    """The same award with winner and runner-up exchanged."""
    return replace(award, winner=award.runner_up, runner_up=award.winner)


def with_entry(index: int, leaf: bytes) -> list[bytes]:
    return [*STORY.leaves[:index], leaf, *STORY.leaves[index + 1 :]]


def test_an_honest_log_passes():
    """A log in which everything happened passes every check that it gives cause for."""
    report = audit(FILES)
    assert (report.verdict, report.findings) == ("pass", ())
    assert {each.check for each in report.checks if each.verdict != "pass"} == {Check.BALANCES, Check.COPIES}
    assert (report.entries, report.offers, report.awards, report.settlements, report.transfers) == (10, 2, 2, 1, 1)
    assert (report.total_micro, report.ledger_time_ms) == (5_000_000, NOW + 130_001)
    assert report.contracts == REGISTRY.latest
    assert (report.origin, report.checkpoint_size) == (ORIGIN, 10)


# 1


def test_a_forged_note_is_found():
    """A checkpoint that another key signed under the log's name fails check 1."""
    forged = log_files(STORY.leaves, Signer(ORIGIN, STRANGER))
    assert blamed(audit(forged)) == [(1, None)]


def test_a_changed_note_is_found():
    """A checkpoint whose size was changed after it was signed fails check 1, and what it says is compared all the same."""
    changed = {**FILES, "checkpoint": FILES["checkpoint"].replace(b"\n10\n", b"\n11\n")}
    assert blamed(audit(changed))[0] == (1, None)


def test_another_logs_checkpoint_is_found():
    """A whole log under another name, by another key, is not the log that was asked for."""
    other = log_files(STORY.leaves, Signer("other.example/log", OPERATOR))
    assert blamed(audit(other)) == [(1, None)]


def test_a_genesis_of_another_log_is_found():
    """A genesis that names another origin than the key's fails check 1 at entry 0."""
    ledger = begun()
    ledger.mark(NOW)
    report = audit(
        log_files(ledger.leaves, Signer("b.example/log", OPERATOR)), key=Signer("b.example/log", OPERATOR).verifier
    )
    assert blamed(report) == [(1, 0)]


def test_a_genesis_of_another_operator_is_found():
    """A log that is signed by another key than its operator's fails check 1 at entry 0."""
    signer = Signer(ORIGIN, STRANGER)
    assert blamed(audit(log_files(STORY.leaves, signer), key=signer.verifier)) == [(1, 0)]


@pytest.mark.parametrize("note", [b"", b"\xff", b"a note\n", b"x\n1\n\n\xe2\x80\x94 x AAAA\n"])
def test_what_is_no_note_is_found(note):
    """Bytes that are no checkpoint at all fail check 1, and nothing else can be said."""
    assert blamed(audit({**FILES, "checkpoint": note})) == [(1, None)]


# 2, 3, 4, 5


def test_an_oversize_bundle_is_found():
    """A bundle with more bytes than its entries can have fails check 2."""
    assert (2, 9) in blamed(audit({**FILES, BUNDLE: FILES[BUNDLE] + bytes(700_000)}))


def test_bytes_after_a_bundle_are_found():
    """A bundle with a byte too many fails check 2, and nothing in it is doubted."""
    assert blamed(audit({**FILES, BUNDLE: FILES[BUNDLE] + b"\0"})) == [(2, 9)]


def test_a_truncated_bundle_is_found():
    """A bundle that was cut off fails check 2 at the first entry that is missing."""
    report = audit({**FILES, BUNDLE: FILES[BUNDLE][:-10]})
    assert blamed(report) == [(2, 9), (4, 9)]
    assert followed(report) == [(3, None), (5, 9), (11, 9)]


def test_a_missing_bundle_is_found():
    """A log without its entries fails check 2 where they end."""
    report = audit({path: data for path, data in FILES.items() if path != BUNDLE})
    assert blamed(report) == [(2, 0)]


def test_a_missing_tile_is_found():
    """A log without a tile fails check 4, and proves nothing."""
    report = audit({path: data for path, data in FILES.items() if path != TILE})
    assert (blamed(report), followed(report)) == ([(4, None)], [(5, 0)])


def test_a_tile_of_other_entries_is_found():
    """A tile with one hash changed fails check 4, which names the entry."""
    tile = bytearray(FILES[TILE])
    tile[3 * 32] ^= 1
    report = audit({**FILES, TILE: bytes(tile)})
    assert blamed(report) == [(4, 3)]
    assert followed(report)[0][0] == 5


def test_a_short_tile_is_found():
    """A tile that lacks a hash fails check 4."""
    assert blamed(audit({**FILES, TILE: FILES[TILE][:-32]})) == [(4, None)]


def test_a_root_of_another_tree_is_found():
    """An operator that signs a root which its entries do not have fails check 3."""
    note = sign_checkpoint(SIGNER, Checkpoint(origin=ORIGIN, size=10, root=bytes(32)))
    report = audit({**FILES, "checkpoint": note})
    assert (blamed(report), followed(report)) == ([(3, None)], [(5, 0)])


def test_proofs_that_lead_nowhere_are_found():
    """Check 5 stands on its own: tiles that satisfy nobody are found by the proofs too."""
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    list(follow(auditor, FilesLog(FILES)))
    tile = next(iter(auditor._tree._served))
    auditor._tree._served[tile] = bytes(len(auditor._tree._served[tile]))
    auditor._tree._prove(auditor._checkpoint)
    assert blamed(auditor.report()) == [(5, 0)]


def test_a_checkpoint_of_more_entries_than_there_are_is_found():
    """An operator that signs for entries which it does not show fails check 2 where they end."""
    note = sign_checkpoint(SIGNER, Checkpoint(origin=ORIGIN, size=2**62, root=bytes(32)))
    report = audit({**FILES, "checkpoint": note})
    assert (blamed(report), followed(report)) == ([(2, 0)], [(2, 0)])


def test_a_log_without_entries_is_found():
    """A log that begins with nothing has nothing to pass."""
    note = sign_checkpoint(SIGNER, Checkpoint(origin=ORIGIN, size=0, root=EMPTY_ROOT))
    assert blamed(audit({"checkpoint": note})) == [(2, None)]


def test_a_log_that_shrinks_is_found():
    """A later checkpoint of fewer entries fails check 2."""
    auditor = Auditor(REGISTRY, SIGNER.verifier)
    list(follow(auditor, FilesLog(FILES)))
    list(follow(auditor, FilesLog(log_files(STORY.leaves[: MARK + 1]))))
    assert blamed(auditor.report()) == [(2, MARK + 1)]


# 6, 7, 8


@pytest.mark.parametrize("index", range(10))
def test_an_entry_under_anothers_signature_is_found(index):
    """An entry that the operator changed, tree and note made anew, fails check 6 for want of its author's signature."""
    leaf = STORY.leaves[index]
    at = leaf.index(b'"signature":"', leaf.index(b'"seq":')) + 13
    flipped = leaf[:at] + (b"1" if leaf[at : at + 1] == b"0" else b"0") + leaf[at + 1 :]
    assert blamed(audit_leaves(with_entry(index, flipped)))[0] == (6, index)


@pytest.mark.parametrize("leaf", [b"", b"{}", b" " + STORY.leaves[TRANSFER], b"x" * 65_535])
def test_an_entry_that_is_none_is_found(leaf):
    """Bytes that are no canonical entry fail check 6."""
    assert blamed(audit_leaves(with_entry(TRANSFER, leaf)))[0] == (6, TRANSFER)


def test_a_body_of_no_known_kind_is_found():
    """An entry whose body is of no kind that there is fails check 6, and names its author."""
    ledger = begun()
    ledger.force(CLIENT, {"kind": "gift/v1"})
    report = audit_leaves(ledger.marked())
    assert blamed(report) == [(6, 1)]
    assert first(report).account == CLIENT.account


@pytest.mark.parametrize("index", range(10))
def test_a_dropped_entry_is_found(index):
    """Whichever entry the operator drops before it makes tree and note anew, what is left does not fit itself."""
    left = [*STORY.leaves[:index], *STORY.leaves[index + 1 :]]
    # Without its last mark it is the log as it was a moment before: only another copy can tell.
    assert (audit_leaves(left).verdict == "pass") is (index == LAST_MARK)


def test_the_entry_after_a_dropped_one_is_named():
    """Where an account's chain has a gap, check 7 names the entry after it."""
    leaves = [*STORY.leaves[:SETTLEMENT], *STORY.leaves[SETTLEMENT + 1 :]]
    report = audit_leaves(leaves)
    assert blamed(report)[0] == (7, SETTLEMENT)
    assert first(report).account == CLIENT.account


def test_the_last_entry_of_a_chain_cannot_be_dropped_either():
    """Where no chain tells of the dropped entry, the next mark's root does."""
    report = audit_leaves([*STORY.leaves[:SECOND_AWARD], *STORY.leaves[SECOND_AWARD + 1 :]])
    assert blamed(report)[0] == (11, SECOND_AWARD)


def test_a_repeated_entry_is_found():
    """An entry that stands twice fails check 7 at its second place; the rest of the log is followed as before."""
    report = audit_leaves([*STORY.leaves[: TRANSFER + 1], *STORY.leaves[TRANSFER:]])
    assert blamed(report) == [(7, TRANSFER + 1)]


def test_entries_in_another_order_are_found():
    """Two entries of one account that changed places fail check 7 at both."""
    leaves = list(STORY.leaves)
    leaves[SETTLEMENT], leaves[TRANSFER] = leaves[TRANSFER], leaves[SETTLEMENT]
    assert blamed(audit_leaves(leaves))[:2] == [(7, SETTLEMENT), (7, TRANSFER)]


def test_a_stranger_who_reorders_is_found_by_the_tree():
    """Without the operator's key, the same bytes in another order fail the tree as well."""
    leaves = [
        *STORY.leaves[:SETTLEMENT],
        STORY.leaves[TRANSFER],
        STORY.leaves[SETTLEMENT],
        *STORY.leaves[SECOND_AWARD:],
    ]
    changed = {**log_files(leaves), "checkpoint": FILES["checkpoint"], TILE: FILES[TILE]}
    assert {3, 4} <= {check for check, _ in blamed(audit(changed))}


def test_a_forked_account_is_found():
    """Two entries of one account with the same number fail check 7 at the second."""
    ledger = begun()
    offers = ledger.list_offers()
    fork = edited(ledger.leaves[-1], lambda _: Withdrawal(offer=offers[0]), RIVAL)
    ledger.leaves.append(fork)
    report = audit_leaves(ledger.leaves)
    assert blamed(report)[0] == (7, 3)
    assert first(report).account == RIVAL.account


@pytest.mark.parametrize("signed", ["winner", "runner_up"])
def test_an_ask_under_anothers_signature_is_found(signed):
    """A client that writes an ask itself fails check 8, although all of its own signatures hold."""

    def forge(award):
        return replace(award, **{signed: replace(getattr(award, signed), signature="00" * 64)})

    report = audit_leaves(with_entry(AWARD, edited(STORY.leaves[AWARD], forge, CLIENT)))
    assert blamed(report)[0] == (8, AWARD)
    assert first(report).account == CLIENT.account


@pytest.mark.parametrize("signed", ["attestation", "receipt"])
def test_an_account_of_an_execution_under_anothers_signature_is_found(signed):
    """So does one that writes the attestation, and a provider that writes the receipt."""

    def forge(settlement):
        return replace(settlement, **{signed: replace(getattr(settlement, signed), signature="00" * 64)})

    report = audit_leaves(with_entry(SETTLEMENT, edited(STORY.leaves[SETTLEMENT], forge, CLIENT)))
    assert blamed(report)[0] == (8, SETTLEMENT)


# 9, 10, 11


@pytest.mark.parametrize("contracts", [{**REGISTRY.hashes, "award/v1": "0" * 64}, {"award/v2": "0" * 64}])
def test_other_contracts_are_found(contracts):
    """A genesis that puts other sources in force fails check 9; signatures and chains are checked all the same."""
    ledger = begun()
    leaves = [edited(ledger.leaves[0], lambda genesis: replace(genesis, contracts=contracts), OPERATOR)]
    report = audit_leaves(leaves)
    assert blamed(report) == [(9, 0)]
    verdicts = {each.check: each.verdict for each in report.checks}
    assert (verdicts[Check.ENTRY], verdicts[Check.CHAIN]) == ("pass", "pass")
    assert (verdicts[Check.MARKS], verdicts[Check.CONSERVED]) == ("unchecked", "unchecked")


def test_chains_are_checked_without_a_genesis_to_replay():
    """Where nothing can be replayed, a gap in a chain is still found."""
    leaves = list(STORY.leaves)
    leaves[GENESIS] = edited(
        leaves[GENESIS], lambda genesis: replace(genesis, contracts={"award/v2": "0" * 64}), OPERATOR
    )
    assert (7, TRANSFER) in blamed(audit_leaves([*leaves[:TRANSFER], *leaves[TRANSFER + 1 :]]))


def test_a_log_that_does_not_begin_with_a_genesis_is_found():
    """Whatever stands in its place, check 10 names it."""
    forge = Forge()
    forge.force(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
    assert blamed(audit_leaves(forge.leaves)) == [(10, 0)]


def test_a_genesis_that_grants_twice_is_found():
    """A genesis that the rules refuse fails check 10, and nothing is replayed from it."""
    forge = Forge()
    grant = make_genesis().grants[0]
    forge.force(OPERATOR, make_genesis(grants=(grant, grant)))
    assert blamed(audit_leaves(forge.leaves)) == [(10, 0)]


@pytest.mark.parametrize(
    ("author", "body"),
    [
        (CLIENT, Transfer(to=CLIENT.account, amount_micro=1)),
        (CLIENT, Withdrawal(offer=named("nothing"))),
        (PROVIDER, make_offer(valid_until_ms=NOW)),
        (OPERATOR, make_genesis()),
    ],
)
def test_an_entry_that_its_contract_refuses_is_found(author, body):
    """What no contract accepts fails check 10, whoever signed it."""
    ledger = begun()
    index = ledger.force(author, body)
    assert blamed(audit_leaves(ledger.marked())) == [(10, index)]


def test_a_mark_with_another_root_is_found():
    """An operator that marks another state than the replayed one fails check 11, and ledger time goes on."""
    ledger = begun()
    index = ledger.force(OPERATOR, Mark(at_ms=NOW + 5, state_root="0" * 64))
    report = audit_leaves(ledger.leaves)
    assert blamed(report) == [(11, index)]
    assert report.ledger_time_ms == NOW + 5


def test_time_that_goes_back_is_found():
    """A mark before the ledger's time fails check 11."""
    ledger = begun()
    ledger.mark(NOW + 10)
    index = ledger.force(OPERATOR, Mark(at_ms=NOW + 9, state_root=ledger.state.root()))
    assert blamed(audit_leaves(ledger.leaves)) == [(11, index)]


def test_a_mark_by_anyone_else_is_found():
    """Ledger time is the operator's to move."""
    ledger = begun()
    index = ledger.force(STRANGER, Mark(at_ms=NOW + 9, state_root=ledger.state.root()))
    assert blamed(audit_leaves(ledger.leaves)) == [(11, index)]


def test_a_checkpoint_that_follows_no_mark_is_found():
    """Entries after the last mark have no root that anybody signed: check 11 names the last."""
    assert blamed(audit_leaves(STORY.leaves[: SETTLEMENT + 1])) == [(11, SETTLEMENT)]


# 12


def test_a_raised_price_is_found_by_the_signature():
    """An operator alone that raises a price fails check 6: it has not the client's key."""
    assert blamed(audit_leaves(with_entry(AWARD, edited(STORY.leaves[AWARD], raised))))[0] == (6, AWARD)


def test_a_price_raised_with_the_clients_key_is_found_by_the_auction():
    """Operator and client together fail check 12: the prices are not those of the clearing."""
    report = audit_leaves(with_entry(AWARD, edited(STORY.leaves[AWARD], raised, CLIENT)))
    assert blamed(report)[0] == (12, AWARD)
    assert (13, SETTLEMENT) not in blamed(report)


def test_another_winner_is_found_by_the_signature():
    """An operator alone that changes the winner fails check 6."""
    assert blamed(audit_leaves(with_entry(AWARD, edited(STORY.leaves[AWARD], swapped))))[0] == (6, AWARD)


@pytest.mark.parametrize("change", [swapped, lambda award: replace(award, locked_micro=award.locked_micro + 1)])
def test_another_outcome_signed_by_everybody_is_found_by_the_auction(change):
    """Another winner, or another lock, fails check 12 although every signature and the tree hold."""
    ledger = begun()
    body = change(ledger.award_body(ledger.list_offers()))
    index = ledger.force(CLIENT, body)
    assert blamed(audit_leaves(ledger.marked())) == [(12, index)]


def test_an_award_to_an_offer_that_is_not_there_is_found():
    """An award under no listed offer fails check 10."""
    ledger = begun()
    offers = ledger.list_offers()
    bid = make_bid()
    winner = make_ask(PROVIDER, bid, named("nothing"), prices=prices(1, 1, 1))
    index = ledger.force(CLIENT, make_award(bid, winner, ledger.state.offer(offers[0]).offer, None))
    assert blamed(audit_leaves(ledger.marked())) == [(10, index)]


# 13, 14


def test_a_second_settlement_is_found():
    """An award that is settled again fails check 13 at the second settlement, and nobody is paid twice."""
    ledger = begun()
    award = ledger.award(ledger.list_offers())
    ledger.settle(award)
    index = ledger.force(PROVIDER, ledger.settlement_body(award))
    assert blamed(audit_leaves(ledger.marked())) == [(13, index)]


def test_what_follows_from_a_refused_award_is_no_second_violation():
    """The settlement of an award that was refused is a consequence of it."""
    report = audit_leaves(with_entry(AWARD, edited(STORY.leaves[AWARD], raised, CLIENT)))
    assert [check for check, _ in blamed(report)] == [12, 7]
    ledger = begun()
    forced = ledger.entry(CLIENT, raised(ledger.award_body(ledger.list_offers())))
    ledger.astray[CLIENT.account] = (forced.seq + 1, forced.id)
    settled = ledger.force(CLIENT, ledger.settlement_body(forced.id))
    report = audit_leaves(ledger.marked())
    assert (blamed(report), followed(report)) == ([(12, 3)], [(13, settled)])


def test_what_refused_entries_speak_of_is_bounded(monkeypatch):
    """Where more was refused than is remembered, whatever the state lacks may be a consequence, and is called one."""
    monkeypatch.setattr("wwwmarket.market.audit.replay.SHADOW_MAX", 3)
    ledger = begun()
    refused = [ledger.force(CLIENT, Transfer(to=CLIENT.account, amount_micro=1)) for _ in range(3)]
    lacking = ledger.force(RIVAL, Withdrawal(offer=named("nothing")))
    report = audit_leaves(ledger.marked())
    assert (blamed(report), followed(report)) == ([(10, index) for index in refused], [(10, lacking)])


def test_an_attestation_by_a_stranger_is_found():
    """A settlement on somebody else's word fails check 10."""
    ledger = begun()
    award = ledger.award(ledger.list_offers())
    honest = ledger.settlement_body(award)
    index = ledger.force(
        CLIENT, make_settlement(award, sign(STRANGER, honest.attestation.body), make_receipt(CLIENT, award))
    )
    assert blamed(audit_leaves(ledger.marked())) == [(10, index)]


def test_spending_what_one_has_not_is_found():
    """A transfer beyond what is available fails check 14."""
    ledger = begun()
    index = ledger.force(CLIENT, Transfer(to=RIVAL.account, amount_micro=1_000_001))
    assert blamed(audit_leaves(ledger.marked())) == [(14, index)]


def test_credits_granted_beside_the_genesis_are_found():
    """A genesis with one more credit than its state had fails check 11 at the next mark: balances are its fold."""

    def richer(genesis):
        grant = genesis.grants[0]
        return replace(genesis, grants=(replace(grant, amount_micro=grant.amount_micro + 1), *genesis.grants[1:]))

    ledger = begun()
    ledger.mark(NOW)
    leaves = [edited(ledger.leaves[0], richer, OPERATOR), ledger.leaves[1]]
    assert (7, 1) in blamed(audit_leaves(leaves))


# any byte


LONG = log_files(long_story(300).leaves)


@given(st.data())
def test_no_byte_of_any_file_can_be_changed(data):
    """Whatever byte of whatever file a stranger changes, there is a finding."""
    files = data.draw(st.sampled_from([FILES, LONG]))
    path = data.draw(st.sampled_from(sorted(files)))
    at = data.draw(st.integers(0, len(files[path]) - 1))
    changed = bytearray(files[path])
    changed[at] ^= data.draw(st.integers(1, 255))
    assert audit({**files, path: bytes(changed)}).violations


@given(st.integers(0, 9), st.data())
def test_no_byte_of_an_entry_can_be_changed_by_the_operator_either(index, data):
    """Whatever byte of an entry the operator changes before it makes tree and note anew, check 6 to 8 names the entry."""
    leaf = bytearray(STORY.leaves[index])
    leaf[data.draw(st.integers(0, len(leaf) - 1))] ^= data.draw(st.integers(1, 255))
    check, entry = blamed(audit_leaves(with_entry(index, bytes(leaf))))[0]
    assert (check in {6, 8}, entry) == (True, index)


def test_the_root_is_of_all_entries():
    """The files of the tests are those of the entries, or the forgeries above would prove nothing."""
    assert root_of(map(leaf_hash, STORY.leaves)).hex() == audit(FILES).checkpoint_root
    assert len(STORY.leaves) == LAST_MARK + 1 == SECOND_MARK + 2
