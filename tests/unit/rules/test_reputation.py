"""What a provider is known for follows from the ledger alone: the same number for everybody, and dear to fake."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from tests.unit.rules.world import (
    CLIENT,
    NOW,
    PROVIDER,
    REGISTRY,
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
    usage,
)
from wwwmarket.domain.keys import Rotation
from wwwmarket.domain.quantity import INTEGER_MAX, NO_USAGE
from wwwmarket.domain.records import Dispute
from wwwmarket.domain.standing import Standing
from wwwmarket.rules.state import State

RULE = REGISTRY.current.reputation
DAY_MS = 86_400_000
DONE = make_attestation(PROVIDER, "0" * 64).body
AGREED = make_receipt(CLIENT, "0" * 64).body

amounts = st.integers(0, 10**9)
standings = st.builds(
    Standing, day=st.integers(0, 30_000), kept_micro=amounts, missed_micro=amounts, silent_micro=amounts
)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger.begun()


def settle(ledger: Ledger, award, **received) -> None:
    settlement = make_settlement(award, make_attestation(PROVIDER, award), make_receipt(CLIENT, award, **received))
    ledger.submit(CLIENT, settlement)


def test_a_newcomer_s_number_is_stated(ledger):
    """Of whom nothing is known: 800,000 parts per million, and a newcomer."""
    said = RULE.reputation(ledger.state.standing(PROVIDER.account), ledger.state.now_ms)
    assert (said.score_ppm, said.newcomer, said.standing.served_milli) == (800_000, True, 0)


def test_work_in_time_raises_and_late_work_lowers(ledger):
    """By the price of the work, and by nobody's word on himself."""
    offers = ledger.list_offers()
    settle(ledger, ledger.award(offers))
    kept = ledger.state.standing(PROVIDER.account)
    assert (kept.kept_micro > 0, kept.missed_micro, kept.served_milli) == (True, 0, 1_000)
    settle(ledger, ledger.award(offers), ttft_ms=60_000, latency_ms=60_000)
    missed = ledger.state.standing(PROVIDER.account)
    assert (missed.kept_micro - kept.kept_micro, missed.missed_micro) == (1, 252)  # of 253, half refunded, rounded down
    now_ms = ledger.state.now_ms
    assert RULE.reputation(missed, now_ms).score_ppm < 800_000 < RULE.reputation(kept, now_ms).score_ppm


def test_a_claim_without_a_receipt_counts_for_nothing(ledger):
    """Nobody but the provider says how it went."""
    award = ledger.award(ledger.list_offers())
    ledger.mark(NOW + 60_000)
    ledger.submit(PROVIDER, make_settlement(award, make_attestation(PROVIDER, award), None))
    said = ledger.state.standing(PROVIDER.account)
    assert (said.served_milli, said.kept_micro, said.missed_micro) == (1_000, 0, 0)


def test_failures_and_differing_counts_are_shown_and_not_scored(ledger):
    """A client makes them for nothing, so they cost a rival nothing either."""
    offers = ledger.list_offers()
    failed = ledger.award(offers)
    ledger.submit(
        PROVIDER, make_settlement(failed, make_attestation(PROVIDER, failed, outcome="failed", usage=NO_USAGE), None)
    )
    denied = ledger.award(offers)
    settle(ledger, denied, usage=usage(0, 0, 0), verdict="disputed")
    said = RULE.reputation(ledger.state.standing(PROVIDER.account), ledger.state.now_ms)
    assert (said.standing.failed_milli, said.standing.contested_milli) == (1_000, 1_000)
    assert said.score_ppm == 800_000


def test_silence_under_a_dispute_is_remembered(ledger):
    """The award's lock, tenfold in the score, and what the bond lost."""
    award = ledger.award(ledger.list_offers())
    locked = ledger.state.award(award).award.locked_micro
    ledger.mark(NOW + 60_000)
    ledger.submit(CLIENT, Dispute(award=award))
    ledger.mark(NOW + 120_000)
    said = ledger.state.standing(PROVIDER.account)
    assert (said.silent_micro, said.penalised_micro) == (locked, 250)
    expected = 1_000_000 * 800_000 // (1_000_000 + 10 * locked)
    assert RULE.reputation(said, NOW + 120_000).score_ppm == expected


