"""What an auditor is told, in this order: a checkpoint, each bundle and its tiles from the left, that this was all."""

from typing import TypeAlias

from wwwmarket.domain.identity import AccountId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.tiles import BundleId, TileId
from wwwmarket.market.audit.opening import Opened


class CheckpointRead(Value):
    """The bytes of the note. A second one, of a larger tree, goes on where the first one ended."""

    note: bytes


class BundleRead(Value):
    """The bytes of an entry bundle, None where the log has none. ``opened`` is what ``open_bundle`` made of these very
    bytes in another process, None where nobody did.
    """

    bundle: BundleId
    content: bytes | None
    opened: Opened | None = None


class TileRead(Value):
    """The bytes of a tile of hashes, None where the log has none."""

    tile: TileId
    content: bytes | None


class StretchRead(Value):
    """All that the checkpoint covers has been read, or all that there is of it."""


class BalanceClaimed(Value):
    """Somebody says that an account holds so much, now or after an entry still to be read; None says nothing."""

    account: AccountId
    available_micro: MicroCredits
    locked_micro: MicroCredits | None = None
    bonded_micro: MicroCredits | None = None


class CopyCompared(Value):
    """Another source was held against this log (``copies.compare``); ``fault`` None: it shows the same one."""

    source: str
    fault: str | None


Event: TypeAlias = CheckpointRead | BundleRead | TileRead | StretchRead | BalanceClaimed | CopyCompared
