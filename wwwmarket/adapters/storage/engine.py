"""Connections to the database, set up for durability."""

import sqlite3
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError

from wwwmarket.adapters.storage import faults
from wwwmarket.domain.errors import Malformed, NotFound

_PRAGMAS: Final = (
    "PRAGMA busy_timeout = 5000",
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    "PRAGMA foreign_keys = ON",
)


def parse(url: str) -> tuple[URL, Path]:
    """The address and the file of a database.

    Raises:
        Malformed: no address, or not of an SQLite file (``sqlite:///path``).
        NotFound: the file's folder does not exist.
    """
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise Malformed(f"{url!r} is not the address of a database: sqlite:///path is") from None
    if parsed.get_backend_name() != "sqlite" or parsed.database in (None, "", ":memory:"):
        raise Malformed(f"{parsed.render_as_string()} cannot be used: only files of SQLite can, as sqlite:///path")
    path = Path(str(parsed.database))
    if not path.parent.is_dir():
        raise NotFound(f"there is no folder {path.parent} to hold {path.name}: create it")
    return parsed, path


def connect(url: URL, *, readers: int) -> Engine:
    """An engine for one writer and ``readers``, with transactions begun by SQLAlchemy instead of the driver."""
    engine = create_engine(url, pool_size=readers + 1, max_overflow=0)
    event.listen(engine, "connect", _set_up)
    event.listen(engine, "begin", _begin)
    return engine


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
    except DatabaseError as error:
        raise faults.refusal(error, str(path)) from error
    if found != "ok":
        raise faults.unsound(str(path), found)
