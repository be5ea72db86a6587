"""Tile paths, tile reading and bundles: the examples of C2SP tlog-tiles, and what is refused."""

import pytest

from wwwmarket.domain.errors import Malformed, TooLarge
from wwwmarket.ledger.bundles import decode_bundle, encode_bundle
from wwwmarket.ledger.merkle import SIZE_MAX, leaf_hash
from wwwmarket.ledger.tiles import (
    BundleId,
    TileId,
    Tiler,
    TileReader,
    bundle_ids,
    parse_path,
    partial_ids,
    path_of,
    tile_ids,
)

LEAVES = [leaf_hash(bytes([index])) for index in range(5)]


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("tile/0/000", TileId(level=0, number=0)),
        ("tile/0/x001/x234/067", TileId(level=0, number=1_234_067)),
        ("tile/0/x001/067.p/8", TileId(level=0, number=1067, width=8)),
        ("tile/63/999.p/255", TileId(level=63, number=999, width=255)),
        ("tile/entries/x001/000.p/1", BundleId(number=1000, width=1)),
    ],
)
def test_a_path_is_written_as_the_specification_shows(path, name):
    """The path of a tile, there and back."""
    assert path_of(name) == path
    assert parse_path(path) == name


@pytest.mark.parametrize(
    "path",
    [
        "",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",  # one group too many
        "tile/0/001/067",  # no x
        "tile/0/x001",
        "tile/0/x001/x067",
        "tile/00/000",
        "tile/64/000",
        "tile/-1/000",
        "tile/data/000",
        "tile/8/0/000",  # the form of Go, which says the height
        "tile/0/000.p/0",
        "tile/0/000.p/01",
        "tile/0/000.p/256",
        "tile/0/000.p/",
        "tile/0/000/",
        "/tile/0/000",
        "tile/0/../000",
        "tile/0/000\n",
        "tile/0/\u0661\u0661\u0661",  # digits, but not of ASCII
        "tile/0/" + "x999/" * 7 + "999",
        "tile/0/" + "x999/" * 100_000 + "999",
    ],
)
def test_a_path_that_is_not_the_only_one_of_its_tile_is_refused(path):
    """Anything but the canonical path of a tile is refused."""
    with pytest.raises(Malformed):
        parse_path(path)


def test_a_tree_of_256_leaves_has_a_full_tile_and_one_hash_above():
    """The example of the specification for a tree of size 256."""
    assert list(tile_ids(256)) == [TileId(level=0, number=0), TileId(level=1, number=0, width=1)]
    assert list(partial_ids(256)) == [TileId(level=1, number=0, width=1)]
    assert list(tile_ids(0)) == list(bundle_ids(0)) == []


def test_the_largest_tree_has_its_top_tile_on_the_last_level():
    """Eight levels are enough for 2^63 - 1 leaves."""
    assert list(partial_ids(SIZE_MAX))[-1] == TileId(level=7, number=0, width=127)


@pytest.mark.parametrize(("level", "index"), [(0, 5), (1, 2), (3, 0), (0, -1), (-1, 0)])
def test_a_node_that_the_tree_does_not_have_is_refused(level, index):
    """Beyond the edge, or not complete: no such node is read."""
    reader = TileReader(5, lambda _: b"".join(LEAVES))
    with pytest.raises(Malformed, match="no complete node"):
        reader(level, index)


def test_a_tree_beyond_all_bounds_has_no_nodes():
    """More than 2^63 - 1 leaves are in no tree."""
    with pytest.raises(Malformed, match="no complete node"):
        TileReader(SIZE_MAX + 1, pytest.fail)(0, 0)


@pytest.mark.parametrize("length", [0, 4 * 32, 5 * 32 - 1, 6 * 32])
def test_a_tile_of_the_wrong_length_is_refused(length):
    """A tile has the hashes that its width says, no fewer and no more."""
    reader = TileReader(5, lambda _: bytes(length))
    with pytest.raises(Malformed):
        reader(0, 0)


def test_a_tile_is_fetched_once():
    """Reading five nodes of one tile fetches it once."""
    fetched = []
    reader = TileReader(5, lambda tile: fetched.append(tile) or b"".join(LEAVES))
    assert [reader(0, index) for index in range(5)] == LEAVES
    assert fetched == [TileId(level=0, number=0, width=5)]


def test_a_tiler_is_not_resumed_with_another_number_of_leaves():
    """The leaf hashes after the last full tile must be all of them, and no more."""
    for leaves in (LEAVES[:4], [*LEAVES, LEAVES[0]]):
        with pytest.raises(Malformed):
            Tiler.resume(5, pytest.fail, leaves)


def test_a_bundle_holds_the_longest_entry_and_refuses_a_longer_one():
    """65,535 bytes fit behind a 16-bit length, 65,536 do not."""
    longest = bytes(65_535)
    assert decode_bundle(encode_bundle([longest, b""]), width=2) == [longest, b""]
    with pytest.raises(TooLarge):
        encode_bundle([longest + b"x"])


def test_a_bundle_larger_than_its_entries_can_be_is_refused_unread():
    """More bytes than the width allows are refused before anything is read."""
    with pytest.raises(TooLarge):
        decode_bundle(bytes(65_538), width=1)


@pytest.mark.parametrize("data", [b"", b"\x00", b"\x00\x02a", b"\x00\x01ab", b"\x00\x00\x00"])
def test_a_bundle_cut_short_or_followed_by_more_is_refused(data):
    """One entry is expected: its length and its bytes, and nothing else."""
    with pytest.raises(Malformed):
        decode_bundle(data, width=1)
