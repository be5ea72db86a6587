"""Both sides of a tab keep the same tally, and whatever one of them says wrongly the other refuses."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
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
    make_voucher,
    named,
    usage,
)
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import sign, sign_entry
from wwwmarket.domain.book import OpenTab
from wwwmarket.domain.errors import Conflict, Exhausted, Malformed, Refusal, Stale, TooLarge, Unauthorised
from wwwmarket.domain.keys import Rotation
from wwwmarket.domain.model import EngineFingerprint
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE
from wwwmarket.domain.records import TabOpening
from wwwmarket.market.tab import AWARD_BYTES_MAX, Payee, Payer, Tally, check_proof, examine, name_of, proof_of

RULE = REGISTRY.current.settlement
TAB, OFFER = named("the tab"), named("the offer")
HOUR_MS = 3_600_000
OPENED = OpenTab(client=CLIENT.account, provider=PROVIDER.account, locked_micro=10_000, expires_ms=NOW + HOUR_MS)


def award(**changes):
    bid = make_bid()
    return make_award(bid, make_ask(PROVIDER, bid, OFFER), make_offer(), None, **changes)


class Pair:
    """A client and its provider, one tab between them."""

    def __init__(self, tab=TAB, opened=OPENED) -> None:
        self.tab, self.opened = tab, opened
        self.payer = Payer(CLIENT, Tally(tab, opened, RULE))
        self.payee = Payee(Tally(tab, opened, RULE), lambda account: account)
        self.kept: list[bytes] = []

    def begin(self, **changes):
        signed = self.payer.award(award(**changes))
        self.payee.take(signed.signed)
        return signed

    def answer(self, signed, **attested):
        attestation = make_attestation(PROVIDER, name_of(signed.body), **attested)
        self.payee.attested(signed.body.number, attestation.signed)
        return attestation

    def vouch(self, signed, attestation, **received):
        receipt = make_receipt(CLIENT, name_of(signed.body), **received)
        kept = self.payer.vouch(signed.body.number, attestation, receipt)
        return kept.receipt, kept.voucher

    def serve(self, **received):
        signed = self.begin()
        kept, voucher = self.vouch(signed, self.answer(signed), **received)
        self.payee.hear(kept, voucher)
        self.payer.is_heard(self.payee.count)
        self.kept.append(canonical.encode(kept))
        return kept, voucher

    def faults(self, voucher=None, kept=None):
        return examine(
            self.tab, self.opened, voucher or self.payer.voucher, kept or self.kept, RULE, lambda account: account
        )


def refused(kind: type[Refusal], reason: str, doing) -> None:
    with pytest.raises(kind) as refusal:
        doing()
    assert refusal.value.reason == reason


def test_both_sides_count_alike_and_the_ledger_pays_it():
    """Ten answers, one of them late, one counted differently: the ledger takes the last voucher, and all adds up."""
    ledger = Ledger.begun()
    opening = TabOpening(provider=PROVIDER.account, locked_micro=10_000, expires_ms=NOW + HOUR_MS)
    tab = ledger.submit(CLIENT, opening).checked.id
    pair = Pair(tab, ledger.state.tab(tab))
    for _ in range(8):
        pair.serve()
    pair.serve(latency_ms=60_000)
    pair.serve(usage=usage(900, 0, 100), verdict="disputed")
    settlement = pair.payee.settlement(NOW)
    assert settlement.voucher.body == pair.payer.voucher
    assert settlement.voucher.body.paid_micro < settlement.voucher.body.cost_micro
    assert pair.faults() == []
    ledger.submit(PROVIDER, settlement)
    paid = 1_000_000 - ledger.state.account(CLIENT.account).available_micro
    assert paid == settlement.voucher.body.paid_micro


def test_each_receipt_is_provable_against_the_root():
    """With as many hashes as the tree is high; any other receipt, place or root is refused."""
    pair = Pair()
    for _ in range(5):
        pair.serve()
    voucher = pair.payer.voucher
    for index, leaf in enumerate(pair.kept):
        proof = proof_of(pair.kept, index)
        check_proof(voucher, leaf, index, proof)
        assert len(proof) <= 3
        with pytest.raises(Malformed):
            check_proof(voucher, leaf, (index + 1) % 5, proof)
        with pytest.raises(Malformed):
            check_proof(replace(voucher, root="0" * 64), leaf, index, proof)


def test_answers_end_in_any_order():
    """What began first may end last; what is still at work stays open by the voucher."""
    pair = Pair()
    first, second, third = (pair.begin() for _ in range(3))
    for signed in (third, first):
        pair.payee.hear(*pair.vouch(signed, pair.answer(signed)))
    assert pair.payer.voucher.open == (second.body.number,)
    attestation = pair.answer(second)
    claimed = pair.payee.settlement(NOW + 60_000).unvouched
    assert [one.attestation for one in claimed] == [attestation.signed]
    assert pair.payee.settlement(NOW).unvouched == ()


def test_awards_arrive_in_any_order():
    """What others overtook on the way is taken when it comes, once; nobody skips more places than a tab has."""
    pair = Pair()
    first, second, third = (pair.payer.award(award()) for _ in range(3))
    pair.payee.take(third.signed)
    pair.payee.take(first.signed)
    refused(Conflict, "number_settled", lambda: pair.payee.take(first.signed))
    pair.payee.take(second.signed)
    for signed in (second, third, first):
        pair.payee.hear(*pair.vouch(signed, pair.answer(signed)))
    assert pair.payee.settlement(NOW).voucher.body == pair.payer.voucher
    far = sign(CLIENT, replace(third.body, number=10**15)).signed
    refused(Exhausted, "exhausted", lambda: pair.payee.take(far))
    refused(Exhausted, "exhausted", lambda: pair.payee.take(sign(CLIENT, replace(third.body, number=11)).signed))
    pair.payee.take(sign(CLIENT, replace(third.body, number=10)).signed)


def test_no_award_is_taken_that_the_voucher_closes_beforehand():
    """A client that gives out numbers in its voucher before their awards would have them worked on for nothing."""
    pair = Pair()
    signed = pair.begin()
    kept, voucher = pair.vouch(signed, pair.answer(signed))
    pair.payee.hear(kept, sign(CLIENT, replace(voucher.body, next_number=100)).signed)
    refused(Conflict, "number_settled", lambda: pair.payee.take(pair.payer.award(award()).signed))


def test_a_client_counts_what_its_provider_may_not_have_heard():
    """Until a voucher is acknowledged its award holds a place and its lock: the provider never has to refuse one."""
    one = award().locked_micro
    pair = Pair(opened=replace(OPENED, locked_micro=2 * one))
    for _ in range(2):
        signed = pair.begin()
        pair.vouch(signed, pair.answer(signed, outcome="failed", usage=NO_USAGE))
    refused(Conflict, "tab_spent", lambda: pair.payer.award(award()))
    pair.payer.is_heard(1)
    pair.payer.award(award())
    many = Pair()
    for _ in range(8):
        signed = many.begin()
        many.vouch(signed, many.answer(signed))
    refused(Exhausted, "exhausted", lambda: many.payer.award(award()))
    many.payer.is_heard(8)
    many.payer.award(award())
    assert many.payer.heard == 8


def test_what_the_client_vouched_for_outlives_its_key():
    """A client that rotates its key takes back nothing of what it locked: the tab's own key speaks under it."""
    ledger = Ledger.begun()
    opening = TabOpening(provider=PROVIDER.account, locked_micro=10_000, expires_ms=NOW + HOUR_MS)
    tab = ledger.submit(CLIENT, opening).checked.id
    opened = ledger.state.tab(tab)
    assert opened.key == CLIENT.account
    pair = Pair(tab, opened)
    pair.payee = Payee(Tally(tab, opened, RULE), ledger.state.account_of)
    pair.serve()
    following = key("the client's next key")
    ledger.submit(CLIENT, Rotation(account=CLIENT.account, consent=consent(following, CLIENT)))
    pair.serve()
    signed = pair.payer.award(award()).signed
    refused(
        Unauthorised, "not_by_client", lambda: pair.payee.take(sign(following, replace(signed.body, number=3)).signed)
    )
    ledger.submit(PROVIDER, pair.payee.settlement(NOW))
    paid = 1_000_000 - ledger.state.account(CLIENT.account).available_micro
    assert paid == pair.payer.voucher.paid_micro > 0
    faults = examine(tab, opened, pair.payer.voucher, pair.kept, RULE, ledger.state.account_of)
    assert faults == []


