"""The whole log as static files, by the names under which C2SP tlog-tiles serves them."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.bundles import encode_bundle
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint
from wwwmarket.ledger.merkle import leaf_hash
from wwwmarket.ledger.tiles import TILE_WIDTH, Tiler, bundle_ids, path_of

ReadEntries = Callable[[int, int], Sequence[bytes]]
"""Gives the entries ``start`` to ``end - 1``."""

CHECKPOINT_PATH: Final = "checkpoint"


def files(checkpoint: VerifiedCheckpoint, read: ReadEntries) -> Iterator[tuple[str, bytes]]:
    """Every file of the log at ``checkpoint``, as ``(path, bytes)``; holds no more than one bundle and its tiles.

    The checkpoint comes last, and only if the entries add up to it: nobody who sees it finds a tile missing.

    Raises:
        Malformed: the entries are fewer, or others, than the checkpoint says.
    """
    tiler = Tiler()
    for bundle in bundle_ids(checkpoint.checkpoint.size):
        start = bundle.number * TILE_WIDTH
        entries = read(start, start + bundle.width)
        if len(entries) != bundle.width:
            raise Malformed(f"the log has {start + len(entries)} entries, the checkpoint {checkpoint.checkpoint.size}")
        yield path_of(bundle), encode_bundle(entries)
        for entry in entries:
            for tile in tiler.append(leaf_hash(entry)):
                yield path_of(tile.id), tile.hashes
    for tile in tiler.partials():
        yield path_of(tile.id), tile.hashes
    if tiler.root() != checkpoint.checkpoint.root:
        raise Malformed("the entries do not add up to the root in the checkpoint")
    yield CHECKPOINT_PATH, checkpoint.note
