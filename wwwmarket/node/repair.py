"""Make a copy of the log whole again from whoever has the rest: the orderer, a mirror's entries, another copy.

Each entry is checked as if it came from a stranger, so a source can withhold and nothing else.
"""

from collections.abc import Sequence
from typing import Protocol

from wwwmarket.crypto import signing
from wwwmarket.domain.errors import Conflict
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import parse_checkpoint
from wwwmarket.ledger.note import parse_note
from wwwmarket.node.replica import Replica
from wwwmarket.ports.store import ORDER_ENTRIES_MAX, LedgerStore, Orderer, fitting


class EntrySource(Protocol):
    """Any copy of the log, or a part of it."""

    async def read(self, start: int, end: int) -> Sequence[bytes]:
        """Leaves ``start`` to ``end - 1``, or fewer; none at its end. Raises a Refusal where it cannot say."""
        ...


class Kept(Value):
    """A checkpoint as it was stored; whose it is, the entries below it say."""

    size: int
    note: bytes

    @classmethod
    def of(cls, note: bytes | None) -> "Kept | None":
        return None if note is None else cls(size=parse_checkpoint(parse_note(note).text).size, note=note)


def take(replica: Replica, leaf: bytes, kept: Kept | None) -> None:
    """Apply the next entry; where it completes what ``kept`` covers, compare.

    Raises:
        Conflict: the entries are not those of the checkpoint.
        Unauthorised: it is not signed by the key of the log that they are of.
        Refusal: the entry does not follow.
    """
    replica.apply(signing.open_entry(leaf))
    if kept is not None and replica.size == kept.size:
        replica.cover(replica.open(kept.note))


async def repair(replica: Replica, ledger: LedgerStore, source: EntrySource, kept: Kept | None = None) -> int:
    """Append to this copy whatever ``source`` has beyond it; how many entries that was.

    Raises:
        Refusal: the source's, or what it gave does not follow. The replica may then be ahead of the store.
    """
    begun = replica.size
    while leaves := await source.read(replica.size, replica.size + ORDER_ENTRIES_MAX):
        first_index = replica.size
        names = [signing.open_entry(leaf).id for leaf in leaves]
        for leaf in leaves:
            take(replica, leaf, kept)
        await ledger.append(first_index, leaves, names)
    return replica.size - begun


async def seed(ledger: LedgerStore, orderer: Orderer) -> None:
    """Order in an orderer, empty or holding the log's beginning, what this copy of the log has beyond it.

    Raises:
        Conflict: what it holds is not the beginning of this log; or another process leads.
        NotFound, Unavailable: it cannot be read.
    """
    size = await orderer.size()
    if size and await orderer.read(size - 1, size) != await ledger.read(size - 1, size):
        raise Conflict("the orderer holds another log than this node", reason="other_tree")
    while leaves := await ledger.read(size, size + ORDER_ENTRIES_MAX):
        count = fitting(leaves)
        await orderer.append(size, leaves[:count])
        size += count