def test_a_failed_answer_costs_nothing_and_ends_its_award():
    """It is a receipt like others, over nothing."""
    pair = Pair()
    signed = pair.begin()
    attestation = pair.answer(signed, outcome="failed", usage=NO_USAGE)
    pair.payee.hear(*pair.vouch(signed, attestation))
    voucher = pair.payer.voucher
    assert (voucher.count, voucher.cost_micro, voucher.paid_micro, voucher.open) == (1, 0, 0, ())


def test_never_more_is_at_work_than_the_tab_locks():
    """Locks of what is at work and what was paid come to at most the tab's lock; eight awards at most; none beyond it."""
    one = award().locked_micro
    pair = Pair(opened=replace(OPENED, locked_micro=2 * one))
    pair.begin()
    pair.begin()
    refused(Conflict, "tab_spent", pair.begin)
    many = Pair()
    for _ in range(8):
        many.begin()
    refused(Exhausted, "exhausted", many.begin)
    refused(Stale, "tab_ends", lambda: Pair().begin(expires_ms=NOW + HOUR_MS + 1))


def test_whatever_is_at_work_can_be_claimed_in_one_entry():
    """Eight awards of the largest size that is taken, with attestations of the longest words; a larger one is refused."""
    pair = Pair(opened=replace(OPENED, locked_micro=10**9))
    asks = tuple(f"{number:064x}" for number in range(100))
    refused(TooLarge, "too_large", lambda: pair.begin(asks=asks))
    longest = EngineFingerprint(
        engine="e" * 64, engine_version="v" * 64, model_revision="r" * 64, precision="unknown", gpu_class="g" * 64
    )
    size = len(canonical.encode(award(asks=())))
    fitting = asks[: (AWARD_BYTES_MAX - size) // 67]
    for _ in range(8):
        pair.answer(pair.begin(asks=fitting), engine=longest, usage=usage(2**32, 2**32, 2**32))
    settlement = pair.payee.settlement(NOW + 60_000)
    assert len(settlement.unvouched) == 8
    voucher = make_voucher(
        CLIENT, TAB, cost_micro=INTEGER_MAX, paid_micro=INTEGER_MAX, next_number=8, open=tuple(range(8))
    )
    entry = sign_entry(PROVIDER, seq=INTEGER_MAX, prev=OFFER, body=replace(settlement, voucher=voucher))
    assert AWARD_BYTES_MAX - 67 < len(canonical.encode(settlement.unvouched[0].award.body.award)) <= AWARD_BYTES_MAX
    assert len(canonical.encode(entry)) <= canonical.ENTRY_BYTES_MAX


def test_a_thousand_requests_cost_the_ledger_under_a_hundred_bytes_each():
    """Both entries of a tab, its settlement as large as an entry can be."""
    opening = TabOpening(provider=PROVIDER.account, locked_micro=INTEGER_MAX, expires_ms=INTEGER_MAX)
    opened = canonical.encode(sign_entry(CLIENT, seq=INTEGER_MAX, prev=OFFER, body=opening))
    assert (len(opened) + canonical.ENTRY_BYTES_MAX) / 1_000 < 100


def test_a_provider_takes_no_award_that_it_could_not_claim():
    """Another client's, another tab's, another winner's, a number given before."""
    pair = Pair()
    signed = pair.begin()
    refused(Conflict, "number_settled", lambda: pair.payee.take(signed.signed))
    other = replace(signed.body, number=1)
    refused(Unauthorised, "not_by_client", lambda: pair.payee.take(sign(STRANGER, other).signed))
    refused(Conflict, "other_tab", lambda: pair.payee.take(sign(CLIENT, replace(other, tab=OFFER)).signed))
    rival = replace(other.award, winner=replace(other.award.winner, signer=RIVAL.account))
    refused(Conflict, "other_tab", lambda: pair.payee.take(sign(CLIENT, replace(other, award=rival)).signed))
    forged = replace(sign(STRANGER, other).signed, signer=CLIENT.account)
    with pytest.raises(Unauthorised):
        pair.payee.take(forged)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"tab": OFFER}, "other_voucher"),
        ({"count": 2}, "other_voucher"),
        ({"paid_micro": 1}, "other_sums"),
        ({"cost_micro": 10**6}, "other_sums"),
        ({"root": "0" * 64}, "other_root"),
        ({"open": ()}, "number_closed"),
    ],
)
def test_a_voucher_that_says_otherwise_is_refused(change, reason):
    """1 to 6: and the provider's tally is as it was."""
    pair = Pair()
    pair.begin()
    signed = pair.begin()
    kept, voucher = pair.vouch(signed, pair.answer(signed))
    wrong = sign(CLIENT, replace(voucher.body, **change)).signed
    refused(Conflict, reason, lambda: pair.payee.hear(kept, wrong))
    refused(Unauthorised, "not_by_client", lambda: pair.payee.hear(kept, sign(STRANGER, voucher.body).signed))
    pair.payee.hear(kept, voucher)
    refused(Conflict, "other_voucher", lambda: pair.payee.hear(kept, voucher))


