"""Checks 2 to 5: the entries' number, their tree, its tiles, and proofs from these alone."""

from collections.abc import Iterator, Sequence
from typing import Final

from wwwmarket.domain.errors import Malformed
from wwwmarket.ledger.bundles import BUNDLE_BYTES_MAX, decode_bundle
from wwwmarket.ledger.checkpoint import Checkpoint
from wwwmarket.ledger.merkle import HASH_BYTES, leaf_hash
from wwwmarket.ledger.proofs import inclusion_nodes, inclusion_proof, verify_inclusion
from wwwmarket.ledger.tiles import (
    TILE_WIDTH,
    BundleId,
    TileId,
    Tiler,
    TileReader,
    partial_ids,
    path_of,
    tiles_holding,
)
from wwwmarket.market.audit.findings import Check, Findings

SAMPLED_TILES_MAX: Final = 16
"""All entries of so many tiles are proven, 4,096 at most: about a second, and 256 KiB of hashes to keep.

An operator that knows which gains nothing: every tile is compared with the entries anyway.
"""

_LENGTH_BYTES: Final = 2


class Tree:
    """Built from entries; compares what the log says of its tree with it."""

    def __init__(self, findings: Findings) -> None:
        self._findings = findings
        self._tiler = Tiler()
        self._due: dict[TileId, bytes] = {}
        self._served: dict[TileId, bytes] = {}
        self._leaves: dict[int, list[bytes]] = {}
        self._row: list[bytes] = []
        self._sample: frozenset[int] = frozenset()
        self._wanted: frozenset[TileId] = frozenset()
        self._missing = False

    @property
    def size(self) -> int:
        return self._tiler.size

    @property
    def rows(self) -> tuple[bytes, ...]:
        """The partial tiles' hashes, level by level."""
        return self._tiler.rows

    def take_up(self, size: int, rows: Sequence[bytes]) -> None:
        """Go on where another audit was put aside. Raises Malformed."""
        self._tiler = Tiler.at(size, rows)
        self._row = [_hash_at(rows[0], place) for place in range(size % TILE_WIDTH)]

    def root(self) -> bytes:
        """Over the entries read so far."""
        return self._tiler.root()

    def begin(self, target: int) -> None:
        """A stretch up to ``target`` entries: choose what is proven of it."""
        self._leaves.clear()
        first, last = self.size // TILE_WIDTH, max(target - 1, 0) // TILE_WIDTH
        steps = min(last - first, SAMPLED_TILES_MAX - 1)
        self._sample = frozenset(first + (last - first) * step // max(steps, 1) for step in range(steps + 1))
        places = (at for number in self._sample for at in range(number * TILE_WIDTH, (number + 1) * TILE_WIDTH))
        nodes = (node for at in places if at < target for node in ((0, at), *inclusion_nodes(at, target)))
        self._wanted = frozenset(tiles_holding(nodes, target))
        self._served.clear()

    def lacking(self) -> frozenset[TileId]:
        """Tiles of earlier stretches that proofs of this one lead through."""
        return self._wanted - self._served.keys() - frozenset(partial_ids(self.size))

    def open_bundle(self, bundle: BundleId, content: bytes | None) -> list[bytes | None]:
        """Check 2: the bundle's entries that are not yet in the tree; None stands for one that is missing."""
        start = bundle.number * TILE_WIDTH
        self._findings.examine(Check.SIZE)
        if content is None:
            self._findings.add(Check.SIZE, f"{path_of(bundle)} is missing: the entries end here", entry=self.size)
            return []
        try:
            entries: list[bytes | None] = list(decode_bundle(content, width=bundle.width))
        except Malformed as refusal:
            entries = list(_whole_entries(content, bundle.width))
            self._missing = True
            self._findings.add(
                Check.SIZE, f"{path_of(bundle)}: {refusal.message}", entry=start + min(len(entries), bundle.width - 1)
            )
            entries += [None] * (bundle.width - len(entries))
        return entries[self.size - start :]

    def append(self, entry: bytes | None) -> None:
        """A missing entry counts as an empty one, so that those after it keep their places."""
        leaf = leaf_hash(entry or b"")
        number = self.size // TILE_WIDTH
        if self.size % TILE_WIDTH == 0:
            self._row = []
        self._row.append(leaf)
        if number in self._sample:
            self._leaves[number] = self._row
        for tile in self._tiler.append(leaf):
            self._due[tile.id] = tile.hashes

    def compare(self, tile: TileId, content: bytes | None) -> None:
        """Check 4: a tile that the log serves is that of the entries."""
        expected = self._due.pop(tile, None)
        if expected is None:
            expected = next((each.hashes for each in self._tiler.partials() if each.id == tile), None)
        if content is not None and tile in self._wanted:
            self._served[tile] = content
        if expected is None:
            return  # it was compared in its own stretch; what is read of it now is held against the root
        self._findings.examine(Check.TILES)
        if content is None:
            self._findings.add(Check.TILES, f"{path_of(tile)} is missing")
        elif content != expected:
            self._differs(tile, content, expected)

    def _differs(self, tile: TileId, content: bytes, expected: bytes) -> None:
        if len(content) != len(expected):
            self._findings.add(
                Check.TILES,
                f"{path_of(tile)} has {len(content)} bytes, which are not {tile.width} hashes",
                follows=self._missing,
            )
            return
        place = next(at for at in range(tile.width) if _hash_at(content, at) != _hash_at(expected, at))
        entry = None if tile.level else tile.number * TILE_WIDTH + place
        message = f"hash {place} of {path_of(tile)} is not that of the entries"
        self._findings.add(Check.TILES, message, entry=entry)

    def end(self, checkpoint: Checkpoint) -> None:
        """Checks 2, 3 and 5, over the whole tree."""
        findings = self._findings
        if self.size != checkpoint.size:
            findings.add(
                Check.SIZE,
                f"the log has {self.size} entries, the checkpoint covers {checkpoint.size}",
                entry=min(self.size, checkpoint.size),
                follows=self.size < checkpoint.size and findings.has(Check.SIZE),
            )
            return
        if not checkpoint.size:
            findings.add(Check.SIZE, "the log has no entries, and so no genesis: there is nothing to audit")
            return
        findings.examine(Check.ROOT)
        if self._tiler.root() != checkpoint.root:
            findings.add(
                Check.ROOT,
                f"the entries have the root {self._tiler.root().hex()}, the checkpoint says {checkpoint.root.hex()}",
                follows=self._missing,
            )
        self._prove(checkpoint)

    def _prove(self, checkpoint: Checkpoint) -> None:
        failed: list[tuple[int, str]] = []
        for number, leaves in self._leaves.items():
            node = TileReader(checkpoint.size, self._fetch)
            for index, leaf in enumerate(leaves, number * TILE_WIDTH):
                self._findings.examine(Check.INCLUSION)
                try:
                    proof = inclusion_proof(index, checkpoint.size, node)
                    verify_inclusion(index, checkpoint.size, leaf, proof, checkpoint.root)
                except Malformed as refusal:
                    failed.append((index, refusal.message))
        if failed:
            index, why = failed[0]
            more = f"; and {len(failed) - 1} others" if len(failed) > 1 else ""
            explained = self._findings.has(Check.SIZE, Check.ROOT, Check.TILES)
            self._findings.add(
                Check.INCLUSION, f"the tiles do not prove it: {why}{more}", entry=index, follows=explained
            )

    def _fetch(self, tile: TileId) -> bytes:
        content = self._served.get(tile)
        if content is None:
            raise Malformed(f"{path_of(tile)} is missing")
        return content


def _hash_at(hashes: bytes, place: int) -> bytes:
    return hashes[place * HASH_BYTES : (place + 1) * HASH_BYTES]


def _whole_entries(content: bytes, width: int) -> Iterator[bytes]:
    """What can be told apart of a bundle that is not one: its first entries, as far as they are whole."""
    content = content[:BUNDLE_BYTES_MAX]
    place = 0
    for _ in range(width):
        start = place + _LENGTH_BYTES
        place = start + int.from_bytes(content[place:start], "big")
        if place > len(content) or start > len(content):
            return
        yield content[start:place]
