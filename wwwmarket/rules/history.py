"""What a state was at its latest marks, kept as what has changed since: so that a balance can be proven at a checkpoint
that the state has left behind.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

from wwwmarket.domain.book import Account
from wwwmarket.domain.errors import Unavailable
from wwwmarket.domain.identity import AccountId
from wwwmarket.rules.commitment import BucketProof, Change, Commitment

MARKS_KEPT_MAX: Final = 64
"""Beside the pinned one: 2.6 s of the shortest interval between marks, 16 s of the one for wide areas."""

_EMPTY: Final = Account()


class _Undone(NamedTuple):
    """What was written after a mark, up to the next one, as it was before."""

    accounts: dict[AccountId, Account]
    change: Change


class History:
    """``commitment`` must remember. Marks are named by the size of the log right after them."""

    def __init__(self, commitment: Commitment) -> None:
        self._commitment = commitment
        self._undone: dict[int, _Undone] = {}
        self._accounts: dict[AccountId, Account] = {}
        self._latest: int | None = None
        self._pinned: int | None = None

    def wrote(self, account: AccountId, before: Account) -> None:
        """An account is about to be written."""
        self._accounts.setdefault(account, before)

    def cut(self, size: int) -> None:
        """The root was just taken, for the mark after which the log has ``size`` entries."""
        change = self._commitment.cut()
        if self._latest is not None:
            self._undone[self._latest] = _Undone(self._accounts, change)
        self._latest, self._accounts = size, {}
        if len(self._undone) > MARKS_KEPT_MAX:
            self._forget_one()

    def pin(self, size: int) -> bool:
        """Keep this mark until another is pinned, however many follow; whether it is here still."""
        if not self.has(size):
            return False
        self._pinned = size
        for older in [older for older in self._undone if older < size]:
            del self._undone[older]
        return True

    def has(self, size: int) -> bool:
        return size == self._latest or size in self._undone

    def prove(
        self, account: AccountId, now: Mapping[AccountId, Account], size: int
    ) -> tuple[Account | None, BucketProof]:
        """What the account had at that mark, None for nothing, and its bucket; ``now`` is what accounts have.

        Raises Unavailable: the mark is no longer here, or not yet.
        """
        if not self.has(size):
            raise Unavailable("the state at that checkpoint is not kept here; ask again", retry_after_ms=1_000)
        undone = [self._undone[later] for later in self._undone if later >= size]
        written = [*(each.accounts for each in undone), self._accounts, now]
        balance = next((accounts[account] for accounts in written if account in accounts), _EMPTY)
        bucket = self._commitment.prove("account", account, [each.change for each in undone])
        return None if balance == _EMPTY else balance, bucket

    def _forget_one(self) -> None:
        """The oldest that is not pinned: what was written after it was written after the one before it too."""
        oldest, *others = self._undone
        if oldest != self._pinned:
            del self._undone[oldest]
            return
        kept, gone = self._undone[oldest], self._undone.pop(others[0])
        self._undone[oldest] = _Undone(
            {**gone.accounts, **kept.accounts},
            Change({**gone.change.nodes, **kept.change.nodes}, {**gone.change.buckets, **kept.change.buckets}),
        )
