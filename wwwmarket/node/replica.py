"""One copy of the ledger in memory: entries folded into the tree, which knows no meaning, and the state, which is it.

It promises that nothing is in the one that is not in the other, and to compare both with every checkpoint.

It knows what is final: a checkpoint that a quorum of its judges has cosigned. The judges of the first are the genesis's
committee, and of each further one the committee in office at the final one before it. So a committee leaves office only
by a checkpoint that it made final itself, and no other can do it in its place.

It knows by whose key each checkpoint must be signed: the genesis's operator, and after each succession the next one.
"""

from bisect import bisect_right
from collections import OrderedDict
from typing import Final

from wwwmarket.crypto.signing import VerifiedEntry
from wwwmarket.domain.book import AccountRow, OfferRow, StandingRow
from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import Conflict, NotFound, Unauthorised, Unavailable
from wwwmarket.domain.identity import AccountId, EntryId
from wwwmarket.domain.quantity import Count
from wwwmarket.domain.records import Body, Certified, Genesis, Mark, Settlement, Succession, TabSettlement
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import Checkpoint, VerifiedCheckpoint, open_checkpoint, parse_checkpoint
from wwwmarket.ledger.merkle import leaf_hash
from wwwmarket.ledger.note import VerifierKey, parse_note
from wwwmarket.ledger.quorum import check_quorum, cosigner_keys, count_cosigners
from wwwmarket.ledger.tiles import Tile, Tiler
from wwwmarket.node.service import Finality
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import Applied, State
from wwwmarket.rules.succession import certified_in, check_succession

SETTLEMENTS_KEPT_MAX: Final = 200_000
"""How many settlements can be named by their award; older ones are in the log, not in memory."""
PROVIDERS_KEPT_MAX: Final = 65_536
"""Providers that are known to have settled; one whose last settlement is older than all of theirs counts as new."""
MARKS_KEPT_MAX: Final = 64
"""Marks whose checkpoint has not come; it follows within a fraction of a second."""
ROOTS_KEPT_MAX: Final = 4_096
"""Marks that no final checkpoint covers yet: minutes of traffic without a quorum."""
CHANGED_KEPT_MAX: Final = 200_000
"""Accounts and offers that changed since the last final checkpoint; of further ones only that something did."""
_NOBODY: Final = Committee()


class Covering(Value):
    """The tree right after a mark: what a checkpoint of that size must say, and the tiles that it covers."""

    size: Count
    root: bytes
    full: tuple[Tile, ...]
    partial: tuple[Tile, ...]


