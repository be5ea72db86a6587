"""The tables. ``migrations/`` makes them; a test holds the two equal."""

from typing import Final

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

metadata: Final = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    }
)

Serial: Final = BigInteger().with_variant(Integer, "sqlite")
"""SQLite numbers rows by itself only under the type INTEGER."""

entries: Final = Table(
    "entries",
    metadata,
    Column("index", Serial, primary_key=True, autoincrement=False),
    Column("id", LargeBinary(32), nullable=False, unique=True),
    Column("leaf", LargeBinary, nullable=False),
)

tiles: Final = Table(
    "tiles",
    metadata,
    Column("level", Integer, primary_key=True, autoincrement=False),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hashes", LargeBinary, nullable=False),
)

checkpoints: Final = Table(
    "checkpoints",
    metadata,
    Column("size", Serial, primary_key=True, autoincrement=False),
    Column("note", LargeBinary, nullable=False),
)

records: Final = Table(
    "records",
    metadata,
    Column("serial", Serial, primary_key=True),
    Column("kind", String, nullable=False),
    Column("key", String, nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("kind", "key"),
    Index(None, "kind", "serial"),
)

ordered: Final = Table(
    "ordered",
    metadata,
    Column("index", Serial, primary_key=True, autoincrement=False),
    Column("leaf", LargeBinary, nullable=False),
)

terms: Final = Table(
    "terms",
    metadata,
    Column("epoch", Serial, primary_key=True, autoincrement=False),
    Column("holder", String, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)

sequencers: Final = Table(
    "sequencers",
    metadata,
    Column("name", String, primary_key=True),
    Column("address", LargeBinary, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("until_ms", BigInteger, nullable=False),
)
