"""``ports.store.Orderer`` in memory: one log, as many sequencers as are wanted, and the faults of a network."""

import asyncio
from collections.abc import Sequence
from itertools import count
from typing import Final

from wwwmarket.domain.errors import Conflict, NotFound, Unavailable
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, Sequencing, check_order


class MemoryOrdering:
    """What the orderers of several processes share. ``reachable`` False: nobody is answered."""

    def __init__(self) -> None:
        self.leaves: list[bytes] = []
        self.trimmed = 0
        self.leader: MemoryOrderer | None = None
        self.announced: dict[str, Sequencing] = {}
        self.reachable = True
        self.vacant: Final = asyncio.Condition()
        self._names = count()

    def orderer(self, name: str | None = None) -> "MemoryOrderer":
        """Another process's way to it."""
        return MemoryOrderer(self, name or f"sequencer-{next(self._names)}")

    async def depose(self) -> None:
        """The leader's lease ends; it need not have noticed."""
        async with self.vacant:
            self.leader = None
            self.vacant.notify_all()


class MemoryOrderer:
    """Implements ``ports.store.Orderer``. ``answers_lost`` counts down appends that are made and not answered."""

    def __init__(self, ordering: MemoryOrdering, name: str) -> None:
        self._ordering, self._name = ordering, name
        self.answers_lost = 0

    async def campaign(self) -> None:
        self._reach()
        async with self._ordering.vacant:
            await self._ordering.vacant.wait_for(lambda: self._ordering.leader in {None, self})
            self._ordering.leader = self

    async def wait_lost(self) -> None:
        async with self._ordering.vacant:
            await self._ordering.vacant.wait_for(lambda: self._ordering.leader is not self)

    async def size(self) -> int:
        return len(self._reach().leaves)

    async def append(self, first_index: int, leaves: Sequence[bytes]) -> None:
        check_order(leaves)
        ordering = self._lead()
        if first_index != len(ordering.leaves):
            raise Conflict(f"the log ends at {len(ordering.leaves)}, not at {first_index}", reason="not_the_end")
        ordering.leaves += leaves
        if self.answers_lost:
            self.answers_lost -= 1
            raise Unavailable("the answer was lost", retry_after_ms=1)

    async def read(self, start: int, end: int) -> list[bytes]:
        ordering = self._reach()
        if start < ordering.trimmed:
            raise NotFound(f"the orderer keeps entries from {ordering.trimmed} on, not {start}", reason="trimmed")
        return ordering.leaves[start : min(end, start + ORDER_ENTRIES_MAX)]

    async def trim(self, size: int) -> None:
        ordering = self._lead()
        ordering.trimmed = max(ordering.trimmed, size)

    async def announce(self, address: bytes, size: int) -> None:
        self._reach().announced[self._name] = Sequencing(name=self._name, address=address, size=size, leads=False)

    async def sequencers(self) -> list[Sequencing]:
        ordering = self._reach()
        leader = ordering.leader and ordering.leader._name  # noqa: SLF001 - of its own class
        return [
            Sequencing(name=name, address=known.address, size=known.size, leads=name == leader)
            for name, known in sorted(ordering.announced.items())
        ]

    async def close(self) -> None:
        if self._ordering.leader is self:
            await self._ordering.depose()

    def _reach(self) -> MemoryOrdering:
        if not self._ordering.reachable:
            raise Unavailable("the orderer does not answer: check that it runs", retry_after_ms=1_000)
        return self._ordering

    def _lead(self) -> MemoryOrdering:
        ordering = self._reach()
        if ordering.leader is not self:
            raise Conflict("another sequencer leads", reason="fenced")
        return ordering
