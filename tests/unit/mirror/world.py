"""A log that can lie, and a mirror whose driver is this file: it performs effects at once, and keeps what was written."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PROVIDER, REGISTRY, key, make_genesis
from wwwmarket.config import MirrorConfig
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import KeyPair, open_entry, sign_entry
from wwwmarket.domain.committee import Committee, Member
from wwwmarket.domain.evidence import LogEvidence
from wwwmarket.domain.records import Body, Mark, Transfer
from wwwmarket.ledger.checkpoint import (
    Checkpoint,
    cosign_checkpoint,
    open_checkpoint,
    sign_checkpoint,
    with_cosignatures,
)
from wwwmarket.ledger.merkle import complete_root, leaf_hash, root_of
from wwwmarket.ledger.note import Cosigner, Signer, VerifierKey
from wwwmarket.ledger.proofs import Proof, consistency_proof
from wwwmarket.ledger.witness import CosignRequest
from wwwmarket.mirror.accusing import make_evidence
from wwwmarket.mirror.events import (
    Accuse,
    Answer,
    CheckpointOffered,
    Compare,
    Cosigned,
    EntriesFetched,
    Event,
    Fetch,
    Keep,
    Persist,
    Persisted,
    Refused,
)
from wwwmarket.mirror.machine import Mirror
from wwwmarket.rules.check import check
from wwwmarket.rules.state import State

ORIGIN = make_genesis().origin
CONFIG = MirrorConfig()
NAMES = ("mirror.example/a", "mirror.example/b", "mirror.example/c", "mirror.example/d")
COMMITTEE = Committee(
    members=tuple(
        Member(name=name, account=key(f"{name} account").account, cosigner=key(name).account, url="http://127.0.0.1:1")
        for name in NAMES
    )
)
LOG = Signer(ORIGIN, OPERATOR).verifier


class LyingLog:
    """An orderer that signs whatever it is told to. ``state`` follows as long as its entries do."""

    def __init__(
        self,
        leaves: Sequence[bytes] = (),
        signer: KeyPair = OPERATOR,
        origin: str = ORIGIN,
        rules: type[State] = State,
    ) -> None:
        self.leaves: list[bytes] = []
        self.forged = False
        self.signer = Signer(origin, signer)
        self.state = rules(REGISTRY)
        for leaf in leaves:
            self.add_leaf(leaf)

    @classmethod
    def begun(cls, **changes) -> "LyingLog":
        log = cls()
        log.add(OPERATOR, make_genesis(**changes))
        log.mark(NOW)
        return log

    def fork(self, size: int | None = None) -> "LyingLog":
        """Another log under the same name and key, with the same beginning."""
        return LyingLog(self.leaves[: len(self.leaves) if size is None else size], rules=type(self.state))

    def entry(self, author: KeyPair, body: Body) -> bytes:
        seq, prev = self.state.chain_head(author.account)
        return canonical.encode(sign_entry(author, seq=seq, prev=prev, body=body))

    def add(self, author: KeyPair, body: Body) -> None:
        self.add_leaf(self.entry(author, body))

    def add_leaf(self, leaf: bytes) -> None:
        self.state.apply(check(open_entry(leaf)))
        self.leaves.append(leaf)

    def forge(self, leaf: bytes) -> None:
        """Into the tree, whatever it is."""
        self.leaves.append(leaf)

    def mark(self, at_ms: int, operator: KeyPair = OPERATOR) -> None:
        self.add(operator, Mark(at_ms=at_ms, state_root=self.state.root()))

    def note(self, size: int | None = None) -> bytes:
        count = len(self.leaves) if size is None else size
        root = root_of(map(leaf_hash, self.leaves[:count]))
        return sign_checkpoint(self.signer, Checkpoint(origin=self.signer.verifier.name, size=count, root=root))

    def node(self, level: int, index: int) -> bytes:
        return complete_root([leaf_hash(leaf) for leaf in self.leaves[index << level : (index + 1) << level]])

    def proof(self, old: int, size: int | None = None) -> Proof:
        return consistency_proof(old, len(self.leaves) if size is None else size, self.node)

    def request(self, old: int, size: int | None = None) -> CosignRequest:
        return CosignRequest(old=old, proof=self.proof(old, size), note=self.note(size))

    def serve(self, fetch: Fetch, now_ms: int) -> EntriesFetched:
        proof = self.proof(fetch.end, fetch.size) if fetch.end < fetch.size else Proof(())
        return EntriesFetched(
            start=fetch.start, leaves=tuple(self.leaves[fetch.start : fetch.end]), proof=proof, now_ms=now_ms
        )


@dataclass
class Disk:
    """What survives."""

    leaves: list[bytes] = field(default_factory=list)
    kept: bytes | None = None
    pending: bytes | None = None
    written: list[Persist] = field(default_factory=list)

    def write(self, persist: Persist) -> None:
        assert persist.start == len(self.leaves)
        self.leaves += persist.leaves
        self.written.append(persist)
        self.pending = persist.pending
        if persist.covered is not None:
            self.kept = persist.covered.note


class House:
    """One mirror with its disk."""

    def __init__(
        self,
        name: str = "mirror.example/a",
        disk: Disk | None = None,
        config: MirrorConfig = CONFIG,
        log: VerifierKey = LOG,
    ) -> None:
        self.cosigner = Cosigner(name, key(name))
        self.log = log
        self.disk = disk or Disk()
        self.config = config
        self.now_ms = NOW
        self.evidence: list[LogEvidence] = []
        self.calls = 0
        self.revive()

    def make(self) -> Mirror:
        return Mirror(self.log, self.cosigner, REGISTRY, self.config)

    def revive(self) -> None:
        """A new life over what the disk holds."""
        self.mirror = self.make()
        self.mirror.replay(self.disk.leaves, self.disk.kept, self.now_ms)
        self.mirror.check_replayed(self.disk.kept)

    def ask(self, log: LyingLog, size: int | None = None, *, old: int | None = None) -> Cosigned | Refused:
        """Offer a log's checkpoint, and serve the mirror that log's entries."""
        first = self.mirror.cosigned_size if old is None else old
        length = len(log.leaves) if size is None else size
        proof = log.proof(first, length) if first <= length else Proof(())
        return self.offer(CosignRequest(old=first, proof=proof, note=log.note(size)), log)

    def offer(self, request: CosignRequest, log: LyingLog) -> Cosigned | Refused:
        self.calls += 1
        answers = self.run(CheckpointOffered(call=self.calls, request=request, now_ms=self.now_ms), log)
        (answer,) = [each.answer for each in answers if each.call == self.calls]
        return answer

    def run(self, event: Event, log: LyingLog) -> list[Answer]:
        """All that follows from an event, with the disk's and the log's answers."""
        answers: list[Answer] = []
        events = [event]
        while events:
            for effect in self.mirror.step(events.pop(0)):
                match effect:
                    case Answer():
                        answers.append(effect)
                    case Fetch():
                        events.append(log.serve(effect, self.now_ms))
                    case Persist():
                        self.disk.write(effect)
                        if effect.covered is not None:
                            events.append(Persisted(size=effect.covered.size, now_ms=self.now_ms))
                    case Keep():
                        self.evidence.append(effect.evidence)
                    case Compare() | Accuse():
                        self.prove(effect, log)
        return answers

    def prove(self, case: Compare | Accuse, log: LyingLog) -> None:
        """As the driver does, from the log's own tiles."""
        earlier = case.beside if isinstance(case, Accuse) else None
        if isinstance(case, Accuse) and earlier is None and case.before is not None:
            names = [open_entry(leaf).id for leaf in self.disk.leaves]
            if case.before in names:
                earlier = names.index(case.before), self.disk.leaves[names.index(case.before)]
        evidence = make_evidence(self.mirror.log, case, log.node, earlier)
        if evidence is not None:
            self.evidence.append(evidence)


def committee_of(names: Sequence[str]) -> Committee:
    """The mirrors of those names, as ``House`` makes their keys."""
    members = (
        Member(name=name, account=key(f"account of {name}").account, cosigner=key(name).account, url="http://[::1]:1")
        for name in names
    )
    return Committee(members=tuple(members))


def honest(entries: int = 3, **changes) -> LyingLog:
    """A log with some transfers, ended by a mark; ``changes`` are the genesis's."""
    log = LyingLog.begun(**changes)
    for amount in range(entries):
        log.add(CLIENT, Transfer(to=PROVIDER.account, amount_micro=1 + amount % 7))
    log.mark(NOW + 1)
    return log


def finalised(log: LyingLog, *names: str) -> bytes:
    """The log's checkpoint with the cosignatures of those."""
    checkpoint = open_checkpoint(log.note(), log.signer.verifier)
    lines = [cosign_checkpoint(Cosigner(name, key(name)), checkpoint, timestamp_s=NOW // 1_000) for name in names]
    return with_cosignatures(checkpoint.note, lines)
