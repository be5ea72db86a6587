"""``ports.store`` in memory: what is written survives a simulated crash, and nothing else."""

from collections.abc import Sequence
from typing import Final

from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.identity import EntryId
from wwwmarket.ledger.tiles import TILE_HEIGHT
from wwwmarket.ports.store import Change, Tile

CHECKPOINTS_MAX: Final = 64
"""Enough to fall back to; a disk keeps all of them."""


class MemoryRecords:
    """Implements ``ports.store.RecordStore``. A dict keeps the order of first writing, as the port asks."""

    def __init__(self) -> None:
        self._kinds: dict[str, dict[str, bytes]] = {}

    async def write(self, changes: Sequence[Change], *, patience_ms: int = 0) -> None:  # noqa: ARG002 - nothing to wait for
        for change in changes:
            kept = self._kinds.setdefault(change.kind, {})
            if change.body is None:
                kept.pop(change.key, None)
            else:
                kept[change.key] = change.body

    async def read(self, kind: str, key: str) -> bytes | None:
        return self._kinds.get(kind, {}).get(key)

    async def scan(self, kind: str, *, newest_first: bool = False, limit: int | None = None) -> list[tuple[str, bytes]]:
        found = list(self._kinds.get(kind, {}).items())
        return (found[::-1] if newest_first else found)[:limit]


class MemoryLedger:
    """Implements ``ports.store.LedgerStore``."""

    def __init__(self) -> None:
        self._leaves: list[bytes] = []
        self._indices: dict[EntryId, int] = {}
        self._tiles: dict[tuple[int, int], bytes] = {}
        self._checkpoints: dict[int, bytes] = {}

    async def size(self) -> int:
        return len(self._leaves)

    async def promised(self) -> int:
        return len(self._leaves)

    async def append(self, first_index: int, leaves: Sequence[bytes], ids: Sequence[EntryId]) -> None:
        assert len(leaves) == len(ids), "every leaf has a name"
        if leaves and first_index != len(self._leaves):
            raise Conflict(f"the log ends at {len(self._leaves)}, not at {first_index}: read on and append again")
        if len(set(ids)) < len(ids) or not self._indices.keys().isdisjoint(ids):
            raise Conflict("the log holds another value under the same name")
        self._leaves += leaves
        self._indices |= {entry: index for index, entry in enumerate(ids, first_index)}

    async def read(self, start: int, end: int) -> list[bytes]:
        return self._leaves[start:end]

    async def index_of(self, entry: EntryId) -> int | None:
        return self._indices.get(entry)

    async def put_checkpoint(self, size: int, note: bytes, tiles: Sequence[Tile]) -> None:
        latest = max(self._checkpoints, default=0)
        if latest > size:
            raise Conflict(f"a checkpoint of {latest} entries is kept already: {size} would be a step back")
        self._checkpoints[size] = note
        while len(self._checkpoints) > CHECKPOINTS_MAX:
            del self._checkpoints[min(self._checkpoints)]
        for tile in tiles:
            self._tiles.setdefault((tile.level, tile.number), tile.hashes)

    async def checkpoint(self) -> bytes | None:
        return self._checkpoints[max(self._checkpoints)] if self._checkpoints else None

    async def tile(self, level: int, number: int) -> bytes | None:
        return self._tiles.get((level, number))

    async def cut(self, size: int) -> None:
        del self._leaves[size:]
        self._indices = {entry: index for entry, index in self._indices.items() if index < size}
        self._checkpoints = {covered: note for covered, note in self._checkpoints.items() if covered <= size}
        self._tiles = {
            (level, number): hashes
            for (level, number), hashes in self._tiles.items()
            if number < size >> TILE_HEIGHT * (level + 1)
        }


class MemoryStore:
    """Both stores of one simulated node."""

    def __init__(self) -> None:
        self.records = MemoryRecords()
        self.ledger = MemoryLedger()

    async def close(self) -> None:
        """Nothing to let go of: the same store can be given to the node's next life."""
