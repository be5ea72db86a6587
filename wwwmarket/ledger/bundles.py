"""Entry bundles: up to 256 entries, each after its length as a big-endian uint16 (C2SP tlog-tiles, "Log entries")."""

from collections.abc import Sequence
from typing import Final

from wwwmarket.crypto.canonical import ENTRY_BYTES_MAX
from wwwmarket.domain.errors import Malformed, TooLarge

BUNDLE_ENTRIES_MAX: Final = 256
"""A bundle has the width of a tile of leaf hashes."""

BUNDLE_BYTES_MAX: Final = BUNDLE_ENTRIES_MAX * (2 + ENTRY_BYTES_MAX)


def encode_bundle(entries: Sequence[bytes]) -> bytes:
    """Raises TooLarge when an entry is longer than a bundle can say."""
    assert 1 <= len(entries) <= BUNDLE_ENTRIES_MAX, "a bundle holds 1 to 256 entries"
    try:
        return b"".join([len(entry).to_bytes(2, "big") + entry for entry in entries])
    except OverflowError:
        raise TooLarge(f"an entry is at most {ENTRY_BYTES_MAX} bytes long") from None


def decode_bundle(data: bytes, *, width: int) -> list[bytes]:
    """The ``width`` entries of a bundle, all of it and nothing else.

    Raises:
        Malformed: cut off, or followed by more, or more bytes than ``width`` entries can have (TooLarge).
    """
    assert 1 <= width <= BUNDLE_ENTRIES_MAX, "a bundle holds 1 to 256 entries"
    if len(data) > width * (2 + ENTRY_BYTES_MAX):
        raise TooLarge(f"{len(data)} bytes are more than {width} entries can have")
    entries: list[bytes] = []
    place = 0
    for _ in range(width):
        start = place + 2
        place = start + int.from_bytes(data[place:start], "big")
        entries.append(data[start:place])
    # Slices are silent past the end, but then the last place lies beyond it: one check covers every way of being cut.
    if place != len(data):
        raise Malformed(f"{len(data)} bytes are not a bundle of {width} entries")
    return entries
