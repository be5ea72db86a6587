"""One database: reads in a few threads, writes in one, its schema brought up to date, its exclusive owner known."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from typing import Any, Final, Protocol, Self, TypeVar

from sqlalchemy import Connection, Engine, Table
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import DatabaseError

from wwwmarket.adapters.storage import engine as engines
from wwwmarket.adapters.storage import faults, schema
from wwwmarket.adapters.storage.lock import FileLock, SessionLock
from wwwmarket.adapters.storage.witness import Witness
from wwwmarket.adapters.storage.writer import QUEUE_MAX, Writer
from wwwmarket.domain.errors import Refusal

T = TypeVar("T")

READERS: Final = 2
_INSERTS: Final[dict[str, Callable[[Table], Any]]] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}


class _Lock(Protocol):
    def release(self) -> None: ...


class Database:
    def __init__(self, engine: Engine, name: str, lock: _Lock | None, witness: Witness | None, queue_max: int) -> None:
        self._engine, self._name, self._lock = engine, name, lock
        self.shared: Final = lock is None
        self.witness: Final = witness
        """Of a file only: a server's database is not lost by halves."""
        self.insert: Final = _INSERTS[engine.dialect.name]
        self.writer: Final = Writer(engine, name, queue_max=queue_max)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="wwwmarket-reader")

    @classmethod
    def open(cls, url: str, *, shared: bool = False, queue_max: int = QUEUE_MAX) -> Self:
        """Open ``sqlite:///path`` or ``postgresql+psycopg://…``, created or migrated as need be.

        A file is for this process alone; a server's database too, unless it is ``shared``. Blocks: a file is read once.

        Raises:
            Malformed: not an address, not a database, or a damaged one.
            NotFound: no folder to hold it.
            Conflict: another process writes it, or newer code made it.
            Unavailable: it cannot be opened.
        """
        parsed = engines.parse(url)
        name = engines.name_of(parsed)
        path = engines.path_of(parsed)
        lock: _Lock | None = None if path is None else FileLock.take(path)
        engine = engines.connect(parsed, readers=READERS)
        try:
            if path is not None:
                engines.check(engine, path)
            elif not shared:
                lock = SessionLock.take(engine, name)
            with _refusing(name), engine.connect().execution_options(writes=True) as connection, connection.begin():
                engines.serialise(connection)
                schema.upgrade(connection, name)
            return cls(engine, name, lock, None if path is None else Witness.open(path), queue_max)
        except BaseException:
            if lock is not None:
                lock.release()
            engine.dispose()
            raise

    async def read(self, query: Callable[[Connection], T]) -> T:
        """Raises Malformed or Unavailable when the database fails."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._query, query)

    def _query(self, query: Callable[[Connection], T]) -> T:
        with _refusing(self._name), self._engine.connect() as connection:
            return query(connection)

    async def resign(self, work: Callable[[Connection], object]) -> None:
        """Do ``work`` if it can be done: what it gives back would end by itself."""

        def silent(connection: Connection) -> None:
            work(connection)

        with suppress(Refusal):
            await self.writer.submit(silent)

    def close(self) -> None:
        """Commit what waits. Blocks."""
        self.writer.close()
        self._readers.shutdown()
        if self.witness is not None:
            self.witness.close()
        if self._lock is not None:
            self._lock.release()
        self._engine.dispose()


@contextmanager
def _refusing(name: str) -> Iterator[None]:
    """Turns what the database ``name`` raises within into refusals."""
    try:
        yield
    except DatabaseError as error:
        raise faults.refusal(error, name) from error
