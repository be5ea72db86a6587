"""The schema is what the migrations make, and nothing else makes it."""

import logging
import sqlite3
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import inspect

from wwwmarket.adapters.storage import SqlStore, engine, schema
from wwwmarket.adapters.storage.tables import metadata
from wwwmarket.domain.errors import Conflict


def run(url: str, revision: str, direction=command.upgrade) -> None:
    opened = engine.connect(engine.parse(url), readers=1)
    with opened.connect().execution_options(writes=True) as connection, connection.begin():
        direction(schema.configuration(connection), revision)
    opened.dispose()


def differences(url: str) -> list[object]:
    opened = engine.connect(engine.parse(url), readers=1)
    with opened.connect() as connection:
        found = compare_metadata(MigrationContext.configure(connection, opts={"compare_type": True}), metadata)
    opened.dispose()
    return found


def tables(url: str) -> set[str]:
    opened = engine.connect(engine.parse(url), readers=1)
    with opened.connect() as connection:
        found = set(inspect(connection).get_table_names())
    opened.dispose()
    return found


def test_the_migrations_make_exactly_the_tables_of_the_code(any_url: str) -> None:
    """Alembic finds nothing to add, change or drop."""
    run(any_url, "head")
    assert differences(any_url) == []
    assert tables(any_url) == {*metadata.tables, "alembic_version"}


def test_the_migrations_go_down_and_up_again(any_url: str) -> None:
    """Every step back leaves nothing, and the way forward is open again."""
    run(any_url, "head")
    for revision in ("-1", "base"):
        run(any_url, revision, command.downgrade)
    assert tables(any_url) == {"alembic_version"}
    run(any_url, "head")
    assert differences(any_url) == []


async def test_a_database_of_newer_code_is_refused(url: str, path: Path) -> None:
    """The message names its schema, and what to upgrade."""
    await SqlStore.open(url).close()
    with sqlite3.connect(path) as raw:
        raw.execute("UPDATE alembic_version SET version_num = '9999'")
    raw.close()
    with pytest.raises(Conflict, match=r"schema 9999.*upgrade wwwmarket"):
        SqlStore.open(url)


async def test_opening_leaves_logging_as_it_was(url: str) -> None:
    """A library that is asked for a database does not decide what is logged."""
    before = logging.getLogger().level, list(logging.getLogger().handlers), logging.getLogger("alembic").level
    await SqlStore.open(url).close()
    assert before == (logging.getLogger().level, list(logging.getLogger().handlers), logging.getLogger("alembic").level)


def test_an_installed_package_carries_its_migrations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those beside the code are found first; in a checkout, those at its top."""
    assert (schema.migrations() / "env.py").is_file()
    (tmp_path / "wwwmarket" / "_migrations").mkdir(parents=True)
    monkeypatch.setattr(schema, "_PACKAGE", tmp_path / "wwwmarket")
    assert schema.migrations() == tmp_path / "wwwmarket" / "_migrations"