class Replica:
    def __init__(self, registry: Registry) -> None:
        self.state: Final = State(registry, proves=True)
        self._tiler = Tiler()
        self._full: list[Tile] = []
        self._coverings: OrderedDict[int, Covering] = OrderedDict()
        self._covered: tuple[VerifiedCheckpoint, Covering] | None = None
        self._roots: OrderedDict[int, bytes] = OrderedDict()
        self._offices: list[tuple[int, Committee]] = []
        self._logs: list[tuple[int, VerifierKey]] = []
        self._successions: list[Certified[Succession]] = []
        self._final: VerifiedCheckpoint | None = None
        self._proving: VerifiedCheckpoint | None = None
        self._handovers: list[VerifiedCheckpoint] = []
        self._changed: OrderedDict[AccountId | EntryId, int] = OrderedDict()
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
    def log(self) -> VerifierKey:
        """By whose key the next checkpoint must be signed. Raises Unavailable until the first entry is here."""
        return self.log_at(self.size)

    def log_at(self, size: int) -> VerifierKey:
        """By whose key a checkpoint of so many entries must be signed. Raises Unavailable before the first entry."""
        if not self._logs:
            raise Unavailable("this node has not yet read the ledger", retry_after_ms=1_000)
        place = bisect_right(self._logs, size, key=lambda each: each[0])
        return self._logs[max(place - 1, 0)][1]

    def has_key(self, log: VerifierKey) -> bool:
        """Whether this is, or was, the log's key."""
        return any(key == log for _, key in self._logs)

    @property
    def successions(self) -> tuple[Certified[Succession], ...]:
        """Those by which the log changed hands, with their signatures, in order."""
        return tuple(self._successions)

    @property
    def root(self) -> bytes:
        """The tree's, over all entries."""
        return self._tiler.root()

    @property
    def checkpoint(self) -> VerifiedCheckpoint:
        """The latest one. Raises Unavailable until there is one."""
        return self.covered[0]

    @property
    def covered(self) -> tuple[VerifiedCheckpoint, Covering]:
        """The latest checkpoint and its tree. Raises Unavailable until there is one."""
        if self._covered is None:
            raise Unavailable("no checkpoint covers this ledger yet", retry_after_ms=1_000)
        return self._covered

    @property
    def final(self) -> VerifiedCheckpoint | None:
        """The latest final checkpoint, with its cosignatures."""
        return self._final

    @property
    def final_size(self) -> int:
        return 0 if self._final is None else self._final.checkpoint.size

    @property
    def proving(self) -> VerifiedCheckpoint:
        """What proofs lead to: the latest final checkpoint whose state is still here; without a committee the latest.

        Raises Unavailable until there is one.
        """
        if not self.judges.members:
            return self.checkpoint
        if self._proving is None:
            raise Unavailable("no final checkpoint covers this ledger yet", retry_after_ms=1_000)
        return self._proving

    @property
    def handovers(self) -> tuple[VerifiedCheckpoint, ...]:
        """The final checkpoints by which committees left office, in order: who begins to follow needs each."""
        return tuple(self._handovers)

    @property
    def judges(self) -> Committee:
        """Whose quorum makes the next checkpoint final."""
        return self.committee_at(max(self.final_size, 1))

    def committee_at(self, size: int) -> Committee:
        """The committee in office after so many entries."""
        place = bisect_right(self._offices, size, key=lambda office: office[0])
        return self._offices[place - 1][1] if place else Committee()

    def finality(self, index: int) -> Finality:
        """Of the entry at ``index``."""
        if index < self.final_size:
            return "final"
        return "pending" if self.judges.members else "none"

    def finality_of(self, name: AccountId | EntryId) -> Finality:
        """Of an account's balance and standing, or of an offer as it is listed: by what changed it last."""
        fallback = self.size - 1 if len(self._changed) >= CHANGED_KEPT_MAX else -1
        index = self._changed.get(name, fallback)
        return self.finality(index) if self.judges.members else "none"

    def open(self, note: bytes, judges: Committee = _NOBODY) -> VerifiedCheckpoint:
        """Read a checkpoint of this log, and which of ``judges`` have cosigned it.

        Raises:
            Malformed: not a checkpoint.
            Unauthorised: not signed by the key that signs checkpoints of its size.
        """
        size = parse_checkpoint(parse_note(note).text).size
        return open_checkpoint(note, self.log_at(size), cosigner_keys(judges))

    def finalise(self, note: bytes) -> bool:
        """Take a checkpoint as final; whether that is news.

        Raises:
            Unauthorised: fewer than a quorum of its judges have cosigned it.
            Conflict: it is of another tree than the entries that are here: evidence.
        """
        judges = self.judges
        opened = self.open(note, judges)
        if opened.checkpoint.size <= self.final_size:
            return False
        check_quorum(opened, judges)
        self._check_root(opened.checkpoint)
        self._take_final(opened)
        return True

    def restore_final(self, note: bytes) -> None:
        """Take up a checkpoint that was final before: its judges are one of the committees that were in office.

        Raises:
            Unauthorised: none of them made it final.
            Conflict: it is of another tree than the entries that are here.
        """
        size = self.open(note).checkpoint.size
        for start, judges in reversed(self._offices):
            opened = self.open(note, judges)
            if start <= size and 0 < judges.quorum <= count_cosigners(opened, judges):
                if size in self._roots:  # an older one was compared before it was stored
                    self._check_root(opened.checkpoint)
                self._take_final(opened, judges)
                return
        raise Unauthorised("no committee of this ledger made that checkpoint final", reason="no_quorum")

    def _check_root(self, checkpoint: Checkpoint) -> None:
        if self._roots.get(checkpoint.size) != checkpoint.root:
            raise Conflict(
                f"the checkpoint of {checkpoint.size} entries is not of the entries that are here", reason="other_tree"
            )

    def _take_final(self, opened: VerifiedCheckpoint, judges: Committee | None = None) -> None:
        size = opened.checkpoint.size
        if self.committee_at(size) != (judges or self.judges):
            self._handovers.append(opened)
        if size <= self.final_size:
            return
        self._final = opened
        if self.state.history.pin(size):
            self._proving = opened
        for root in [root for root in self._roots if root <= size]:
            del self._roots[root]
        while self._changed and next(iter(self._changed.values())) < size:
            self._changed.popitem(last=False)

    def apply(self, entry: VerifiedEntry) -> Applied:
        """Follow the next entry. Raises a Refusal, with nothing changed, when it does not follow."""
        checked = check(entry)
        check_succession(checked.body, self._tiler.root)
        applied = self.state.apply(checked)
        self._full += self._tiler.append(leaf_hash(entry.leaf))
        self._follow_committee()
        self._follow_key(checked.body)
        if self._offices[-1][1].members:
            self._remember_changed(applied)
        match applied.checked.body:
            case Mark():
                self._remember_mark()
            case Settlement() as settlement:
                signer = settlement.attestation.signer
                self._remember_settlement(settlement.award, self.state.account_of(signer) or signer, applied.index)
            case TabSettlement() as settlement:
                self._remember_settlement(settlement.tab, applied.author, applied.index)
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
        """The index of the entry that settled an award or a tab. Raises NotFound."""
        index = self._settlements.get(award)
        if index is None:
            raise NotFound("no settlement of that award is known here")
        return index

    def is_newcomer(self, provider: AccountId) -> bool:
        """Whether no settlement of that provider is known here, paid or failed."""
        return provider not in self._settled

    def _remember_settlement(self, settled: EntryId, provider: AccountId, index: int) -> None:
        self._settlements[settled] = index
        if len(self._settlements) > SETTLEMENTS_KEPT_MAX:
            self._settlements.popitem(last=False)
        self._settled[provider] = None
        self._settled.move_to_end(provider)
        if len(self._settled) > PROVIDERS_KEPT_MAX:
            self._settled.popitem(last=False)

    def _follow_committee(self) -> None:
        committee = self.state.governance.committee
        if not self._offices or self._offices[-1][1] is not committee:
            self._offices.append((self.size, committee))

    def _follow_key(self, body: Body) -> None:
        certified = certified_in(body)
        if certified is not None:
            self._successions.append(certified)
        if isinstance(body, Genesis) or certified is not None:
            self._logs.append((self.size, VerifierKey(name=self.state.origin, account=self.state.operator)))

    def _remember_changed(self, applied: Applied) -> None:
        for row in applied.rows:
            if isinstance(row, AccountRow | OfferRow | StandingRow):
                self._changed[row.id] = applied.index
                self._changed.move_to_end(row.id)
        while len(self._changed) > CHANGED_KEPT_MAX:
            self._changed.popitem(last=False)

    def _remember_mark(self) -> None:
        self._roots[self.size] = self._tiler.root()
        if len(self._roots) > ROOTS_KEPT_MAX:
            self._roots.popitem(last=False)
        full, self._full = tuple(self._full), []
        if self._coverings:
            full = (*next(reversed(self._coverings.values())).full, *full)
        self._coverings[self.size] = Covering(
            size=self.size, root=self._tiler.root(), full=full, partial=tuple(self._tiler.partials())
        )
        if len(self._coverings) > MARKS_KEPT_MAX:
            self._coverings.popitem(last=False)
