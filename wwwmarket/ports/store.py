"""What a node keeps: its copy of the ledger, and its own records. Durable when the call returns."""

from collections.abc import Sequence
from typing import Final, Protocol

from wwwmarket.domain.errors import TooLarge
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.tiles import Tile

__all__ = [
    "ORDER_BYTES_MAX",
    "ORDER_ENTRIES_MAX",
    "Change",
    "LedgerStore",
    "Orderer",
    "RecordStore",
    "Sequencing",
    "Tile",
    "check_order",
    "fitting",
]

ORDER_ENTRIES_MAX: Final = 256
"""Entries of one append: a bundle."""
ORDER_BYTES_MAX: Final = 1_048_576
"""Leaves of one append, together: etcd refuses a request of more than 1.5 MiB unless it is told otherwise."""


def fitting(leaves: Sequence[bytes]) -> int:
    """How many of the first of these one append takes: at least one."""
    room = ORDER_BYTES_MAX
    for count, leaf in enumerate(leaves[:ORDER_ENTRIES_MAX]):
        room -= len(leaf)
        if room < 0:
            return max(1, count)
    return min(len(leaves), ORDER_ENTRIES_MAX)


def check_order(leaves: Sequence[bytes]) -> None:
    """Raises TooLarge: more leaves than one append may have."""
    if len(leaves) > ORDER_ENTRIES_MAX or sum(map(len, leaves)) > ORDER_BYTES_MAX:
        raise TooLarge(f"one append has at most {ORDER_ENTRIES_MAX} entries and {ORDER_BYTES_MAX} bytes: divide it")


class Change(Value):
    """Write ``body`` under ``(kind, key)``, or delete it when None."""

    kind: str
    key: str
    body: bytes | None


class RecordStore(Protocol):
    async def write(self, changes: Sequence[Change], *, patience_ms: int = 0) -> None:
        """All or nothing, durable on return, in the order of calls. Concurrent writers share one commit.

        ``patience_ms`` is how long the caller can wait for others to share with.
        """
        ...

    async def read(self, kind: str, key: str) -> bytes | None: ...

    async def scan(self, kind: str, *, newest_first: bool = False, limit: int | None = None) -> list[tuple[str, bytes]]:
        """All records of a kind as (key, body), in the order of their first writing."""
        ...


class LedgerStore(Protocol):
    """One copy of the log. Where one process orders it, the order of insertion is the order."""

    async def size(self) -> int: ...

    async def promised(self) -> int:
        """The size up to which appends have returned, by a witness apart from the log: more than ``size`` is a loss."""
        ...

    async def append(self, first_index: int, leaves: Sequence[bytes], ids: Sequence[EntryId]) -> None:
        """Add leaves at ``first_index``.. ; durable on return.

        Raises:
            Conflict: the log does not end at ``first_index`` (another writer was faster).
        """
        ...

    async def read(self, start: int, end: int) -> list[bytes]:
        """Leaves ``start`` to ``end - 1``; fewer where the log is shorter."""
        ...

    async def index_of(self, entry: EntryId) -> int | None: ...

    async def put_checkpoint(self, size: int, note: bytes, tiles: Sequence[Tile]) -> None:
        """Keep a checkpoint as the latest, with the full tiles that became full since the one before."""
        ...

    async def checkpoint(self) -> bytes | None:
        """The latest checkpoint, a signed note."""
        ...

    async def tile(self, level: int, number: int) -> bytes | None:
        """A full tile's 256 hashes, or None."""
        ...

    async def cut(self, size: int) -> None:
        """Forget the leaves from ``size`` on, and the checkpoints and tiles that cover any of them.

        Only for what a quorum of the log's committee has declared to be no part of it (``succession/v1``).
        """
        ...


class Sequencing(Value):
    """A sequencer process of the log, as it announced itself. ``address`` is opaque here; ``size`` is durable there."""

    name: str
    address: bytes
    size: Count
    leads: bool


class Orderer(Protocol):
    """Gives order and availability, and knows nothing of meaning: compare-and-set on the next index, by who leads.

    Several sequencer processes of one operator share it, and at most one of them leads. An append that is not
    answered may have been made: whoever wants to know reads. Every method raises Unavailable, with what to do about
    it, when the orderer cannot be reached.
    """

    async def campaign(self) -> None:
        """Return once this process leads. Others follow it when its lease ends, some seconds after it is gone."""
        ...

    async def wait_lost(self) -> None:
        """Return once this process leads no more, or cannot be sure that it does."""
        ...

    async def size(self) -> int: ...

    async def append(self, first_index: int, leaves: Sequence[bytes]) -> None:
        """Add leaves at ``first_index``.. ; durable on return.

        Raises:
            Conflict: the log does not end there (``not_the_end``), or another process leads (``fenced``).
            TooLarge: more than ``ORDER_ENTRIES_MAX`` or ``ORDER_BYTES_MAX``.
        """
        ...

    async def read(self, start: int, end: int) -> list[bytes]:
        """Leaves ``start`` to ``end - 1``, or fewer; at least one where the log has it.

        Raises:
            NotFound: the orderer has trimmed ``start`` away (``trimmed``).
        """
        ...

    async def trim(self, size: int) -> None:
        """Every sequencer keeps the first ``size`` entries itself: they may be forgotten here.

        Raises:
            Conflict: another process leads (``fenced``).
        """
        ...

    async def announce(self, address: bytes, size: int) -> None:
        """Let the others know of this process, for some seconds."""
        ...

    async def sequencers(self) -> list[Sequencing]:
        """Those that announced themselves lately, by name."""
        ...

    async def close(self) -> None:
        """Let another one lead at once."""
        ...
