"""Order by a database: PostgreSQL for several sequencers, a file of SQLite for one.

The whole log stays there, so a new sequencer needs nothing else to begin with. ``terms`` has one row: who leads, for
how long by the database's own clock, and the epoch of its election, which fences every append in its transaction.
"""

import asyncio
import time
from collections.abc import Sequence
from typing import Any, Final, Self

from sqlalchemy import BigInteger, ColumnElement, Connection, case, cast, func, insert, literal, select, update

from wwwmarket.adapters.orderers.tenure import LEASE_S, Tenure
from wwwmarket.adapters.storage.database import Database
from wwwmarket.adapters.storage.tables import ordered, sequencers, terms
from wwwmarket.domain.errors import Conflict
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, Sequencing, check_order

_POLL_S: Final = 0.2
"""How often a candidate looks whether the leader has gone."""
_SEQUENCERS_MAX: Final = 64


class SqlOrderer:
    """Implements ``ports.store.Orderer`` in the name of one sequencer process."""

    def __init__(self, database: Database, name: str, *, lease_s: int = LEASE_S) -> None:
        self._database, self._name, self._lease_ms = database, name, lease_s * 1_000
        self._now = _now_ms(database)
        self._tenure: Tenure | None = None

    @classmethod
    def open(cls, url: str, name: str, *, lease_s: int = LEASE_S) -> Self:
        """Blocks. Raises as ``storage.database.Database.open``."""
        return cls(Database.open(url, shared=True), name, lease_s=lease_s)

    async def campaign(self) -> None:
        if self._tenure is not None:
            await self._tenure.end()
            self._tenure = None
        asked_s = time.monotonic()
        while (epoch := await self._elect()) is None:
            await asyncio.sleep(_POLL_S)
            asked_s = time.monotonic()
        lease_s = self._lease_ms / 1_000
        self._tenure = Tenure(epoch, lambda: self._renew(epoch), lease_s=lease_s, granted_s=asked_s)

    async def _elect(self) -> int | None:
        """The epoch of this process's election, or None while another's lease lasts (one process is alone)."""
        vacant = (terms.c.until_ms < self._now) | (terms.c.holder == self._name)
        taken = update(terms).values(epoch=terms.c.epoch + 1, holder=self._name, until_ms=self._now + self._lease_ms)
        statement = (taken.where(vacant) if self._database.shared else taken).returning(terms.c.epoch)
        elected: list[int] = []

        def work(connection: Connection) -> None:
            elected[:] = connection.scalars(statement)

        await self._database.writer.submit(work)
        return elected[0] if elected else None

    async def _renew(self, epoch: int) -> bool:
        statement = update(terms).where(terms.c.epoch == epoch).values(until_ms=self._now + self._lease_ms)
        renewed: list[int] = []

        def work(connection: Connection) -> None:
            renewed[:] = connection.scalars(statement.returning(terms.c.epoch))

        await self._database.writer.submit(work)
        return bool(renewed)

    async def wait_lost(self) -> None:
        if self._tenure is not None:
            await self._tenure.wait_lost()

    async def size(self) -> int:
        return await self._database.read(_size)

    async def append(self, first_index: int, leaves: Sequence[bytes]) -> None:
        check_order(leaves)
        rows = [{"index": index, "leaf": leaf} for index, leaf in enumerate(leaves, first_index)]

        def work(connection: Connection) -> None:
            self._check_leading(connection)
            size = _size(connection)
            if size != first_index:
                raise Conflict(f"the log ends at {size}, not at {first_index}", reason="not_the_end")
            connection.execute(insert(ordered), rows)

        if rows:
            await self._database.writer.submit(work)

    def _check_leading(self, connection: Connection) -> None:
        """Raises Conflict. Holds the row to the transaction's end: nobody is elected in between."""
        epoch = connection.scalar(select(terms.c.epoch).with_for_update())
        if self._tenure is None or not self._tenure.held or epoch != self._tenure.epoch:
            raise Conflict("this process does not lead: another sequencer orders now", reason="fenced")

    async def read(self, start: int, end: int) -> list[bytes]:
        end = min(end, start + ORDER_ENTRIES_MAX)
        query = select(ordered.c.leaf).where(ordered.c.index >= start, ordered.c.index < end).order_by(ordered.c.index)
        return await self._database.read(lambda connection: list(connection.scalars(query)))

    async def trim(self, size: int) -> None:  # noqa: ARG002 - a disk has room for the whole log
        await self._database.writer.submit(self._check_leading)

    async def announce(self, address: bytes, size: int) -> None:
        row = {"name": self._name, "address": address, "size": size, "until_ms": self._now + self._lease_ms}
        put = self._database.insert(sequencers).values(row)
        changed = {name: put.excluded[name] for name in ("address", "size", "until_ms")}
        statement = put.on_conflict_do_update(index_elements=["name"], set_=changed)

        def work(connection: Connection) -> None:
            connection.execute(statement)

        await self._database.writer.submit(work)

    async def sequencers(self) -> list[Sequencing]:
        leads = case((select(terms.c.holder).scalar_subquery() == sequencers.c.name, 1), else_=0)
        leads = case((select(terms.c.until_ms).scalar_subquery() < self._now, 0), else_=leads)
        query = (
            select(sequencers.c.name, sequencers.c.address, sequencers.c.size, leads)
            .where(sequencers.c.until_ms >= self._now)
            .order_by(sequencers.c.name)
            .limit(_SEQUENCERS_MAX)
        )

        def found(connection: Connection) -> list[Sequencing]:
            rows = connection.execute(query)
            return [Sequencing(name=row[0], address=row[1], size=row[2], leads=bool(row[3])) for row in rows]

        return await self._database.read(found)

    async def close(self) -> None:
        if self._tenure is not None:
            epoch = self._tenure.epoch
            await self._tenure.end()
            statement = update(terms).where(terms.c.epoch == epoch).values(until_ms=0)
            await self._database.resign(lambda connection: connection.execute(statement))
        await asyncio.to_thread(self._database.close)


def _size(connection: Connection) -> int:
    last = connection.scalar(select(func.max(ordered.c.index)))
    return 0 if last is None else last + 1


def _now_ms(database: Database) -> ColumnElement[Any]:
    """The server's clock, the only one that leases are measured by. SQLite's one process needs none."""
    if not database.shared:
        return literal(1, BigInteger)
    return cast(func.extract("epoch", func.clock_timestamp()) * 1_000, BigInteger)
