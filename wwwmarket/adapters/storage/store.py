"""``ports.store`` over SQL: ``SqlStore.records`` for a node's own records, ``SqlStore.ledger`` for the log."""

import asyncio
from collections.abc import Sequence
from itertools import groupby
from typing import Final, Self

from sqlalchemy import Connection, delete, func, select

from wwwmarket.adapters.storage.database import Database
from wwwmarket.adapters.storage.tables import checkpoints, entries, records, tiles
from wwwmarket.adapters.storage.writer import QUEUE_MAX
from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.identity import EntryId
from wwwmarket.ledger.tiles import TILE_HEIGHT, TILE_LEVELS
from wwwmarket.ports.store import Change, Tile


class SqlRecords:
    """Implements ``ports.store.RecordStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        upsert = database.insert(records)
        self._upsert = upsert.on_conflict_do_update(
            index_elements=[records.c.kind, records.c.key], set_={"body": upsert.excluded.body}
        )

    async def write(self, changes: Sequence[Change], *, patience_ms: int = 0) -> None:
        """Raises Exhausted or Unavailable (see ``writer.Writer.submit``); nothing is written then."""
        if changes:
            await self._database.writer.submit(
                lambda connection: self._apply(connection, changes), patience_ms=patience_ms
            )

    def _apply(self, connection: Connection, changes: Sequence[Change]) -> None:
        for deletes, run in groupby(changes, key=lambda change: change.body is None):
            if deletes:
                for change in run:
                    connection.execute(
                        delete(records).where(records.c.kind == change.kind, records.c.key == change.key)
                    )
            else:
                rows = [{"kind": change.kind, "key": change.key, "body": change.body} for change in run]
                connection.execute(self._upsert, rows)

    async def read(self, kind: str, key: str) -> bytes | None:
        query = select(records.c.body).where(records.c.kind == kind, records.c.key == key)
        return await self._database.read(lambda connection: connection.scalar(query))

    async def scan(self, kind: str, *, newest_first: bool = False, limit: int | None = None) -> list[tuple[str, bytes]]:
        order = records.c.serial.desc() if newest_first else records.c.serial
        query = select(records.c.key, records.c.body).where(records.c.kind == kind).order_by(order).limit(limit)
        return await self._database.read(lambda connection: [(key, body) for key, body in connection.execute(query)])


class SqlLedger:
    """Implements ``ports.store.LedgerStore``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.insert(entries)
        put = database.insert(checkpoints)
        self._put_checkpoint = put.on_conflict_do_update(index_elements=["size"], set_={"note": put.excluded.note})
        self._put_tile = database.insert(tiles).on_conflict_do_nothing()

    async def size(self) -> int:
        return await self._database.read(_size)

    async def promised(self) -> int:
        witness = self._database.witness
        return await self.size() if witness is None else witness.size

    async def append(self, first_index: int, leaves: Sequence[bytes], ids: Sequence[EntryId]) -> None:
        """Raises Conflict also when one of ``ids`` is in the log already."""
        rows = [
            {"index": index, "id": bytes.fromhex(entry), "leaf": leaf}
            for index, (leaf, entry) in enumerate(zip(leaves, ids, strict=True), first_index)
        ]

        def work(connection: Connection) -> None:
            size = _size(connection)
            if size != first_index:
                raise Conflict(f"the log ends at {size}, not at {first_index}: read on and append again")
            connection.execute(self._insert, rows)

        if not rows:
            return
        await self._database.writer.submit(work)
        if self._database.witness is not None:
            self._database.witness.saw(first_index + len(rows))

    async def read(self, start: int, end: int) -> list[bytes]:
        query = select(entries.c.leaf).where(entries.c.index >= start, entries.c.index < end).order_by(entries.c.index)
        return await self._database.read(lambda connection: list(connection.scalars(query)))

    async def index_of(self, entry: EntryId) -> int | None:
        query = select(entries.c.index).where(entries.c.id == bytes.fromhex(entry))
        return await self._database.read(lambda connection: connection.scalar(query))

    async def put_checkpoint(self, size: int, note: bytes, tiles: Sequence[Tile]) -> None:
        """Raises Conflict: a checkpoint of a larger log is kept already. A log never shrinks."""

        def work(connection: Connection) -> None:
            if self._database.witness is not None:
                self._database.witness.sync()
            latest = connection.scalar(select(func.max(checkpoints.c.size)))
            if latest is not None and latest > size:
                raise Conflict(f"a checkpoint of {latest} entries is kept already: {size} would be a step back")
            connection.execute(self._put_checkpoint, {"size": size, "note": note})
            if tiles:
                rows = [{"level": tile.level, "number": tile.number, "hashes": tile.hashes} for tile in tiles]
                connection.execute(self._put_tile, rows)

        await self._database.writer.submit(work)

    async def checkpoint(self) -> bytes | None:
        query = select(checkpoints.c.note).order_by(checkpoints.c.size.desc()).limit(1)
        return await self._database.read(lambda connection: connection.scalar(query))

    async def tile(self, level: int, number: int) -> bytes | None:
        query = select(tiles.c.hashes).where(tiles.c.level == level, tiles.c.number == number)
        return await self._database.read(lambda connection: connection.scalar(query))

    async def cut(self, size: int) -> None:
        def work(connection: Connection) -> None:
            connection.execute(delete(entries).where(entries.c.index >= size))
            connection.execute(delete(checkpoints).where(checkpoints.c.size > size))
            for level in range(TILE_LEVELS):
                whole = size >> TILE_HEIGHT * (level + 1)
                connection.execute(delete(tiles).where(tiles.c.level == level, tiles.c.number >= whole))

        # The witness first: one that says less than there is loses nothing.
        if self._database.witness is not None:
            self._database.witness.forget(size)
        await self._database.writer.submit(work)


def _size(connection: Connection) -> int:
    last = connection.scalar(select(func.max(entries.c.index)))
    return 0 if last is None else last + 1


class SqlStore:
    """One database, for one process alone, and the two stores in it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.records: Final = SqlRecords(database)
        self.ledger: Final = SqlLedger(database)

    @classmethod
    def open(cls, url: str, *, queue_max: int = QUEUE_MAX) -> Self:
        """Blocks. Raises as ``database.Database.open``."""
        return cls(Database.open(url, queue_max=queue_max))

    async def close(self) -> None:
        """Commit what waits, then close the database and let go of it."""
        await asyncio.to_thread(self._database.close)
