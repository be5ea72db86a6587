"""A chain goes on where the ledger is, whatever was refused and in which order the answers come."""

import asyncio
import contextlib
from random import Random

import pytest

from tests.unit.rules.world import CLIENT, PROVIDER
from wwwmarket.crypto import signing
from wwwmarket.crypto.signing import Verified, VerifiedEntry
from wwwmarket.domain.errors import Conflict, Refusal
from wwwmarket.domain.identity import NO_ENTRY, EntryId
from wwwmarket.domain.records import Inclusion, Transfer
from wwwmarket.node.author import Author, Written
from wwwmarket.simulator.store import MemoryRecords


class HeldLedger:
    """Keeps the rule of chains, and answers when it is told to. Transfers of ``REFUSED`` micro-credits are refused for a
    reason of their own.
    """

    REFUSED = 13
    durable = False

    def __init__(self) -> None:
        self.head: tuple[int, EntryId] = (0, NO_ENTRY)
        self._held: list[tuple[VerifiedEntry, asyncio.Future[Verified[Inclusion]]]] = []
        self.amounts: list[int] = []

    def submit(self, entry: VerifiedEntry) -> "asyncio.Future[Verified[Inclusion]]":
        answer: asyncio.Future[Verified[Inclusion]] = asyncio.get_running_loop().create_future()
        self._held.append((entry, answer))
        return answer

    async def order(self, count: int) -> None:
        """The next ``count`` that were submitted, and their answers reach the author."""
        for entry, answer in self._held[:count]:
            body = signing.canonical.decode(bytes(entry.entry.body), Transfer)
            if (entry.entry.seq, entry.entry.prev) != self.head:
                answer.set_exception(Conflict(f"the account's next entry is {self.head}", reason="chain"))
            elif body.amount_micro == self.REFUSED:
                answer.set_exception(Conflict("refused for itself", reason="offer_not_listed"))
            else:
                self.head = (entry.entry.seq + 1, entry.id)
                self.amounts.append(body.amount_micro)
                said = Inclusion(entry=entry.id, origin="test.market/ledger", index=1, covered_by_ms=1)
                answer.set_result(signing.sign(PROVIDER, said))
            await asyncio.sleep(0)
        del self._held[:count]

    @property
    def waiting(self) -> int:
        return len(self._held)


async def _nowhere(_: EntryId) -> int | None:
    return None


def author_of(ledger: HeldLedger) -> Author:
    author = Author(ledger, MemoryRecords(), lambda _: ledger.head, lambda account: account, _nowhere)
    author.add_key(CLIENT)
    return author


async def write(author: Author, amount: int) -> Written:
    return await author.write(CLIENT.account, Transfer(to=PROVIDER.account, amount_micro=amount))


async def outcome(written: Written) -> str:
    try:
        await written.inclusion
    except Refusal as refusal:
        return refusal.reason
    return "included"


async def test_a_late_refusal_says_nothing_of_what_was_signed_since() -> None:
    """Two are in flight and the first is refused for itself; what is signed in their places before the second's refusal
    comes is right, and so is what is signed after it.
    """
    ledger = HeldLedger()
    author = author_of(ledger)
    first, second = await write(author, HeldLedger.REFUSED), await write(author, 2)
    await ledger.order(1)
    third, fourth = await write(author, 3), await write(author, 4)
    await ledger.order(1)
    fifth = await write(author, 5)
    await ledger.order(3)
    found = [await outcome(one) for one in (first, second, third, fourth, fifth)]
    assert found == ["offer_not_listed", "chain", "included", "included", "included"]
    assert ledger.amounts == [3, 4, 5]


@pytest.mark.parametrize("seed", range(20))
async def test_only_what_followed_a_refusal_is_lost(seed: int) -> None:
    """However writing and answering alternate, an entry is refused for its place only where one that was in flight when
    it was signed was refused before it; and once all is answered the next one is included.
    """
    chance, ledger = Random(seed), HeldLedger()
    author, written, signed_behind = author_of(ledger), [], []
    for number in range(60):
        amount = HeldLedger.REFUSED if chance.random() < 0.2 else 100 + number
        signed_behind.append([one for one in written if not one.inclusion.done()])
        written.append(await write(author, amount))
        await ledger.order(chance.randrange(3))
    await ledger.order(ledger.waiting)
    for one, behind in zip(written, signed_behind, strict=True):
        if await outcome(one) == "chain":
            assert any([await outcome(earlier) != "included" for earlier in behind])
    last = await write(author, 1)
    await ledger.order(1)
    assert await outcome(last) == "included"
    with contextlib.suppress(Refusal):
        await asyncio.gather(*(one.inclusion for one in written), return_exceptions=True)
