"""Work in advance of the ledger's promise: who gets it, how much of it, and who gets none for a while."""

import pytest

from wwwmarket.domain.errors import Exhausted
from wwwmarket.market.advance import FIRST_MS, REMEMBERED_MAX, WAITING_MAX, Advances

ADA, BOB = "a" * 64, "b" * 64
AWARDS = [f"{place:064x}" for place in range(64)]


def may(advances: Advances, client=ADA, *, locked=10, available=1_000, sequences=8, now_ms=0) -> bool:
    return advances.may_begin(client, locked, available_micro=available, sequences=sequences, now_ms=now_ms)


def test_a_stranger_may_begin_once():
    """Nothing is known of it, and it has what the award locks."""
    assert may(Advances())
    assert may(Advances(), sequences=1)


def test_one_client_has_a_quarter_of_the_sequences():
    """Two of eight; a promise frees its place."""
    advances = Advances()
    for award in AWARDS[:2]:
        assert may(advances)
        advances.begun(award, ADA, 10)
    assert not may(advances)
    assert may(advances, BOB)
    advances.promised(AWARDS[0])
    assert may(advances)


def test_all_clients_have_half_of_the_sequences():
    """However many accounts somebody makes."""
    advances = Advances()
    for place, award in enumerate(AWARDS[:4]):
        assert may(advances, f"{place:064x}")
        advances.begun(award, f"{place:064x}", 10)
    assert not may(advances, BOB)


def test_the_same_credits_stand_for_one_advance():
    """What all of a client's advances lock together must be there."""
    advances = Advances()
    advances.begun(AWARDS[0], ADA, 600)
    assert not may(advances, locked=401)
    assert may(advances, locked=400)


def test_who_left_an_award_unsubmitted_waits_twice_as_long_each_time():
    """A minute, then two; a promise in between makes it forgotten."""
    advances, now_ms = Advances(), 0
    for times in range(1, 4):
        assert may(advances, now_ms=now_ms)
        advances.begun(AWARDS[times], ADA, 10)
        advances.ended(AWARDS[times], on_ledger=False, now_ms=now_ms)
        now_ms += FIRST_MS * 2 ** (times - 1)
        assert not may(advances, now_ms=now_ms - 1)
    assert may(advances, BOB, now_ms=0)
    advances.begun(AWARDS[9], ADA, 10)
    advances.promised(AWARDS[9])
    advances.ended(AWARDS[9], on_ledger=True, now_ms=now_ms)
    assert may(advances, now_ms=now_ms)


def test_an_award_that_the_ledger_has_was_submitted():
    """Whether or not its promise was handed on: its client keeps its word."""
    advances = Advances()
    advances.begun(AWARDS[0], ADA, 10)
    advances.ended(AWARDS[0], on_ledger=True, now_ms=0)
    assert may(advances)
    assert len(advances) == 0


def test_what_is_remembered_of_breakers_is_bounded():
    """The oldest is forgotten."""
    advances = Advances()
    for place in range(REMEMBERED_MAX + 1):
        advances.begun(AWARDS[0], f"{place:064x}", 10)
        advances.ended(AWARDS[0], on_ledger=False, now_ms=0)
    assert may(advances, f"{0:064x}", now_ms=1)
    assert not may(advances, f"{1:064x}", now_ms=1)


def test_the_door_has_room_for_so_many():
    """As many as there are sequences may wait, and never more than the limit; who leaves makes room."""
    for sequences in (2, 10 * WAITING_MAX):
        advances, room = Advances(), min(sequences, WAITING_MAX)
        for place in range(room):
            advances.wait(f"{place:064x}", sequences=sequences)
        assert advances.is_waiting(AWARDS[0])
        with pytest.raises(Exhausted):
            advances.wait("f" * 64, sequences=sequences)
        advances.leave(AWARDS[0])
        assert not advances.is_waiting(AWARDS[0])
        advances.wait("f" * 64, sequences=sequences)
