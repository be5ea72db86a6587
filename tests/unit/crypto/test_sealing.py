"""Only the two ends of an execution read it, and they read it whole and in order."""

import pytest

from wwwmarket.crypto.sealing import OVERHEAD_BYTES, SealingPair
from wwwmarket.domain.errors import Malformed

SMALL_ORDER = [
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]
"""The points of small order on Curve25519 (https://cr.yp.to/ecdh.html#validate), those below 2^255."""


@pytest.fixture
def ends():
    gateway, provider = SealingPair(b"\x01" * 32), SealingPair(b"\x02" * 32)
    return gateway.channel(provider.public, "gateway"), provider.channel(gateway.public, "provider")


def test_both_directions_carry_frames_in_order(ends):
    """Frames of any size, empty ones too, arrive as they were sent, and the last one says so."""
    for sender, receiver in (ends, reversed(ends)):
        frames = [b"", b"one", b"x" * 70_000]
        sealed = [sender.seal(frame, last=frame is frames[-1]) for frame in frames]
        assert [len(s) - len(f) for s, f in zip(sealed, frames, strict=True)] == [OVERHEAD_BYTES] * 3
        assert [receiver.open(s) for s in sealed] == [(b"", False), (b"one", False), (b"x" * 70_000, True)]


@pytest.mark.parametrize(
    ("opened", "wrong"),
    [((), 1), ((0,), 0), ((0,), 2), ((), 2), ((0, 1), 0)],
    ids=["dropped", "repeated", "skipped", "early", "late"],
)
def test_frames_dropped_repeated_or_reordered_are_malformed(ends, opened, wrong):
    """A frame opens only in its own place."""
    sender, receiver = ends
    sealed = [sender.seal(b"%d" % number) for number in range(3)]
    for number in opened:
        receiver.open(sealed[number])
    with pytest.raises(Malformed):
        receiver.open(sealed[wrong])


def test_a_frame_turned_round_is_malformed(ends):
    """What one side sent is never taken for what the other side said."""
    gateway, provider = ends
    with pytest.raises(Malformed):
        gateway.open(gateway.seal(b"echo"))
    with pytest.raises(Malformed):
        provider.open(provider.seal(b"echo"))


def test_a_frame_changed_in_any_byte_is_malformed(ends):
    """Every byte is authenticated, the mark of the last frame included; the true frame still opens after."""
    sender, receiver = ends
    sealed = sender.seal(b"prompt")
    for place in range(len(sealed)):
        with pytest.raises(Malformed):
            receiver.open(sealed[:place] + bytes([sealed[place] ^ 1]) + sealed[place + 1 :])
    assert receiver.open(sealed) == (b"prompt", False)


def test_a_frame_cut_short_is_malformed(ends):
    """No prefix of a frame is a frame, nor is a frame with more behind it."""
    sender, receiver = ends
    sealed = sender.seal(b"prompt")
    for wrong in (*(sealed[:length] for length in range(len(sealed))), sealed + b"\x00"):
        with pytest.raises(Malformed):
            receiver.open(wrong)


def test_nothing_follows_the_last_frame(ends):
    """After its end a conversation takes no more, though the frame be authentic."""
    sender, receiver = ends
    assert receiver.open(sender.seal(b"end", last=True)) == (b"end", True)
    with pytest.raises(Malformed):
        receiver.open(sender.seal(b"more"))


def test_an_authentic_frame_without_its_mark_is_malformed(ends):
    """A peer that seals nothing at all, not even the mark, is refused (white box: ``seal`` never does)."""
    sender, receiver = ends
    with pytest.raises(Malformed):
        receiver.open(sender._box.encrypt(b"", b"\x01" + bytes(23)).ciphertext)


def test_a_mark_that_is_neither_is_malformed(ends):
    """One frame, one meaning: a mark other than "more" and "last" is refused (white box)."""
    sender, receiver = ends
    with pytest.raises(Malformed):
        receiver.open(sender._box.encrypt(b"frame\x02", b"\x01" + bytes(23)).ciphertext)


def test_nobody_else_opens_a_frame(ends):
    """Another key than the winner's reads nothing."""
    sender, _ = ends
    loser = SealingPair(b"\x03" * 32).channel(SealingPair(b"\x01" * 32).public, "provider")
    with pytest.raises(Malformed):
        loser.open(sender.seal(b"prompt"))


@pytest.mark.parametrize("peer", SMALL_ORDER)
def test_a_sealing_key_of_small_order_is_malformed(peer):
    """With such a key the shared secret would be known to everybody."""
    with pytest.raises(Malformed) as refusal:
        SealingPair(bytes(32)).channel(peer, "gateway")
    assert refusal.value.param == "sealing_key"
