"""How long a process may believe that it leads: as long as its lease was renewed by its own clock."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

from wwwmarket.domain.errors import Unavailable

LEASE_S: Final = 3
"""What a sequencer's death costs in availability. Shorter ones are lost to a busy machine's hiccups."""
_RENEWALS: Final = 3
"""In the time of one lease: two may fail."""


class Tenure:
    """One time of leading. Belief only: what makes it safe is that each append is fenced by ``epoch``."""

    def __init__(self, epoch: int, renew: Callable[[], Awaitable[bool]], *, lease_s: float, granted_s: float) -> None:
        """``granted_s`` is when the lease was asked for, monotonic; ``renew`` says whether it goes on."""
        self.epoch: Final = epoch
        self._renew, self._lease_s = renew, lease_s
        self._until_s = granted_s + lease_s
        self._lost = asyncio.Event()
        self._keeping = asyncio.create_task(self._keep())

    @property
    def held(self) -> bool:
        return not self._lost.is_set() and time.monotonic() < self._until_s

    def lose(self) -> None:
        self._lost.set()

    async def wait_lost(self) -> None:
        await self._lost.wait()

    async def end(self) -> None:
        self._lost.set()
        self._keeping.cancel()
        await asyncio.wait((self._keeping,))

    async def _keep(self) -> None:
        try:
            while await self._until_due() and await self._renewed():
                pass
        finally:
            self._lost.set()

    async def _until_due(self) -> bool:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._lease_s / _RENEWALS):
                await self._lost.wait()
        return self.held

    async def _renewed(self) -> bool:
        """Whether to go on: one renewal that is not answered costs nothing yet."""
        asked_s = time.monotonic()
        try:
            async with asyncio.timeout(self._until_s - asked_s):
                if not await self._renew():
                    return False
        except (TimeoutError, Unavailable):
            return self.held
        self._until_s = asked_s + self._lease_s
        return True
