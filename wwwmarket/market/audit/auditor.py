"""The machine of the audit: files of a log in, findings out, a report at the end. Checks 1, 6, 8 and 17 are its own."""

from typing import Final, assert_never

from wwwmarket.crypto import canonical
from wwwmarket.domain.errors import Conflict, Malformed, Refusal, Unauthorised
from wwwmarket.domain.identity import Digest
from wwwmarket.domain.keys import Delegation, Rotation
from wwwmarket.domain.records import Award, Genesis, Mark, Offer, Settlement, TabSettlement, Transfer
from wwwmarket.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from wwwmarket.ledger.note import SignatureType, VerifierKey, parse_note
from wwwmarket.ledger.tiles import TileId
from wwwmarket.market.audit.events import (
    BalanceClaimed,
    BundleRead,
    CheckpointRead,
    CopyCompared,
    Event,
    StretchRead,
    TileRead,
)
from wwwmarket.market.audit.findings import Check, Finding, Findings, Report
from wwwmarket.market.audit.opening import Fault, open_leaf
from wwwmarket.market.audit.replay import Replay
from wwwmarket.market.audit.saved import SAVED_BYTES_MAX, Saved, not_taken, read_mark
from wwwmarket.market.audit.tree import Tree
from wwwmarket.rules.check import Checked
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State
from wwwmarket.rules.succession import check_succession, succession_in

SIGNED_INSIDE: Final = (Award, Settlement, TabSettlement, Rotation, Delegation)
"""Bodies with words of others in them."""


