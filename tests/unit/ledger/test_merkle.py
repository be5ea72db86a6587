"""What the tree and its proofs refuse from strangers, and what they say of the empty tree."""

import pytest

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.merkle import EMPTY_ROOT, SIZE_MAX, Frontier, node_hash, root_of
from wwwmarket.ledger.proofs import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion

HASH, OTHER = bytes(32), bytes([1] * 32)


def unread(level, index):
    pytest.fail(f"node {index} of level {level} was read")


def test_the_empty_tree_has_the_digest_of_nothing_as_its_root():
    """The root over no leaves is SHA-256 of the empty string (RFC 6962 section 2.1)."""
    assert root_of([]).hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("size", "peaks"),
    [(1, []), (0, [HASH]), (3, [HASH]), (2, [HASH, HASH]), (1, [HASH[:31]]), (-1, []), (SIZE_MAX + 1, [HASH])],
)
def test_a_frontier_with_the_wrong_peaks_is_refused(size, peaks):
    """A frontier has one hash of 32 bytes for each bit of its size."""
    with pytest.raises(Malformed):
        Frontier(size, peaks)


@pytest.mark.parametrize(("index", "size"), [(0, 0), (1, 1), (-1, 1), (0, -1), (0, SIZE_MAX + 1)])
def test_no_inclusion_is_proven_of_a_leaf_that_is_not_there(index, size):
    """Neither made nor verified: a position outside of its tree."""
    with pytest.raises(Malformed):
        inclusion_proof(index, size, unread)
    with pytest.raises(Malformed):
        verify_inclusion(index, size, HASH, [], HASH)


@pytest.mark.parametrize(("old", "new"), [(2, 1), (-1, 1), (1, SIZE_MAX + 1)])
def test_no_tree_is_proven_to_shrink(old, new):
    """Neither made nor verified: growth to fewer leaves, or beyond all bounds."""
    with pytest.raises(Malformed, match="cannot begin"):
        consistency_proof(old, new, unread)
    with pytest.raises(Malformed, match="cannot begin"):
        verify_consistency(old, new, HASH, HASH, [HASH])


def test_every_tree_begins_with_the_empty_tree():
    """From size 0 the empty proof suffices, and nothing else does: no hash, and no other root of nothing."""
    assert consistency_proof(0, 5, unread) == ()
    verify_consistency(0, 5, EMPTY_ROOT, HASH, [])
    verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])
    for old_root, proof in ((HASH, []), (EMPTY_ROOT, [HASH])):
        with pytest.raises(Malformed):
            verify_consistency(0, 5, old_root, HASH, proof)


def test_a_proof_of_a_million_hashes_is_refused_as_too_long():
    """Verifying stops where the path ends, however long the proof is."""
    long = [HASH] * 1_000_000
    with pytest.raises(Malformed, match="too long"):
        verify_inclusion(0, 1, HASH, long, HASH)
    with pytest.raises(Malformed, match="too long"):
        verify_consistency(1, 2, HASH, HASH, long)


def test_a_byte_moved_from_one_hash_to_the_next_is_refused():
    """The bytes under a node stay the same when its children are cut elsewhere, so only whole hashes are taken."""
    leaf, beside = bytes(range(32)), bytes(range(32, 64))
    root = node_hash(leaf, beside)
    verify_inclusion(0, 2, leaf, [beside], root)
    verify_consistency(1, 2, leaf, root, [beside])
    short, long = leaf[:-1], leaf[-1:] + beside
    assert node_hash(short, long) == root
    with pytest.raises(Malformed):
        verify_inclusion(0, 2, short, [long], root)
    with pytest.raises(Malformed):
        verify_consistency(1, 2, short, root, [long])


def test_one_size_with_two_roots_is_refused_as_such():
    """Two roots for one size are a fork, and no proof makes them one tree; nor does a proof of another old root."""
    with pytest.raises(Malformed, match="two different roots"):
        verify_consistency(3, 3, HASH, OTHER, [])
    leaves = [bytes([index] * 32) for index in range(4)]
    proof = [leaves[2], leaves[3], node_hash(*leaves[:2])]
    verify_consistency(3, 4, root_of(leaves[:3]), root_of(leaves), proof)
    with pytest.raises(Malformed, match="old root"):
        verify_consistency(3, 4, OTHER, root_of(leaves), proof)


def test_a_proof_that_leads_to_another_root_names_its_reason():
    """Programs learn from the reason that it was the proof."""
    with pytest.raises(Malformed) as refusal:
        verify_inclusion(0, 1, HASH, [], OTHER)
    assert refusal.value.reason == "bad_proof"
