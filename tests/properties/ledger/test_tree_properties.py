"""Properties of the tree: proofs, tiles and frontier against a dumb model, for all small trees and random big ones."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.merkle import EMPTY_ROOT, Frontier, complete_root, leaf_hash, node_hash, root_of
from wwwmarket.ledger.proofs import (
    consistency_nodes,
    consistency_proof,
    inclusion_nodes,
    inclusion_proof,
    verify_consistency,
    verify_inclusion,
)
from wwwmarket.ledger.tiles import Tiler, TileReader, peak_tiles, tile_ids, tiles_holding

SMALL = 70
BIG = 70_000
LEAVES = [leaf_hash(index.to_bytes(8, "big")) for index in range(BIG)]


def model_root(leaves):
    """MTH of RFC 6962 section 2.1, word by word."""
    if len(leaves) < 2:
        return leaves[0] if leaves else EMPTY_ROOT
    split = 1 << ((len(leaves) - 1).bit_length() - 1)
    return node_hash(model_root(leaves[:split]), model_root(leaves[split:]))


def node(level, index):
    return complete_root(LEAVES[index << level : (index + 1) << level])


ROOTS = [model_root(LEAVES[:size]) for size in range(SMALL + 1)]

positions = st.integers(1, BIG).flatmap(lambda size: st.tuples(st.integers(0, size - 1), st.just(size)))
growths = st.integers(1, BIG).flatmap(lambda new: st.tuples(st.integers(0, new), st.just(new)))


def corruptions(proof):
    """The proof with a byte flipped anywhere, a hash missing anywhere, a hash too many anywhere, or a hash cut."""
    for place, each in enumerate(proof):
        for byte in (0, 15, 31):
            flipped = each[:byte] + bytes([each[byte] ^ 1]) + each[byte + 1 :]
            yield [*proof[:place], flipped, *proof[place + 1 :]]
        yield [*proof[:place], *proof[place + 1 :]]
        yield [*proof[:place], each, *proof[place:]]
        yield [*proof[:place], each[:-1], *proof[place + 1 :]]
    yield [*proof, bytes(32)]


def test_the_frontier_has_the_root_of_the_model_at_every_size():
    """At every size up to 70 the frontier's root is the recursive definition's."""
    frontier = Frontier()
    for size in range(SMALL):
        assert frontier.root() == ROOTS[size]
        assert Frontier(size, frontier.peaks).root() == ROOTS[size]
        assert Frontier.read(size, node).peaks == frontier.peaks
        frontier.append(LEAVES[size])


def test_every_inclusion_proof_of_a_small_tree_verifies_and_no_other_position_does():
    """For all sizes up to 70 and all leaves, the proof verifies at its index, and at no other index or leaf."""
    for size in range(1, SMALL + 1):
        for index in range(size):
            proof = inclusion_proof(index, size, node)
            verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size])
            for other in {index ^ 1, index + 1, index - 1, size} - {index}:
                with pytest.raises(Malformed):
                    verify_inclusion(other, size, LEAVES[index], proof, ROOTS[size])
            with pytest.raises(Malformed):
                verify_inclusion(index, size, LEAVES[index + 1], proof, ROOTS[size])


def test_every_consistency_proof_of_a_small_tree_verifies_and_no_other_root_does():
    """For all pairs of sizes up to 70 the proof verifies, and with either root replaced it does not."""
    for new in range(SMALL + 1):
        for old in range(new + 1):
            proof = consistency_proof(old, new, node)
            verify_consistency(old, new, ROOTS[old], ROOTS[new], proof)
            with pytest.raises(Malformed):
                verify_consistency(old, new, bytes(32), ROOTS[new], proof)
            if old:  # from nothing, every tree may grow
                with pytest.raises(Malformed):
                    verify_consistency(old, new, ROOTS[old], bytes(32), proof)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 33, 64, 70])
def test_every_corruption_of_a_proof_is_refused(size):
    """A flipped byte, a missing, an extra or a cut hash is refused, wherever it is in the proof."""
    for index in range(size):
        for proof in corruptions(inclusion_proof(index, size, node)):
            with pytest.raises(Malformed):
                verify_inclusion(index, size, LEAVES[index], proof, ROOTS[size])
    for old in range(1, size + 1):
        for proof in corruptions(consistency_proof(old, size, node)):
            with pytest.raises(Malformed):
                verify_consistency(old, size, ROOTS[old], ROOTS[size], proof)


@settings(max_examples=15, deadline=None)
@given(positions)
def test_an_inclusion_proof_of_a_big_tree_verifies(position):
    """A leaf of a tree of up to 70,000 leaves is proven by at most 17 hashes, read from the nodes it named before."""
    index, size = position
    named = set(inclusion_nodes(index, size))
    proof = inclusion_proof(index, size, lambda *at: node(*at) if at in named else pytest.fail("not named"))
    assert len(proof) <= 17
    verify_inclusion(index, size, LEAVES[index], proof, root_of(LEAVES[:size]))


@settings(max_examples=15, deadline=None)
@given(growths)
def test_a_consistency_proof_of_a_big_tree_verifies(growth):
    """Growth up to 70,000 leaves is proven by at most 18 hashes, read from the nodes it named before."""
    old, new = growth
    named = set(consistency_nodes(old, new))
    proof = consistency_proof(old, new, lambda *at: node(*at) if at in named else pytest.fail("not named"))
    assert len(proof) <= 18
    verify_consistency(old, new, root_of(LEAVES[:old]), root_of(LEAVES[:new]), proof)


@pytest.fixture(scope="module")
def tiled():
    """The tiles of the tree of 70,000 leaves, as the tiler gave them, with its root."""
    tiler = Tiler()
    full = {tile.id: tile.hashes for leaf in LEAVES for tile in tiler.append(leaf)}
    return full, {tile.id: tile.hashes for tile in tiler.partials()}, tiler.root()


def test_the_tiles_are_those_of_the_specification(tiled):
    """The 70,000 leaves make the tiles that C2SP tlog-tiles counts for them, each the nodes of its place."""
    full, partial, root = tiled
    assert root == root_of(LEAVES)
    assert set(tile_ids(BIG)) == full.keys() | partial.keys()
    assert [(tile.level, tile.width) for tile in partial] == [(0, 112), (1, 17), (2, 1)]
    assert (sum(tile.level == 0 for tile in full), sum(tile.level == 1 for tile in full)) == (273, 1)
    for tile, hashes in (full | partial).items():
        first = tile.number * 256
        assert hashes[-32:] == node(8 * tile.level, first + tile.width - 1)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, BIG), st.data())
def test_a_tiler_resumed_from_full_tiles_goes_on_as_if_never_stopped(tiled, size, data):
    """From the full tiles and the last leaf hashes alone, root and partial tiles are those of the leaves."""
    full, _, _ = tiled
    start = size - size % 256
    tiler = Tiler.resume(size, full.__getitem__, LEAVES[start:size])
    assert (tiler.size, tiler.root()) == (size, root_of(LEAVES[:size]))
    more = LEAVES[size : size + data.draw(st.integers(0, 600))]
    for leaf in more:
        for tile in tiler.append(leaf):
            assert full[tile.id] == tile.hashes
    assert tiler.root() == root_of(LEAVES[: size + len(more)])


@settings(max_examples=30, deadline=None)
@given(positions)
def test_the_tiles_rebuild_the_root_of_the_frontier(tiled, position):
    """At every size, the named tiles are enough for the frontier, the root and any inclusion proof."""
    full, _, _ = tiled
    index, size = position
    partial = {
        tile.id: tile.hashes
        for tile in Tiler.resume(size, full.__getitem__, LEAVES[size - size % 256 : size]).partials()
    }
    named = {*peak_tiles(size), *tiles_holding(inclusion_nodes(index, size), size)}
    tiles = {tile: (full | partial)[tile] for tile in named}
    reader = TileReader(size, tiles.__getitem__)
    root = Frontier.read(size, reader).root()
    assert root == root_of(LEAVES[:size])
    verify_inclusion(index, size, LEAVES[index], inclusion_proof(index, size, reader), root)
