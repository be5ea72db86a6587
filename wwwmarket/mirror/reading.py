"""Entries and proofs out of a log's files, for a mirror to judge: nothing here is believed."""

import asyncio
from collections.abc import Sequence
from typing import Final

from wwwmarket.domain.errors import NotFound
from wwwmarket.ledger.bundles import BUNDLE_BYTES_MAX, decode_bundle
from wwwmarket.ledger.merkle import HASH_BYTES, NodeReader
from wwwmarket.ledger.proofs import Proof, consistency_nodes, consistency_proof
from wwwmarket.ledger.tiles import TILE_WIDTH, BundleId, TileId, TileReader, path_of, tiles_holding
from wwwmarket.mirror.events import Fetch
from wwwmarket.ports.log_files import LogFiles

_TILE_BYTES_MAX: Final = TILE_WIDTH * HASH_BYTES


async def read_entries(files: LogFiles, fetch: Fetch) -> list[bytes]:
    """The entries that are asked for. Raises Malformed, NotFound, Unavailable."""
    numbers = range(fetch.start // TILE_WIDTH, -(-fetch.end // TILE_WIDTH))
    bundles = [BundleId(number=number, width=min(TILE_WIDTH, fetch.end - number * TILE_WIDTH)) for number in numbers]
    read = await asyncio.gather(*(_read_bundle(files, bundle) for bundle in bundles))
    entries = [entry for bundle in read for entry in bundle]
    return entries[fetch.start % TILE_WIDTH :]


async def read_proof(files: LogFiles, fetch: Fetch) -> Proof:
    """That the tree of ``fetch.size`` begins with the one of ``fetch.end``. Raises Malformed, NotFound, Unavailable."""
    node = await read_nodes(files, consistency_nodes(fetch.end, fetch.size), fetch.size)
    return consistency_proof(fetch.end, fetch.size, node)


async def read_nodes(files: LogFiles, nodes: Sequence[tuple[int, int]], size: int) -> NodeReader:
    """Nodes ``(level, index)`` of the tree of ``size``. Raises Malformed, NotFound, Unavailable."""
    needed = tiles_holding(nodes, size)
    tiles = dict(zip(needed, await asyncio.gather(*(_read_tile(files, tile) for tile in needed)), strict=True))
    return TileReader(size, tiles.__getitem__)


async def _read_bundle(files: LogFiles, bundle: BundleId) -> list[bytes]:
    """A partial bundle is the beginning of the full one, which alone may be left (tlog-tiles, "Partial Tiles")."""
    try:
        content = await files.read(path_of(bundle), bytes_max=BUNDLE_BYTES_MAX)
        return decode_bundle(content, width=bundle.width)
    except NotFound:
        if bundle.width == TILE_WIDTH:
            raise
    full = await files.read(path_of(BundleId(number=bundle.number)), bytes_max=BUNDLE_BYTES_MAX)
    return decode_bundle(full, width=TILE_WIDTH)[: bundle.width]


async def _read_tile(files: LogFiles, tile: TileId) -> bytes:
    try:
        return await files.read(path_of(tile), bytes_max=_TILE_BYTES_MAX)
    except NotFound:
        if tile.width == TILE_WIDTH:
            raise
    full = await files.read(path_of(TileId(level=tile.level, number=tile.number)), bytes_max=_TILE_BYTES_MAX)
    return full[: tile.width * HASH_BYTES]
