"""What a node keeps: its copy of the ledger, and its own records. Durable when the call returns."""

from collections.abc import Sequence
from typing import Protocol

from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.tiles import Tile

__all__ = ["Change", "LedgerStore", "Orderer", "RecordStore", "Tile"]


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
    """One copy of the log. On a single machine it is the orderer too: its insertion order is the order."""

    async def size(self) -> int: ...

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


class Orderer(Protocol):
    """Gives order and availability, and knows nothing of meaning: compare-and-set on the next index."""

    async def size(self) -> int: ...
    async def append(self, first_index: int, leaves: Sequence[bytes], ids: Sequence[EntryId]) -> None: ...
    async def read(self, start: int, end: int) -> list[bytes]: ...
