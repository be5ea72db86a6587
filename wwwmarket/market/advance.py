"""Who may have work done in advance of the ledger's promise, and how much: an award costs its signer nothing until it
is submitted, and a slot held for one that never will be is lost to everybody else.

It promises that whoever is refused an advance loses only time: the award waits at the door for its promise, and holds
nothing until then. It does not know how promises travel, nor what an execution is.
"""

from collections import OrderedDict
from typing import Final, NamedTuple

from wwwmarket.domain.errors import Exhausted
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import Count, MicroCredits, Millis

CLIENT_SHARE: Final = 4
"""One client has advances on at most this part of the sequences on offer; a promise takes milliseconds, so even a busy
gateway needs few.
"""
ALL_SHARE: Final = 2
"""And all clients together on this part: accounts are free, so a bound for each is none."""
FIRST_MS: Final = 60_000
DOUBLINGS_MAX: Final = 10
"""An account that left an award unsubmitted has no advances for a minute, then twice as long each time, half a day at
most.
"""
REMEMBERED_MAX: Final = 4_096
"""Accounts that let this provider down; the oldest are forgotten first."""
WAITING_MAX: Final = 64
"""Awards at the door, each with its request in memory."""
_RETRY_MS: Final = 1_000


class _Advance(NamedTuple):
    client: AccountId
    locked_micro: MicroCredits


class _Broken(NamedTuple):
    times: Count
    until_ms: Millis


class Advances:
    """Executions under way whose awards the ledger has not promised yet."""

    def __init__(self) -> None:
        self._open: dict[EntryId, _Advance] = {}
        self._broken: OrderedDict[AccountId, _Broken] = OrderedDict()
        self._waiting: set[EntryId] = set()

    def __len__(self) -> int:
        return len(self._open)

    def may_begin(
        self,
        client: AccountId,
        locked_micro: MicroCredits,
        *,
        available_micro: MicroCredits,
        sequences: Count,
        now_ms: Millis,
    ) -> bool:
        """Whether an award of ``client`` that locks ``locked_micro`` may be worked on at once.

        1. The client has not lately left an award unsubmitted.
        2. It has what this award and its other advances lock together: no credit stands for two of them.
        3. It has advances on few of the sequences.
        4. So have all clients together.
        """
        broken = self._broken.get(client)
        if broken is not None and now_ms < broken.until_ms:
            return False
        own = [advance for advance in self._open.values() if advance.client == client]
        if sum(advance.locked_micro for advance in own) + locked_micro > available_micro:
            return False
        return len(own) < max(1, sequences // CLIENT_SHARE) and len(self._open) < max(1, sequences // ALL_SHARE)

    def wait(self, award: EntryId, *, sequences: Count) -> None:
        """An award that may not begin is at the door, until it leaves.

        Raises:
            Exhausted: too many are.
        """
        if len(self._waiting) >= min(WAITING_MAX, sequences):
            raise Exhausted("too many awards wait for the ledger's promise", retry_after_ms=_RETRY_MS)
        self._waiting.add(award)

    @property
    def waiting(self) -> int:
        """How many awards are at the door."""
        return len(self._waiting)

    def is_waiting(self, award: EntryId) -> bool:
        return award in self._waiting

    def leave(self, award: EntryId) -> None:
        """Its promise has come, or will not come."""
        self._waiting.discard(award)

    def begun(self, award: EntryId, client: AccountId, locked_micro: MicroCredits) -> None:
        self._open[award] = _Advance(client, locked_micro)

    def promised(self, award: EntryId) -> None:
        """The ledger's word is here: what was an advance is an award like others, and its client keeps its word."""
        advance = self._open.pop(award, None)
        if advance is not None:
            self._broken.pop(advance.client, None)

    def ended(self, award: EntryId, *, on_ledger: bool, now_ms: Millis) -> None:
        """The execution is over; whether the ledger has the award, for what came there and was not told here."""
        advance = self._open.pop(award, None)
        if advance is None or on_ledger:
            return
        before = self._broken.pop(advance.client, None)
        times = 1 if before is None else before.times + 1
        until_ms = now_ms + FIRST_MS * 2 ** min(times - 1, DOUBLINGS_MAX)
        self._broken[advance.client] = _Broken(times, until_ms)
        if len(self._broken) > REMEMBERED_MAX:
            self._broken.popitem(last=False)