def test_reputation_stays_with_a_rotated_account(ledger):
    """The next key has what the account is known for; the replaced one has nothing."""
    settle(ledger, ledger.award(ledger.list_offers()))
    before = ledger.state.standing(PROVIDER.account)
    following = key("the next key")
    ledger.submit(PROVIDER, Rotation(account=PROVIDER.account, consent=consent(following, PROVIDER)))
    assert ledger.state.standing(PROVIDER.account) == before
    assert ledger.state.standing(following.account) == Standing()


def test_a_replica_from_a_snapshot_knows_the_same(ledger):
    """Standings are part of the state's root."""
    settle(ledger, ledger.award(ledger.list_offers()))
    state = ledger.state
    restored = State.restore(REGISTRY, state.snapshot(), state.root())
    assert restored.standing(PROVIDER.account) == state.standing(PROVIDER.account) != Standing()


def test_nobody_is_known_by_his_own_custom(ledger):
    """An account that buys of itself moves nothing."""
    offer = ledger.submit(CLIENT, make_offer()).checked.id
    bid = make_bid()
    body = make_award(bid, make_ask(CLIENT, bid, offer), make_offer(), None)
    award = ledger.submit(CLIENT, body).checked.id
    attested, received = make_attestation(CLIENT, award), make_receipt(CLIENT, award)
    ledger.submit(CLIENT, make_settlement(award, attested, received))
    assert ledger.state.standing(CLIENT.account) == Standing()


def test_farming_by_a_client_and_a_provider_of_one_owner_is_bounded_by_the_bond():
    """Ten times the bond a day, whatever goes round; so V kept needs V / 438 bonded for good, since V fades."""
    bond, standing = 1_000, Standing()
    for day in range(400):
        for _ in range(50):
            standing = RULE.settled(standing, NOW + day * DAY_MS, DONE, AGREED, 10**6, 10**6, bond)
    assert 430 * bond < standing.kept_micro <= 438 * bond
    unbonded = RULE.settled(Standing(), NOW, DONE, AGREED, 10**6, 10**6, 0)
    assert unbonded.kept_micro == 0


def test_a_bond_that_comes_and_goes_counts_once_a_day():
    """Listing and withdrawing an offer between two awards earns no second allowance."""
    standing = Standing()
    for bonded in (100, 0, 100, 50, 100):
        standing = RULE.settled(standing, NOW, DONE, AGREED, 700, 700, bonded)
    assert standing.kept_micro == 1_000


@given(standings, st.lists(st.integers(0, 90), min_size=1, max_size=8))
def test_it_does_not_matter_how_often_somebody_looks(standing, days):
    """Fading day by day, in several steps or in one, comes to the same."""
    now_ms = standing.day * DAY_MS
    stepped = standing
    for day in sorted(days):
        stepped = RULE.faded(stepped, now_ms + day * DAY_MS)
    assert stepped == RULE.faded(standing, now_ms + max(days) * DAY_MS)


@given(standings, amounts, amounts, amounts)
def test_a_score_is_a_share_and_grows_with_what_is_kept(standing, cost, refund, bonded):
    """Between nothing and all, never lower for work in time, never higher for work that was not."""
    refund, now_ms = min(refund, cost // 2), standing.day * DAY_MS
    before = RULE.reputation(standing, now_ms).score_ppm
    good = RULE.settled(standing, now_ms, DONE, AGREED, cost, cost, bonded)
    late = RULE.settled(standing, now_ms, DONE, AGREED, cost, cost - cost // 2, bonded)
    mixed = RULE.settled(standing, now_ms, DONE, AGREED, cost, cost - refund, bonded)
    scores = [RULE.reputation(each, now_ms).score_ppm for each in (late, mixed, good)]
    assert 0 <= min(scores) <= max(scores) <= 1_000_000
    assert scores[2] >= before
    assert scores[0] <= before or cost < 2


def test_extremes_stay_integers_that_can_be_written():
    """Sums stop at 2^53 - 1."""
    full = replace(
        Standing(day=NOW // DAY_MS), missed_micro=INTEGER_MAX, kept_micro=INTEGER_MAX, served_milli=INTEGER_MAX
    )
    said = RULE.together(full, NOW, INTEGER_MAX, INTEGER_MAX, 0, INTEGER_MAX)
    said = RULE.silent(said, NOW, INTEGER_MAX, INTEGER_MAX)
    assert max(getattr(said, name) for name in said.__struct_fields__) == INTEGER_MAX
