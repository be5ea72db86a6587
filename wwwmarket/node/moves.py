"""Credits moved between a node's own accounts, once for each name that is given to a move, whatever is retried.

The signed entry is kept under the name before it is sent. So a retry finds it: on the ledger, then it is done; or not
yet, then it is the same entry that is sent again, and the ledger takes an entry once.
"""

import asyncio
from typing import Final

from wwwmarket.crypto import canonical, signing
from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.errors import Conflict, Refusal
from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.records import Leaf, Transfer
from wwwmarket.domain.shape import Value
from wwwmarket.node.author import Author, Submission
from wwwmarket.ports.store import Change, LedgerStore, RecordStore

MOVE: Final = "move"
NAME_CHARS_MAX: Final = 255


class MoveRecord(Value):
    """``amount_micro`` is as it was asked for: a name used again for another amount is a mistake."""

    source: AccountId
    target: AccountId
    amount_micro: int
    leaf: Leaf


class Moves:
    def __init__(self, author: Author, submission: Submission, store: RecordStore, ledger: LedgerStore) -> None:
        self._author = author
        self._submission = submission
        self._store = store
        self._ledger = ledger
        self._turns: dict[str, asyncio.Lock] = {}

    async def move(self, source: AccountId, target: AccountId, amount_micro: int, name: str | None) -> None:
        """Move credits; under a ``name`` that was used before, see that it has happened.

        Raises:
            Conflict: the name was used for another move.
            InsufficientCredit, Conflict: as the ledger refuses a transfer.
        """
        body = Transfer(to=target, amount_micro=amount_micro)
        if name is None:
            await self._author.settle(source, body)
            return
        turn = self._turns.setdefault(name, asyncio.Lock())
        try:
            async with turn:
                await self._once(source, body, name)
        finally:
            if not turn.locked():
                self._turns.pop(name, None)

    async def _once(self, source: AccountId, body: Transfer, name: str) -> None:
        kept = await self._store.read(MOVE, name)
        if kept is not None:
            record = canonical.decode(kept, MoveRecord, bytes_max=len(kept))
            if (record.source, record.target, record.amount_micro) != (source, body.to, body.amount_micro):
                raise Conflict(
                    "this idempotency key was used for another amount or account: use a fresh one",
                    param="idempotency-key",
                    reason="idempotency_key_reused",
                )
            if await self._is_done(signing.open_entry(record.leaf.encode("ascii"))):
                return

        def keep(entry: VerifiedEntry) -> Change:
            leaf = entry.leaf.decode("ascii")
            record = MoveRecord(source=source, target=body.to, amount_micro=body.amount_micro, leaf=leaf)
            return Change(kind=MOVE, key=name, body=canonical.encode(record))

        await self._author.settle(source, body, keep)

    async def _is_done(self, entry: VerifiedEntry) -> bool:
        """On the ledger already, or taken now. Refused for its place, it never happened and never will."""
        if await self._ledger.index_of(entry.id) is not None:
            return True
        try:
            await self._submission.submit(entry)
        except Refusal as refusal:
            if refusal.reason == "chain":
                return False
            raise
        return True
