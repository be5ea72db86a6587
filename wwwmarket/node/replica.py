"""One copy of the ledger in memory: entries folded into the tree, which knows no meaning, and the state, which is it.

It promises that nothing is in the one that is not in the other, and to compare both with every checkpoint.
"""

from collections import OrderedDict
from typing import Final

from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.errors import Conflict, NotFound, Unavailable
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Genesis, Mark, Settlement
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import Checkpoint, VerifiedCheckpoint
from wwwmarket.ledger.merkle import leaf_hash
from wwwmarket.ledger.tiles import Tile, Tiler
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import Applied, State

SETTLEMENTS_KEPT_MAX: Final = 200_000
"""How many settlements can be named by their award; older ones are in the log, not in memory."""
PROVIDERS_KEPT_MAX: Final = 65_536
"""Providers that are known to have settled; one whose last settlement is older than all of theirs counts as new."""
MARKS_KEPT_MAX: Final = 64
"""Marks whose checkpoint has not come; it follows within a fraction of a second."""


class Covering(Value):
    """The tree right after a mark: what a checkpoint of that size must say, and the tiles that it covers."""

    size: Count
    root: bytes
    full: tuple[Tile, ...]
    partial: tuple[Tile, ...]


class Replica:
    def __init__(self, registry: Registry) -> None:
        self.state: Final = State(registry)
        self._tiler = Tiler()
        self._full: list[Tile] = []
        self._coverings: OrderedDict[int, Covering] = OrderedDict()
        self._covered: tuple[VerifiedCheckpoint, Covering] | None = None
        self._settlements: OrderedDict[EntryId, int] = OrderedDict()
        self._settled: OrderedDict[AccountId, None] = OrderedDict()

    @property
    def size(self) -> int:
        return self.state.size

    @property
    def genesis(self) -> Genesis:
        """Raises Unavailable until the first entry is here."""
        genesis = self.state.genesis
        if genesis is None:
            raise Unavailable("this node has not yet read the ledger", retry_after_ms=1_000)
        return genesis

    @property
    def checkpoint(self) -> VerifiedCheckpoint:
        """The latest one. Raises Unavailable until there is one."""
        if self._covered is None:
            raise Unavailable("no checkpoint covers this ledger yet", retry_after_ms=1_000)
        return self._covered[0]

    def apply(self, entry: VerifiedEntry) -> Applied:
        """Follow the next entry. Raises a Refusal, with nothing changed, when it does not follow."""
        applied = self.state.apply(check(entry))
        self._full += self._tiler.append(leaf_hash(entry.leaf))
        match applied.checked.body:
            case Mark():
                self._remember_mark()
            case Settlement() as settlement:
                self._remember_settlement(settlement, applied.index)
            case _:
                pass
        return applied

    def covering(self, size: int) -> Covering | None:
        """The tree as a mark of this size left it, while its checkpoint is due."""
        return self._coverings.get(size)

    def cover(self, verified: VerifiedCheckpoint) -> Covering:
        """Take a checkpoint as the latest.

        Raises:
            Conflict: the log's own signature stands under another tree than the entries that came: evidence.
        """
        claimed: Checkpoint = verified.checkpoint
        if self._covered is not None and claimed == self._covered[0].checkpoint:
            return self._covered[1]  # an operator says it again to each follower that comes back
        covering = self._coverings.get(claimed.size)
        if covering is None or covering.root != claimed.root:
            raise Conflict(
                f"the checkpoint of {claimed.size} entries is not of the entries that came with it", reason="other_tree"
            )
        for size in [size for size in self._coverings if size <= claimed.size]:
            del self._coverings[size]
        self._covered = verified, covering
        return covering

    def partial_tile(self, level: int, number: int) -> bytes | None:
        """The hashes of the latest checkpoint's partial tile, or None."""
        if self._covered is None:
            return None
        tiles = self._covered[1].partial
        return next((tile.hashes for tile in tiles if (tile.level, tile.number) == (level, number)), None)

    def settlement_of(self, award: EntryId) -> int:
        """The index of the entry that settled an award. Raises NotFound."""
        index = self._settlements.get(award)
        if index is None:
            raise NotFound("no settlement of that award is known here")
        return index

    def is_newcomer(self, provider: AccountId) -> bool:
        """Whether no settlement of that provider is known here, paid or failed."""
        return provider not in self._settled

    def _remember_settlement(self, settlement: Settlement, index: int) -> None:
        self._settlements[settlement.award] = index
        if len(self._settlements) > SETTLEMENTS_KEPT_MAX:
            self._settlements.popitem(last=False)
        provider = settlement.attestation.signer
        self._settled[provider] = None
        self._settled.move_to_end(provider)
        if len(self._settled) > PROVIDERS_KEPT_MAX:
            self._settled.popitem(last=False)

    def _remember_mark(self) -> None:
        full, self._full = tuple(self._full), []
        if self._coverings:
            full = (*next(reversed(self._coverings.values())).full, *full)
        self._coverings[self.size] = Covering(
            size=self.size, root=self._tiler.root(), full=full, partial=tuple(self._tiler.partials())
        )
        if len(self._coverings) > MARKS_KEPT_MAX:
            self._coverings.popitem(last=False)
