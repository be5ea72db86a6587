"""What happens to a mirror, and what it wants done."""

from typing import Literal, TypeAlias

from wwwmarket.domain.evidence import LogEvidence
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import Checkpoint
from wwwmarket.ledger.tiles import Tile
from wwwmarket.ledger.witness import CosignRequest

Reason: TypeAlias = Literal[
    "malformed",
    "unknown_log",
    "bad_signature",
    "other_size",
    "not_consistent",
    "does_not_follow",
    "other_time",
    "busy",
    "unavailable",
    "succeeded",
]


class CheckpointOffered(Value):
    """Somebody asks to cosign; ``call`` is the driver's name for who waits. None: the log's own published one."""

    call: int | None
    request: CosignRequest
    now_ms: int


class EntriesFetched(Value):
    """What ``Fetch`` asked for: ``proof`` leads from the end of the leaves to the checkpoint that they belong to."""

    start: int
    leaves: tuple[bytes, ...]
    proof: tuple[bytes, ...]
    now_ms: int


class FetchFailed(Value):
    message: str


class Persisted(Value):
    """All of the ``Persist`` for the checkpoint of this size is on the disk."""

    size: int
    now_ms: int


Event: TypeAlias = CheckpointOffered | EntriesFetched | FetchFailed | Persisted


class Cosigned(Value):
    """Signature lines of a note."""

    lines: str


class Refused(Value):
    """``size`` is that of the checkpoint cosigned last."""

    reason: Reason
    message: str
    size: int


class Answer(Value):
    call: int
    answer: Cosigned | Refused


class Fetch(Value):
    """Read the entries ``start`` to ``end - 1`` of the log's tree of ``size``, and prove ``end`` to ``size``."""

    start: int
    end: int
    size: int


class Covered(Value):
    """A checkpoint to keep as cosigned, without cosignatures, and the tiles that became full since the one before."""

    size: int
    note: bytes
    tiles: tuple[Tile, ...]


class Persist(Value):
    """Write, in this order: the checkpoint that entries belong to, the entries, the checkpoint to be cosigned."""

    pending: bytes
    start: int
    leaves: tuple[bytes, ...]
    ids: tuple[EntryId, ...]
    covered: Covered | None


class Keep(Value):
    """Evidence of the log's fault that proves itself."""

    evidence: LogEvidence


class Compare(Value):
    """Two notes of the log, of two sizes: keep what proves that the second's tree does not begin with the first's."""

    first: bytes
    second: bytes


class Accuse(Value):
    """The log has signed ``note``, and the entry at ``index`` of that tree does not follow: keep what proves it.

    ``before`` names the same account's entry before it, where there is one; ``beside`` is that entry with its index,
    where it came together with this one.
    """

    note: bytes
    index: int
    leaf: bytes
    before: EntryId | None
    beside: tuple[int, bytes] | None


Effect: TypeAlias = Answer | Fetch | Persist | Keep | Compare | Accuse


class Served(Value):
    """The checkpoint cosigned last, with this mirror's cosignature, and its partial tiles."""

    checkpoint: Checkpoint
    note: bytes
    partial: tuple[Tile, ...]
