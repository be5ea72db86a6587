"""A mirror whose disk lost the end of what it had signed: it knows, and signs nothing that it might contradict."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from tests.integration.mirror.conftest import Kept, Site, open_site
from tests.unit.mirror.world import COMMITTEE, NAMES, LyingLog, finalised
from tests.unit.rules.world import CLIENT, PROVIDER
from wwwmarket.config import MirrorConfig
from wwwmarket.domain.errors import Conflict, Malformed
from wwwmarket.domain.records import Transfer
from wwwmarket.mirror.driver import PENDING

SMALL = MirrorConfig(fetch_entries_max=256)


def grown(log: LyingLog, amount: int) -> LyingLog:
    log.add(CLIENT, Transfer(to=PROVIDER.account, amount_micro=amount))
    log.mark(log.state.now_ms + 1)
    return log


def cut(path: Path, size: int) -> None:
    """What a disk that forgot its last writes leaves: an older database, which is sound in itself."""
    with sqlite3.connect(path) as raw:
        raw.execute('DELETE FROM entries WHERE "index" >= ?', (size,))
        raw.execute("DELETE FROM checkpoints WHERE size > ?", (size,))
        raw.execute("DELETE FROM records WHERE kind = ?", (PENDING,))
    raw.close()


def damage(path: Path) -> None:
    damaged = bytearray(path.read_bytes())
    damaged[4_096 * 3 : 4_096 * 5] = b"\xa5" * 8_192
    path.write_bytes(damaged)


async def cosigned_twice(url: str, signed: Kept) -> tuple[LyingLog, int]:
    """A log that the mirror has cosigned at two sizes; the first of them."""
    log = LyingLog.begun(committee=COMMITTEE)
    async with open_site(url, log, signed=signed) as site:
        assert (await site.ask()).status_code == 200
        first = len(log.leaves)
        grown(log, 5)
        assert (await site.ask()).status_code == 200
    return log, first


async def looked(site: Site) -> None:
    """It has looked at the log itself, and done what follows."""
    await site.clock.move(SMALL.quiet_ms)
    for _ in range(50):
        await asyncio.sleep(0.01)
        if site.mirroring.mirror.cosigned_size == len(site.log.leaves):
            return


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "mirror.db"


async def test_a_mirror_that_lost_what_it_signed_signs_no_other_tree(url: str, path: Path) -> None:
    """The orderer could now have the other side of a fork cosigned by the same mirror: it gets 503, and nothing."""
    signed = Kept()
    log, first = await cosigned_twice(url, signed)
    cut(path, first)
    fork = grown(log.fork(first), 6)
    async with open_site(url, fork, signed=signed) as site:
        assert site.mirroring.mirror.cosigned_size == first
        answer = await site.ask()
        assert (answer.status_code, answer.text.partition(":")[0]) == (503, "unavailable")
        assert f"waits until {len(log.leaves)} entries are final" in answer.text
        site.published.changed["final"] = finalised(fork, NAMES[1], NAMES[2])
        await looked(site)
        assert (await site.ask()).status_code == 503, "two of four are no quorum"
        assert site.mirroring.mirror.cosigned_size == first


async def test_it_signs_again_when_the_others_have_made_as_much_final(url: str, path: Path) -> None:
    """From a final checkpoint of at least the lost size on: no other tree can become final any more."""
    signed = Kept()
    log, first = await cosigned_twice(url, signed)
    cut(path, first)
    async with open_site(url, log, signed=signed) as site:
        site.published.changed["final"] = finalised(log.fork(first), *NAMES[1:])
        await looked(site)
        assert (await site.ask()).status_code == 503, "what is final is older than what was signed"
        site.published.changed["final"] = finalised(log, *NAMES[1:])
        await looked(site)
        assert site.mirroring.mirror.cosigned_size == len(log.leaves)
        grown(log, 7)
        assert (await site.ask()).status_code == 200
    async with open_site(url, log, signed=signed) as site:
        assert (await site.ask()).status_code == 200, "the loss is over"


async def test_the_loss_is_known_from_the_file_beside_the_database_too(url: str, path: Path) -> None:
    """SQLite's own witness says how many entries were committed, though nothing were known of signatures."""
    log, first = await cosigned_twice(url, Kept())
    cut(path, first)
    async with open_site(url, log) as site:
        assert (await site.ask()).status_code == 503


async def test_a_mirror_that_lost_everything_does_not_start(url: str, path: Path) -> None:
    """It cannot know by whose word to find back: the message says what to do."""
    signed = Kept()
    log, _ = await cosigned_twice(url, signed)
    for file in path.parent.glob("mirror.db*"):
        file.unlink()
    with pytest.raises(Conflict, match=r"restore the database, or have the committee elect a new mirror"):
        async with open_site(url, log, signed=signed):
            pass


async def test_entries_that_were_stored_and_not_signed_are_no_loss(url: str) -> None:
    """A mirror that died between storing and signing goes on."""
    log = LyingLog.begun(committee=COMMITTEE)
    signed = Kept()
    async with open_site(url, log, signed=signed) as site:
        assert (await site.ask()).status_code == 200
    signed.size = len(log.leaves)
    async with open_site(url, grown(log, 5), signed=signed) as site:
        assert (await site.ask()).status_code == 200


async def test_a_mirrors_database_with_damaged_pages_is_refused(url: str, path: Path) -> None:
    """It is not half a database that goes on."""
    await cosigned_twice(url, Kept())
    damage(path)
    with pytest.raises(Malformed):
        async with open_site(url, LyingLog()):
            pass
