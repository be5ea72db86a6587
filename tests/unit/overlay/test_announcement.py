"""Who can say what of whom: each numbered check of an announcement refuses something."""

import pytest
from msgspec import structs
from overlay_world import EPOCH_MS, USUAL, address, key

from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import sign
from wwwmarket.domain.errors import Forbidden, Malformed, Stale, Unauthorised
from wwwmarket.overlay.announcement import accept, announce, supersedes
from wwwmarket.overlay.records import Announcement, LoadDigest, Shuffle, read_message


def said(number=1, issued_ms=EPOCH_MS, **changes):
    return Announcement(
        address=changes.pop("address", address(number)),
        serves=("org/model",),
        wants=(),
        load=LoadDigest(),
        issued_ms=issued_ms,
        **changes,
    )


def test_an_announcement_is_believed_of_its_own_node():
    """What a node says of itself is accepted, whoever brings it."""
    own = announce(key(1), said(1))
    assert accept(own.signed, EPOCH_MS, USUAL).body == own.body


def test_nobody_announces_another():
    """Check 1: a good signature by another key than the node's is worth nothing."""
    with pytest.raises(Forbidden):
        accept(sign(key(2), said(1)).signed, EPOCH_MS, USUAL)


def test_nobody_is_announced_from_the_future():
    """Check 2: a sequence number that clocks cannot have reached is refused, and the last possible one is not."""
    limit_ms = EPOCH_MS + USUAL.skew_max_ms
    accept(announce(key(1), said(1, limit_ms)).signed, EPOCH_MS, USUAL)
    with pytest.raises(Stale, match="future"):
        accept(announce(key(1), said(1, limit_ms + 1)).signed, EPOCH_MS, USUAL)


def test_old_words_are_not_told_again():
    """Check 3: an announcement past its age is refused, and one just at it is not."""
    own = announce(key(1), said(1)).signed
    accept(own, EPOCH_MS + USUAL.age_max_ms, USUAL)
    with pytest.raises(Stale, match="too old"):
        accept(own, EPOCH_MS + USUAL.age_max_ms + 1, USUAL)


@pytest.mark.parametrize(
    "change",
    [
        {"address": structs.replace(address(1), sockets=("6.6.6.6:666",))},
        {"issued_ms": EPOCH_MS + 1},
        {"leaving": True},
        {"serves": ("org/other",)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_nobody_alters_anothers_word(change):
    """Check 4: with another address, sequence number, farewell or model the signature does not verify."""
    own = announce(key(1), said(1)).signed
    with pytest.raises(Unauthorised):
        accept(structs.replace(own, body=structs.replace(own.body, **change)), EPOCH_MS, USUAL)


def test_the_later_word_is_in_force():
    """Check 5: only a higher sequence number replaces what is held; the same again does not."""
    old, new = announce(key(1), said(1)).signed, announce(key(1), said(1, EPOCH_MS + 1)).signed
    assert supersedes(new, old)
    assert not supersedes(old, new)
    assert not supersedes(old, old)


def test_two_words_with_one_number_have_one_winner():
    """Where a node contradicts itself under one sequence number, everybody keeps the same of the two."""
    one, other = announce(key(1), said(1)).signed, announce(key(1), said(1, leaving=True)).signed
    assert supersedes(one, other) != supersedes(other, one)


def test_a_message_has_at_most_eight_announcements():
    """A longer list is refused before anything in it is verified."""
    own = announce(key(1), said(1)).signed
    read_message(canonical.encode(Shuffle(announcements=(own,) * 8)))
    with pytest.raises(Malformed):
        read_message(canonical.encode(Shuffle(announcements=(own,) * 9)))