class Auditor:
    """Keeps the state, a part of the tree's hashes, and the first findings; nothing grows with the entries read."""

    def __init__(self, registry: Registry, log: VerifierKey) -> None:
        assert log.type is SignatureType.ED25519, "a log signs its notes themselves"
        self._log = log
        self._findings = Findings()
        self._tree = Tree(self._findings)
        self._replay = Replay(registry, self._findings)
        self._note: bytes | None = None
        self._keys: list[VerifierKey] = []
        self._checkpoint: Checkpoint | None = None
        self._ended = False
        self._saves = False
        self._before_last: tuple[bytes, tuple[bytes, ...], bytes] | None = None

    @classmethod
    def resume(cls, registry: Registry, log: VerifierKey, data: bytes) -> "Auditor":
        """Go on where an audit was put aside (``saved``), which is held against the log's own signatures.

        Raises:
            Malformed: it is none, of another log, or was changed.
            Conflict: the contracts in force are not those of this program.
        """
        saved = canonical.decode(data, Saved, bytes_max=SAVED_BYTES_MAX)
        if saved.log != log.text:  # 1
            raise not_taken(f"it is of {saved.log}")
        auditor = cls(registry, log)
        try:
            auditor._take_up(registry, saved)
        except Conflict:
            raise
        except (Malformed, Unauthorised) as refusal:
            raise not_taken(refusal.message) from None
        return auditor

    def _take_up(self, registry: Registry, saved: Saved) -> None:
        mark, leaf = read_mark(saved), saved.mark.encode()
        assert isinstance(mark.body, Mark), "as read"
        state = State.restore(registry, bytes(saved.snapshot), mark.body.state_root)
        index = state.size
        self._replay.take_up(state)
        self._keys = keys_of(state)
        self._replay.follow(index, mark)  # 2
        self._tree.take_up(index, [bytes.fromhex(row) for row in saved.rows])
        self._tree.append(leaf)
        checkpoint = open_checkpoint(saved.note.encode(), self._keys[-1]).checkpoint  # 4
        if self._findings.violations:
            raise not_taken(self._findings.since(0)[0].message)
        if (checkpoint.size, checkpoint.root) != (self._tree.size, self._tree.root()):  # 3
            raise not_taken("its tree is not that of its checkpoint")
        self._checkpoint, self._note = checkpoint, saved.note.encode()
        self._findings.take_up({check: saved.examined.get(check.name, 0) for check in Check})
        self._replay.counts.update({kind: saved.counts.get(kind.__name__, 0) for kind in self._replay.counts})

    def will_save(self) -> None:
        """Keep what ``saved`` needs at the end of the next stretch."""
        self._saves = True

    def saved(self) -> bytes | None:
        """This audit, put aside; None where it has found something, or is at no mark under a checkpoint."""
        if self._before_last is None or self._findings.violations or not self._replay.is_whole:
            return None
        if self._note is None or self.size != self.target:
            return None
        snapshot, rows, mark = self._before_last
        return canonical.encode(
            Saved(
                log=self._log.text,
                note=self._note.decode(),
                mark=mark.decode(),
                rows=tuple(row.hex() for row in rows),
                snapshot=canonical.Raw(snapshot),
                counts={kind.__name__: count for kind, count in self._replay.counts.items()},
                examined={check.name: times for check, times in self._findings.examined.items()},
            )
        )

    @property
    def state(self) -> State:
        """The replayed state; entries that were refused are not in it."""
        return self._replay.state

    @property
    def size(self) -> int:
        """How many entries have been read."""
        return self._tree.size

    @property
    def note(self) -> bytes | None:
        """The checkpoint that was read last."""
        return self._note

    @property
    def keys(self) -> tuple[VerifierKey, ...]:
        """Those that the log has had by its entries, the one in force last; of no entries, the one that was given."""
        return tuple(self._keys) or (self._log,)

    @property
    def target(self) -> int:
        """How many entries the checkpoint covers; what is being audited ends there."""
        return self._checkpoint.size if self._checkpoint else 0

    def lacking(self) -> frozenset[TileId]:
        """Tiles of what was audited before, through which proofs of what is being audited lead."""
        return self._tree.lacking()

    @property
    def violations(self) -> int:
        """How many have been found so far."""
        return self._findings.violations

    @property
    def disputes_balances(self) -> bool:
        """Whether a claimed balance has not been met: entries beyond the checkpoint may still bear it out."""
        return bool(self._replay.balances.disputed)

    def step(self, event: Event) -> tuple[Finding, ...]:
        """Take the next event; gives the findings that come of it, as far as findings are kept."""
        assert not self._ended, "the report closes an audit"
        known = self._findings.kept
        match event:
            case CheckpointRead():
                self._begin(event.note)
            case BundleRead():
                self._read(event)
            case TileRead():
                self._tree.compare(event.tile, event.content)
            case StretchRead():
                self._close_stretch()
            case BalanceClaimed():
                self._hear(event)
            case CopyCompared():
                self._compare(event)
            case _:
                assert_never(event)
        return self._findings.since(known)

    def report(self) -> Report:
        """Close the audit: claims that nothing bore out become findings."""
        assert not self._ended, "the report closes an audit"
        self._ended = True
        state, findings, counts = self._replay.state, self._findings, self._replay.counts
        self._replay.balances.end(state.accounts())
        return Report(
            verdict="findings" if findings.violations else "pass",
            origin=self._checkpoint.origin if self._checkpoint else None,
            checkpoint_size=self.target,
            checkpoint_root=Digest(self._checkpoint.root.hex()) if self._checkpoint else None,
            entries=self.size,
            accounts=len(state.accounts()),
            offers=counts[Offer],
            awards=counts[Award],
            settlements=counts[Settlement],
            transfers=counts[Transfer],
            total_micro=state.total_micro,
            ledger_time_ms=state.now_ms,
            contracts=dict(state.genesis.contracts) if state.genesis else {},
            checks=findings.results(),
            violations=findings.violations,
            consequences=findings.consequences,
            findings=findings.since(0),
        )

    def _begin(self, note: bytes) -> None:
        """Check 1, as far as it can be said before the entries; what the note says is compared in any case."""
        self._findings.examine(Check.NOTE)
        self._checkpoint, self._note = _claimed(note), note
        if self._checkpoint is None or self._checkpoint.origin == self._log.name:
            self._check_note(note, self._log)
        self._tree.begin(self.target)

    def _check_note(self, note: bytes, log: VerifierKey) -> None:
        try:
            open_checkpoint(note, log)
        except Refusal as refusal:
            self._findings.add(Check.NOTE, refusal.message)

    def _read(self, event: BundleRead) -> None:
        leaves = self._tree.open_bundle(event.bundle, event.content)
        # A bundle that has grown begins with entries that were read before.
        opened = iter(() if event.opened is None else event.opened[event.bundle.width - len(leaves) :])
        for leaf in leaves:
            index = self._tree.size
            if self._saves and leaf is not None and index == self.target - 1 and self.state.genesis is not None:
                self._before_last = (self.state.snapshot(), self._tree.rows, leaf)
            checked = None if leaf is None else self._judge(index, next(opened, None) or open_leaf(leaf))
            if checked is None:
                self._replay.lose(index)
            else:
                self._check_succession(index, checked)
                self._replay.follow(index, checked)
                self._note_key(checked)
            self._tree.append(leaf)

    def _judge(self, index: int, opened: Checked | Fault) -> Checked | None:
        """Checks 6 and 8."""
        findings = self._findings
        findings.examine(Check.ENTRY)
        if isinstance(opened, Fault):
            findings.add(opened.check, opened.message, entry=index, account=opened.account)
            return None
        findings.examine(Check.NESTED, isinstance(opened.body, SIGNED_INSIDE))
        return opened

    def _check_succession(self, index: int, checked: Checked) -> None:
        """Check 10, of what the state cannot see: a succession begins from the tree of the entries before it."""
        try:
            check_succession(checked.body, self._tree.root)
        except Conflict as refusal:
            self._findings.add(Check.ACCEPTED, refusal.message, entry=index, account=checked.account)

    def _note_key(self, checked: Checked) -> None:
        """The keys that the log has had, by its entries."""
        body, state = checked.body, self.state
        if state.genesis is not None and (isinstance(body, Genesis) or succession_in(body) is not None):
            self._keys = keys_of(state)

    def _check_key(self) -> None:
        """Check 1, its other half: the entries name the key that signs the checkpoint, and the one that was given."""
        given, checkpoint = self._log, self._checkpoint
        assert checkpoint is not None, "a stretch leads to a checkpoint"
        assert self._note is not None, "which a note holds"
        log = self._keys[-1] if self._keys else given
        if self._keys and given not in self._keys:
            message = f"the entries are those of a log with the key {log.text}, and not {given.text}"
            self._findings.add(Check.NOTE, message, entry=0, account=log.account)
        elif log != given or checkpoint.origin != given.name:
            self._check_note(self._note, log)

    def _close_stretch(self) -> None:
        if self._checkpoint is None:
            return
        self._tree.end(self._checkpoint)
        self._check_key()
        if self.size and self.size == self.target:
            self._replay.end(self.size - 1)

    def _compare(self, compared: CopyCompared) -> None:
        self._findings.examine(Check.COPIES)
        if compared.fault is not None:
            self._findings.add(Check.COPIES, f"{compared.source}: {compared.fault}")

    def _hear(self, claim: BalanceClaimed) -> None:
        if not self._replay.stopped:
            self._replay.balances.hear(claim, self.state.account(claim.account))


def keys_of(state: State) -> list[VerifierKey]:
    """The keys that a log has had, the one in force last."""
    genesis = state.genesis
    assert genesis is not None, "a genesis comes first"
    first = VerifierKey(name=genesis.origin, account=genesis.operator)
    later = (VerifierKey(name=each.successor, account=each.operator) for each in state.governance.successions)
    return [first, *later]


def _claimed(note: bytes) -> Checkpoint | None:
    """What an unsigned or wrongly signed note says, if it says anything."""
    try:
        return parse_checkpoint(parse_note(note).text)
    except Malformed:
        return None
