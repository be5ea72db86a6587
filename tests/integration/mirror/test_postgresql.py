"""A mirror's copy in PostgreSQL: the same mirror, over several lives, and what it forgets is known there too."""

from collections.abc import Iterator

import pytest
from sqlalchemy import text

from tests.integration.mirror.conftest import Kept, open_site
from tests.ports.orderers import servers
from tests.unit.mirror.world import honest
from tests.unit.rules.world import CLIENT, PROVIDER
from wwwmarket.adapters.storage import engine
from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.records import Transfer

pytestmark = pytest.mark.foreign(servers.POSTGRES)


@pytest.fixture(scope="module")
def postgres() -> Iterator[servers.Postgres]:
    with servers.postgres() as server:
        yield server


async def test_a_mirror_lives_on_in_postgresql(postgres: servers.Postgres) -> None:
    """Cosigned, stored, served; the next life goes on; a database that was emptied is no mirror's any more."""
    url, log, signed = postgres.database(), honest(300), Kept()
    async with open_site(url, log, signed=signed) as site:
        assert (await site.ask()).status_code == 200
        assert (await site.http.get("/ledger/tile/0/000")).status_code == 200
    async with open_site(url, log, signed=signed) as site:
        assert site.mirroring.mirror.cosigned_size == len(log.leaves)
        log.add(CLIENT, Transfer(to=PROVIDER.account, amount_micro=1))
        log.mark(log.state.now_ms + 1)
        assert (await site.ask()).status_code == 200
        assert (await site.http.get("/ledger/tile/entries/000")).status_code == 200
    empty(url)
    with pytest.raises(Conflict, match="restore the database"):
        async with open_site(url, log, signed=signed):
            pass


def empty(url: str) -> None:
    opened = engine.connect(engine.parse(url), readers=1)
    with opened.begin() as connection:
        connection.execute(text("TRUNCATE entries, tiles, checkpoints, records"))
    opened.dispose()