def test_a_receipt_of_something_else_is_refused():
    """3: of no award at work, with another attestation than was given, or not the client's."""
    pair = Pair()
    signed = pair.begin()
    attestation = pair.answer(signed)
    kept, voucher = pair.vouch(signed, attestation)
    better = make_attestation(PROVIDER, name_of(signed.body), usage=usage(1, 0, 1)).signed
    strangers = make_receipt(STRANGER, name_of(signed.body)).signed
    for wrong in (replace(kept, attestation=better), replace(kept, receipt=strangers)):
        refused(Conflict, "other_receipt", lambda wrong=wrong: pair.payee.hear(wrong, voucher))
    refused(Conflict, "other_receipt", lambda: pair.payer.vouch(0, attestation, make_receipt(CLIENT, OFFER)))
    pair.payee.hear(kept, voucher)


def test_whoever_has_the_receipts_finds_what_a_voucher_hides():
    """1 to 5 of the examination, each by a forgery of its own."""
    pair = Pair()
    for _ in range(3):
        pair.serve()
    voucher, kept = pair.payer.voucher, pair.kept
    assert pair.faults() == []
    assert pair.faults(kept=kept[:2])
    assert pair.faults(replace(voucher, root="0" * 64))
    assert pair.faults(replace(voucher, paid_micro=voucher.paid_micro + 1))
    assert pair.faults(replace(voucher, open=(1,)))
    assert pair.faults(replace(voucher, next_number=2))
    twice = [kept[0], kept[0], kept[2]]
    assert [fault.receipt for fault in pair.faults(kept=twice) if fault.receipt is not None] == [1]
    spoilt = [kept[0], kept[1].replace(b'"verdict":"agreed"', b'"verdict":"disputed"'), kept[2]]
    assert [fault.receipt for fault in pair.faults(kept=spoilt) if fault.receipt is not None] == [1]
    others = examine(TAB, replace(OPENED, client=STRANGER.account), voucher, kept, RULE, lambda account: account)
    assert {fault.receipt for fault in others} >= {0, 1, 2}


@settings(deadline=None, max_examples=25)
@given(st.permutations(range(6)), st.lists(st.integers(0, 500), min_size=6, max_size=6))
def test_what_is_paid_does_not_depend_on_the_order_in_which_answers_end(order, counts):
    """The sums are those of the answers, whichever ended first."""
    sums = []
    for ended in (range(6), order):
        pair = Pair()
        begun = [pair.begin() for _ in range(6)]
        for place in ended:
            counted = usage(100, 0, counts[place])
            attestation = pair.answer(begun[place], usage=counted)
            pair.payee.hear(*pair.vouch(begun[place], attestation, usage=counted))
        voucher = pair.payer.voucher
        sums.append((voucher.cost_micro, voucher.paid_micro, voucher.count, voucher.open))
    assert sums[0] == sums[1]
