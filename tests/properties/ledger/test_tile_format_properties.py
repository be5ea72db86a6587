"""Properties of the tile formats: one path and one bundle for one value, and nothing else is read."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.bundles import decode_bundle, encode_bundle
from wwwmarket.ledger.merkle import SIZE_MAX
from wwwmarket.ledger.tiles import TILE_HEIGHT, BundleId, TileId, parse_path, path_of

most = SIZE_MAX >> TILE_HEIGHT
numbers = st.integers(0, most) | st.integers(0, 2000)
widths = st.integers(1, 256)
names = st.builds(TileId, level=st.integers(0, 63), number=numbers, width=widths) | st.builds(
    BundleId, number=numbers, width=widths
)
bundles = st.lists(st.binary(max_size=300), min_size=1, max_size=256)


@given(names)
def test_a_path_is_read_as_what_it_names(name):
    """Reading a path gives the tile or bundle that it was written for."""
    assert parse_path(path_of(name)) == name


@given(number=st.integers(most + 1, 10**18))
def test_a_path_into_a_tree_that_cannot_be_is_refused(number):
    """No tree has so many entries: what names one is malformed, and costs no arithmetic on it."""
    with pytest.raises(Malformed, match="so large"):
        parse_path(path_of(BundleId(number=number, width=256)))


@given(st.from_regex(r"tile/[0-9e][0-9a-z]{0,6}/[x0-9/]{0,16}[0-9]{3}(\.p/[0-9]{1,3})?", fullmatch=True))
def test_a_path_that_is_read_is_the_only_one_of_its_tile(path):
    """Whatever path is read at all is written back as it was."""
    try:
        name = parse_path(path)
    except Malformed:
        return
    assert path_of(name) == path


@given(bundles)
def test_a_bundle_gives_back_its_entries(entries):
    """Decoding an encoded bundle gives its entries."""
    assert decode_bundle(encode_bundle(entries), width=len(entries)) == entries


@given(bundles, st.data())
def test_a_truncated_or_longer_bundle_is_refused(entries, data):
    """A bundle cut anywhere, or followed by anything, is refused."""
    bundle = encode_bundle(entries)
    cut = data.draw(st.integers(0, len(bundle) - 1))
    more = data.draw(st.binary(min_size=1, max_size=5))
    for bad in (bundle[:cut], bundle + more):
        with pytest.raises(Malformed):
            decode_bundle(bad, width=len(entries))


@given(bundles, widths)
def test_a_bundle_of_another_width_is_refused(entries, width):
    """A bundle is read only with as many entries as it has."""
    if width != len(entries):
        with pytest.raises(Malformed):
            decode_bundle(encode_bundle(entries), width=width)
