"""Make a copy of the log whole again from whoever has the rest: the orderer, a mirror's entries, another copy.

Each entry is checked as if it came from a stranger, so a source can withhold and nothing else.
"""

from collections.abc import Sequence
from typing import Protocol

from wwwmarket.crypto import signing
from wwwmarket.ledger.checkpoint import VerifiedCheckpoint
from wwwmarket.node.replica import Replica
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, LedgerStore


class EntrySource(Protocol):
    """Any copy of the log, or a part of it."""

    async def read(self, start: int, end: int) -> Sequence[bytes]:
        """Leaves ``start`` to ``end - 1``, or fewer; none at its end. Raises a Refusal where it cannot say."""
        ...


def take(replica: Replica, leaf: bytes, covered: VerifiedCheckpoint | None) -> None:
    """Apply the next entry; where it completes what ``covered`` covers, compare.

    Raises:
        Conflict: the entries are not those of the checkpoint.
        Refusal: the entry does not follow.
    """
    replica.apply(signing.open_entry(leaf))
    if covered is not None and replica.size == covered.checkpoint.size:
        replica.cover(covered)


async def repair(
    replica: Replica, ledger: LedgerStore, source: EntrySource, covered: VerifiedCheckpoint | None = None
) -> int:
    """Append to this copy whatever ``source`` has beyond it; how many entries that was.

    Raises:
        Refusal: the source's, or what it gave does not follow. The replica may then be ahead of the store.
    """
    begun = replica.size
    while leaves := await source.read(replica.size, replica.size + ORDER_ENTRIES_MAX):
        first_index = replica.size
        names = [signing.open_entry(leaf).id for leaf in leaves]
        for leaf in leaves:
            take(replica, leaf, covered)
        await ledger.append(first_index, leaves, names)
    return replica.size - begun
