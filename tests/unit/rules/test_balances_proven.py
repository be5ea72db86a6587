"""Balances proven from a state's root, at marks that the state has left behind."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PEOPLE, REGISTRY, RIVAL, Ledger, make_genesis
from wwwmarket.crypto.signing import KeyPair
from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Malformed, TooLarge, Unavailable
from wwwmarket.domain.records import Transfer
from wwwmarket.rules.balance import ROWS_MAX, prove_balance, verify_balance
from wwwmarket.rules.commitment import PATH_HASHES, BucketProof
from wwwmarket.rules.history import MARKS_KEPT_MAX
from wwwmarket.rules.state import State

STRANGER = KeyPair(b"\x77" * 32).account


class Proving(Ledger):
    """A ledger that remembers, for each mark, its size, its root, and what everybody had."""

    def __init__(self) -> None:
        super().__init__(State(REGISTRY, proves=True))
        self.submit(OPERATOR, make_genesis())
        self.marks: list[tuple[int, str, dict[str, Account]]] = []

    def mark(self, at_ms: int):
        root, held = self.state.root(), dict(self.state.accounts())
        applied = super().mark(at_ms)
        self.marks.append((self.state.size, root, held))
        return applied

    def prove(self, account: str, size: int):
        balance, bucket = self.state.prove_balance(account, size)
        return prove_balance(account, balance, "the mark", bucket)


def check_all(ledger: Proving, marks) -> None:
    for size, root, held in marks:
        for account in (*(person.account for person in PEOPLE), STRANGER):
            proof = ledger.prove(account, size)
            verify_balance(proof, root)
            assert proof.balance == held.get(account)


@settings(max_examples=25)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["pay", "mark", "pin"]), st.integers(0, len(PEOPLE) - 1), st.integers(0, len(PEOPLE) - 2)
        ),
        max_size=25,
    )
)
def test_every_kept_mark_proves_what_everybody_had(steps):
    """Whatever was paid, marked and pinned since, each mark proves each balance as it was, and that others had none."""
    ledger, pinned = Proving(), 0
    for number, (step, one, other) in enumerate(steps):
        if step == "pay":
            payer, paid = PEOPLE[one], PEOPLE[(one + 1 + other) % len(PEOPLE)]
            ledger.submit(payer, Transfer(to=paid.account, amount_micro=7))
        elif step == "mark" or not ledger.marks:
            ledger.mark(NOW + number)
        else:
            size = ledger.marks[other % len(ledger.marks)][0]
            assert ledger.state.history.pin(size) is (size >= pinned)
            pinned = max(size, pinned)
    kept = [mark for mark in ledger.marks if ledger.state.history.has(mark[0])]
    assert kept == [mark for mark in ledger.marks if mark[0] >= pinned]
    check_all(ledger, kept)


def test_a_pinned_mark_outlives_all_others():
    """However many marks follow, the pinned one still proves; of the others only the latest do."""
    ledger = Proving()
    for number in range(3 * MARKS_KEPT_MAX):
        ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
        ledger.mark(NOW + number)
        if number == 2:
            assert ledger.state.history.pin(ledger.marks[2][0])
    check_all(ledger, [ledger.marks[2], *ledger.marks[-MARKS_KEPT_MAX + 2 :]])
    for gone in (*ledger.marks[:2], *ledger.marks[3:MARKS_KEPT_MAX]):
        assert not ledger.state.history.pin(gone[0])
        with pytest.raises(Unavailable):
            ledger.state.prove_balance(CLIENT.account, gone[0])


def test_a_state_that_proves_has_the_same_root():
    """Remembering changes nothing of what is agreed."""
    proving, plain = Proving(), Ledger.begun()
    for ledger in (proving, plain):
        ledger.submit(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
        ledger.mark(NOW)
    assert proving.state.root() == plain.state.root()


@pytest.mark.parametrize(
    "change",
    [
        lambda proof: {"balance": replace(proof.balance, available_micro=proof.balance.available_micro + 1)},
        lambda _: {"balance": None},
        lambda _: {"account": RIVAL.account},
        lambda _: {"account": STRANGER},
        lambda proof: {"path": proof.path[1:]},
        lambda proof: {"path": (*proof.path, proof.path[0])},
        lambda _: {"path": ()},
        lambda proof: {"path": proof.path[::-1]},
        lambda proof: {"rows": proof.rows[:-2]},
        lambda proof: {"rows": proof.rows[128:]},
        lambda proof: {"rows": proof.rows * 2},
        lambda proof: {"rows": proof.rows[:-1] + ("0" if proof.rows[-1] != "0" else "1")},
        lambda _: {"rows": ""},
    ],
)
def test_what_was_tampered_with_proves_nothing(change):
    """Another balance, account, path or bucket does not lead to the root."""
    ledger = Proving()
    ledger.mark(NOW)
    size, root, _ = ledger.marks[0]
    proof = ledger.prove(CLIENT.account, size)
    verify_balance(proof, root)
    with pytest.raises(Malformed):
        verify_balance(replace(proof, **change(proof)), root)


def test_no_other_balance_hides_in_an_empty_account():
    """That an account has nothing is proven by the rows that are there; nobody can claim it of an account with a row."""
    ledger = Proving()
    ledger.mark(NOW)
    size, root, _ = ledger.marks[0]
    proof = ledger.prove(STRANGER, size)
    assert (proof.balance, len(proof.path)) == (None, PATH_HASHES)
    verify_balance(proof, root)
    with pytest.raises(Malformed):
        verify_balance(replace(proof, balance=Account(available_micro=1)), root)


def test_rows_out_of_order_are_refused():
    """One bucket has one form, also where somebody ground several keys into it."""
    row = bytes(64)
    other = b"\x01" + bytes(63)
    for rows in (other + row, row + row):
        proof = prove_balance(CLIENT.account, None, "m", BucketProof(rows, (bytes(32),) * PATH_HASHES))
        with pytest.raises(Malformed, match="ascend"):
            verify_balance(proof, "0" * 64)


def test_a_bucket_beyond_the_limit_is_not_proven():
    """Who grinds more rows into a bucket than a proof may have gets none, and costs nobody anything."""
    with pytest.raises(TooLarge):
        prove_balance(CLIENT.account, None, "m", BucketProof(bytes(64 * (ROWS_MAX + 1)), ()))
