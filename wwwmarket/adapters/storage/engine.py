"""Connections to the database, set up for durability."""

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from wwwmarket.adapters.storage import faults
from wwwmarket.domain.errors import Malformed, NotFound

_FORMS: Final = "sqlite:///path, or postgresql+psycopg://user@host/name"
_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


_POSTGRESQL: Final[dict[str, Any]] = {
    "connect_timeout": 5,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": "-c timezone=UTC -c synchronous_commit=on -c statement_timeout=30000 -c lock_timeout=10000",
    "application_name": "wwwmarket",
}
"""A server that has gone is noticed within some ten seconds, and a statement that hangs ends."""
_MIGRATION_LOCK: Final = 0x777777_0001
"""Number of the advisory lock under which schemas are changed."""


def parse(url: str) -> URL:
    """The address of a database.

    Raises:
        Malformed: no address, or not one of an SQLite file or a PostgreSQL database.
        NotFound: the file's folder does not exist.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise Malformed(f"that is not the address of a database: {_FORMS} is") from None
    backend = parsed.get_backend_name()
    if backend == "postgresql" and parsed.database:
        return parsed.set(drivername="postgresql+psycopg")
    path = path_of(parsed)
    if backend != "sqlite" or path is None:
        raise Malformed(f"{name_of(parsed)} cannot be used: a database is {_FORMS}")
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent} to hold {path.name}: create it")
    return parsed


def path_of(url: URL) -> Path | None:
    """The file of an SQLite database."""
    if url.get_backend_name() != "sqlite" or url.database in {None, "", ":memory:"}:
        return None
    return Path(str(url.database))


def name_of(url: URL) -> str:
    """What a person calls it: no password is in it."""
    path = path_of(url)
    return url.render_as_string(hide_password=True) if path is None else str(path)


def connect(url: URL, *, readers: int) -> Engine:
    """An engine for one writer and ``readers``.

    Raises:
        Malformed: the driver of PostgreSQL is not installed.
    """
    if url.get_backend_name() == "postgresql":
        try:
            # One more for the lock. Pinged before use: a server that came back is no fault.
            return create_engine(
                url, pool_size=readers + 2, max_overflow=0, pool_pre_ping=True, connect_args=_POSTGRESQL
            )
        except ModuleNotFoundError:
            raise Malformed(
                "PostgreSQL's driver is not installed: pip install 'wwwmarket[postgresql]'", reason="no_driver"
            ) from None
    # Transactions are begun by SQLAlchemy instead of SQLite's driver.
    engine = create_engine(url, pool_size=readers + 1, max_overflow=0)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


def serialise(connection: Connection) -> None:
    """Let no other process change this database's schema until the transaction ends."""
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_MIGRATION_LOCK})")


def _set_up(connection: sqlite3.Connection, _record: Any) -> None:
    connection.isolation_level = None
    for pragma in _PRAGMAS:
        connection.execute(pragma)


def _begin(connection: Connection) -> None:
    """A writer takes its lock first: one taken midway could fail after work was done."""
    writes = connection.get_execution_options().get("writes", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def check(engine: Engine, path: Path) -> None:
    """Read every page once: about a second for each gigabyte.

    Raises:
        Malformed: the file is not a database, or a damaged one.
        Unavailable: it cannot be opened.
    """
    try:
        with engine.connect() as connection:
            found = connection.exec_driver_sql("PRAGMA quick_check(1)").scalar_one()
            page_bytes = connection.exec_driver_sql("PRAGMA page_size").scalar_one()
    except DatabaseError as error:
        raise faults.refusal(error, str(path)) from error
    if found != "ok":
        raise faults.unsound(str(path), found)
    if path.stat().st_size % page_bytes and not _has_content(path.with_name(path.name + "-wal")):
        # SQLite reads zeros there. With a write-ahead log it is a page that was being written, and is written again.
        raise faults.unsound(str(path), "its last page is cut off")


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0
