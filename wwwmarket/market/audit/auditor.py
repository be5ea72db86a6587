"""The machine of the audit: files of a log in, findings out, a report at the end. Checks 1, 6 and 8 are its own."""

from typing import assert_never

from wwwmarket.crypto.signing import open_entry
from wwwmarket.domain.errors import Malformed, Refusal, Unauthorised
from wwwmarket.domain.identity import Digest
from wwwmarket.domain.records import Award, Genesis, Offer, Settlement, Transfer
from wwwmarket.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from wwwmarket.ledger.note import SignatureType, VerifierKey, parse_note
from wwwmarket.ledger.tiles import BundleId
from wwwmarket.market.audit.events import BalanceClaimed, BundleRead, CheckpointRead, Event, StretchRead, TileRead
from wwwmarket.market.audit.findings import Check, Finding, Findings, Report
from wwwmarket.market.audit.replay import Replay
from wwwmarket.market.audit.tree import Tree
from wwwmarket.rules.check import Checked, check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State


class Auditor:
    """Keeps the state, a part of the tree's hashes, and the first findings; nothing grows with the entries read."""

    def __init__(self, registry: Registry, log: VerifierKey) -> None:
        assert log.type is SignatureType.ED25519, "a log signs its notes themselves"
        self._log = log
        self._findings = Findings()
        self._tree = Tree(self._findings)
        self._replay = Replay(registry, self._findings)
        self._checkpoint: Checkpoint | None = None
        self._ended = False

    @property
    def state(self) -> State:
        """The replayed state; entries that were refused are not in it."""
        return self._replay.state

    @property
    def size(self) -> int:
        """How many entries have been read."""
        return self._tree.size

    @property
    def target(self) -> int:
        """How many entries the checkpoint covers; what is being audited ends there."""
        return self._checkpoint.size if self._checkpoint else 0

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
                self._read(event.bundle, event.content)
            case TileRead():
                self._tree.compare(event.tile, event.content)
            case StretchRead():
                self._close_stretch()
            case BalanceClaimed():
                self._hear(event)
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
        """Check 1; of a note that fails it, what it says is compared all the same."""
        self._findings.examine(Check.NOTE)
        try:
            self._checkpoint = open_checkpoint(note, self._log).checkpoint
        except Refusal as refusal:
            self._findings.add(Check.NOTE, refusal.message)
            self._checkpoint = _claimed(note)
        self._tree.begin(self.target)

    def _read(self, bundle: BundleId, content: bytes | None) -> None:
        for leaf in self._tree.open_bundle(bundle, content):
            index = self._tree.size
            self._tree.append(leaf)
            checked = None if leaf is None else self._open(index, leaf)
            if checked is None:
                self._replay.lose(index)
            else:
                self._check_name(checked)
                self._replay.follow(index, checked)

    def _open(self, index: int, leaf: bytes) -> Checked | None:
        """Checks 6 and 8."""
        findings = self._findings
        findings.examine(Check.ENTRY)
        try:
            verified = open_entry(leaf)
        except (Malformed, Unauthorised) as refusal:
            findings.add(Check.ENTRY, refusal.message, entry=index)
            return None
        account = verified.entry.account
        try:
            checked = check(verified)
        except Malformed as refusal:
            findings.add(Check.ENTRY, refusal.message, entry=index, account=account)
            return None
        except Unauthorised as refusal:
            findings.add(Check.NESTED, refusal.message, entry=index, account=account)
            return None
        findings.examine(Check.NESTED, isinstance(checked.body, Award | Settlement))
        return checked

    def _check_name(self, checked: Checked) -> None:
        """Check 1, its other half: the genesis is of the log that signs the checkpoint."""
        genesis = checked.body
        if not isinstance(genesis, Genesis) or self._tree.size != 1:
            return
        if genesis.origin != self._log.name:
            message = f"the genesis is of the log {genesis.origin}, and not of {self._log.name}"
            self._findings.add(Check.NOTE, message, entry=0)
        if genesis.operator != self._log.account:
            message = f"the genesis names the operator {genesis.operator}, and the log is signed by {self._log.account}"
            self._findings.add(Check.NOTE, message, entry=0, account=genesis.operator)

    def _close_stretch(self) -> None:
        if self._checkpoint is None:
            return
        self._tree.end(self._checkpoint)
        if self.size and self.size == self.target:
            self._replay.end(self.size - 1)

    def _hear(self, claim: BalanceClaimed) -> None:
        if not self._replay.stopped:
            self._replay.balances.hear(claim, self.state.account(claim.account))


def _claimed(note: bytes) -> Checkpoint | None:
    """What an unsigned or wrongly signed note says, if it says anything."""
    try:
        return parse_checkpoint(parse_note(note).text)
    except Malformed:
        return None
