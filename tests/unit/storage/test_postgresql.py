"""What a database server must stand as a node's store: restarts, strangers, a second process."""

import sys

import pytest

from tests.ports.orderers import servers
from wwwmarket.adapters.storage import SqlStore
from wwwmarket.domain.errors import Conflict, Malformed, Unavailable
from wwwmarket.domain.identity import EntryId
from wwwmarket.ports.store import Change

pytestmark = pytest.mark.foreign(servers.POSTGRES)


@pytest.fixture
def database(postgres_server: servers.Postgres) -> str:
    return postgres_server.database()


def put(key: str) -> Change:
    return Change(kind="note", key=key, body=b"body")


async def test_what_is_kept_outlives_the_servers_crash_and_the_store_goes_on(database, postgres_server) -> None:
    """While it is gone reads and writes are Unavailable with what to check; nothing is written twice."""
    store = SqlStore.open(database)
    await store.records.write([put("before")])
    await store.ledger.append(0, [b"leaf"], [EntryId("00" * 32)])
    postgres_server.stop()
    try:
        for asking in (store.records.write([put("lost")]), store.records.scan("note"), store.ledger.size()):
            with pytest.raises(Unavailable, match="check that its server runs"):
                await asking
    finally:
        postgres_server.start()
    assert [key for key, _ in await store.records.scan("note")] == ["before"]
    await store.records.write([put("after")])
    await store.ledger.append(1, [b"next"], [EntryId("01" * 32)])
    assert await store.ledger.read(0, 9) == [b"leaf", b"next"]
    await store.close()


async def test_a_database_is_written_by_one_process(database: str) -> None:
    """The second opening is refused, and a closed store lets go."""
    store = SqlStore.open(database)
    with pytest.raises(Conflict) as caught:
        SqlStore.open(database)
    assert caught.value.reason == "database_in_use"
    await store.close()
    await SqlStore.open(database).close()


@pytest.mark.parametrize("part", ["/nothing-there", "/market1?sslmode=require"])
def test_a_server_that_refuses_is_unavailable_with_what_it_said(database: str, part: str) -> None:
    """A database that does not exist, a connection that it does not take."""
    with pytest.raises(Unavailable, match=r"does not exist|SSL"):
        SqlStore.open(database.rpartition("/")[0] + part)


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is an extra: the message says how to install it."""
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(Malformed, match=r"pip install 'wwwmarket\[postgresql\]'"):
        SqlStore.open("postgresql+psycopg://host/name")


def test_a_password_is_in_no_message(database: str) -> None:
    """Addresses are shown without it."""
    wrong = database.replace("postgres@", "nobody:secret-word@")
    with pytest.raises(Unavailable) as caught:
        SqlStore.open(wrong)
    assert "secret-word" not in caught.value.message
    with pytest.raises(Malformed) as malformed:
        SqlStore.open("mysql://nobody:secret-word@host/name")
    assert "secret-word" not in malformed.value.message
