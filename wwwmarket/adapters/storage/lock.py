"""One writing process for each database."""

import fcntl
import os
from pathlib import Path
from typing import Final, Self

from sqlalchemy import Connection, Engine
from sqlalchemy.exc import DatabaseError

from wwwmarket.adapters.storage import faults
from wwwmarket.domain.errors import Conflict


class FileLock:
    """An advisory lock (flock) on a file beside the database, which holds the owner's process number.

    The kernel drops it when the process ends in whatever way. The file stays: its removal would race with the next
    owner.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    @classmethod
    def take(cls, database: Path) -> Self:
        """Raises Conflict, with the owner's process number, when another holds it."""
        path = database.with_name(database.name + ".lock")
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(descriptor)
            raise Conflict(
                f"{database} is being written by process {owner}: stop that one, or give this one another database",
                reason="database_in_use",
            ) from None
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


_STORE_LOCK: Final = 0x777777_0002
"""Number of the advisory lock of whoever writes a database as its own store."""


class SessionLock:
    """An advisory lock of PostgreSQL, which the server drops with the session that holds it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    def take(cls, engine: Engine, name: str) -> Self:
        """Raises Conflict when another process holds it, and Unavailable when the server cannot be reached."""
        try:
            connection = engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            taken = connection.exec_driver_sql(f"SELECT pg_try_advisory_lock({_STORE_LOCK})").scalar_one()
        except DatabaseError as error:
            raise faults.refusal(error, name) from error
        if not taken:
            connection.close()
            raise Conflict(
                f"{name} is being written by another process: stop that one, or give this one another database",
                reason="database_in_use",
            )
        return cls(connection)

    def release(self) -> None:
        """By ending the session: the pool would keep it."""
        self._connection.invalidate()
        self._connection.close()
