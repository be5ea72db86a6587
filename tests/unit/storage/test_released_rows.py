"""Rows of each schema that a release has written, in every table, on both databases: read by this code, up and down."""

import json
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, Table, func, select

from wwwmarket.adapters.orderers import open_orderer
from wwwmarket.adapters.storage import SqlStore, engine, schema
from wwwmarket.adapters.storage.tables import metadata
from wwwmarket.domain.identity import EntryId
from wwwmarket.mirror.driver import PENDING
from wwwmarket.ports.store import Change

FOLDER = Path(__file__).with_name("released")
DUMPS = {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}
Rows = dict[str, list[dict[str, Any]]]


def within(url: str, work):
    """``work`` in one transaction."""
    opened = engine.connect(engine.parse(url), readers=1)
    try:
        with opened.connect().execution_options(writes=True) as connection, connection.begin():
            return work(connection)
    finally:
        opened.dispose()


def migrated(url: str, revision: str, direction=command.upgrade) -> None:
    within(url, lambda connection: direction(schema.configuration(connection), revision))


def decoded(row: dict[str, Any]) -> dict[str, Any]:
    return {name: b64decode(cell["base64"]) if isinstance(cell, dict) else cell for name, cell in row.items()}


def rows_of(dump: dict[str, Any]) -> Rows:
    return {table: [decoded(row) for row in rows] for table, rows in dump["tables"].items()}


def insert(connection: Connection, rows: Rows) -> None:
    """As they stood, whatever the migration itself has put into a table."""
    found = MetaData()
    for name, content in rows.items():
        table = Table(name, found, autoload_with=connection)
        connection.execute(table.delete())
        connection.execute(table.insert(), content)
    if connection.dialect.name == "postgresql":  # a dump of PostgreSQL's carries where its sequences stand
        last = max(row["serial"] for row in rows["records"])
        connection.execute(select(func.setval(func.pg_get_serial_sequence("records", "serial"), last)))


def stored(url: str, names: list[str]) -> Rows:
    """What is in those tables, in the order of their keys."""

    def read(connection: Connection) -> Rows:
        found = MetaData()
        tables = {name: Table(name, found, autoload_with=connection) for name in names}
        return {
            name: [dict(row._mapping) for row in connection.execute(select(table).order_by(*table.primary_key))]
            for name, table in tables.items()
        }

    return within(url, read)


@pytest.fixture(params=sorted(DUMPS))
def dump(request: pytest.FixtureRequest) -> dict[str, Any]:
    return DUMPS[request.param]


def test_every_schema_that_was_released_has_its_rows() -> None:
    """A migration is not finished without rows of the schema that it makes; the newest dump fills every table."""
    scripts = ScriptDirectory(str(schema.migrations()))
    revisions = sorted(script.revision for script in scripts.walk_revisions())
    assert sorted(DUMPS) == revisions
    newest = DUMPS[revisions[-1]]["tables"]
    assert {table for table, rows in newest.items() if rows} == set(metadata.tables)


def test_rows_are_unchanged_on_the_way_up_and_down(any_url: str, dump: dict[str, Any]) -> None:
    """From their own schema to the newest, back, and up again, no cell of them differs."""
    rows = rows_of(dump)
    migrated(any_url, dump["revision"])
    within(any_url, lambda connection: insert(connection, rows))
    for revision, direction in ((dump["revision"], command.downgrade), ("head", command.upgrade)) * 2:
        migrated(any_url, "head")
        assert stored(any_url, list(rows)) == rows
        migrated(any_url, revision, direction)
        assert stored(any_url, list(rows)) == rows


async def test_a_node_and_a_mirror_go_on_from_rows_that_a_release_wrote(any_url: str, dump: dict[str, Any]) -> None:
    """The log, its tiles and checkpoints, records in their order, and a mirror's pending checkpoint; then more."""
    rows = rows_of(dump)
    migrated(any_url, dump["revision"])
    within(any_url, lambda connection: insert(connection, rows))
    store = SqlStore.open(any_url)
    try:
        assert await store.ledger.read(0, 9) == [row["leaf"] for row in rows["entries"]]
        assert await store.ledger.index_of(EntryId("01" * 32)) == 1
        assert await store.ledger.checkpoint() == rows["checkpoints"][-1]["note"]
        assert await store.ledger.tile(0, 0) == rows["tiles"][0]["hashes"]
        assert await store.records.scan("award") == [("b", b'{"award":1}'), ("a", b"")]
        assert await store.records.read(PENDING, PENDING) == rows["checkpoints"][-1]["note"]
        await store.ledger.append(2, [b"more"], [EntryId("77" * 32)])
        await store.records.write([Change(kind="award", key="c", body=b"3")])
        assert [key for key, _ in await store.records.scan("award")] == ["b", "a", "c"]
    finally:
        await store.close()


async def test_an_orderer_goes_on_from_rows_that_a_release_wrote(any_url: str) -> None:
    """Its entries stand, and who led then leads no more."""
    dump = DUMPS[max(DUMPS)]
    rows = rows_of(dump)
    migrated(any_url, dump["revision"])
    within(any_url, lambda connection: insert(connection, rows))
    orderer = open_orderer(any_url, origin="local.market", name="cd" * 32)
    try:
        assert await orderer.read(0, 9) == [row["leaf"] for row in rows["ordered"]]
    finally:
        await orderer.close()
