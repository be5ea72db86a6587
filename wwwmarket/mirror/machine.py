"""A mirror's mind: which checkpoints of one log it cosigns.

It promises to cosign a checkpoint only if

1. it is a note (``malformed``) of the log it mirrors (``unknown_log``), signed by that log (``bad_signature``);
2. the asker names a size no larger than the checkpoint's (``malformed``), and it is the size cosigned last
   (``other_size``): so sizes never go back;
3. there is one root for one size (``other_size``), and the new tree begins with the old one (``not_consistent``);
4. the entries are those of the checkpoint (``not_consistent``), each follows by signatures and contracts, and every
   mark's state root is this mirror's own (``does_not_follow``);
5. its last entry is a mark, and the entries say that this is their log's key (``does_not_follow``); the mark's time is
   this mirror's, within a tolerance (``other_time``);
6. and all of it is on its disk.

A log may change hands (``succession/v1``). A mirror that has sworn to one successor cosigns nothing further under the
old name, and swears to no other (``succeeded``): so what a quorum of mirrors has sworn to is the last of the old name.

Entries are applied only under a checkpoint that the log has signed and that the disk holds. A log that has once signed
an entry which does not follow is cosigned no more (``does_not_follow``): no later tree can be without it.

It refuses to know where entries come from, what time it is, and where anything is kept. C2SP tlog-witness has the
protocol, and tlog-mirror what the cosignature says.
"""

from collections import OrderedDict, deque
from collections.abc import Sequence
from typing import Final, assert_never

from msgspec.structs import replace

from wwwmarket.config import MirrorConfig
from wwwmarket.crypto.signing import VerifiedEntry, open_entry
from wwwmarket.domain.committee import Member
from wwwmarket.domain.errors import Conflict, Malformed, Refusal, Unauthorised
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.records import Certified, Mark, Succession
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import (
    Checkpoint,
    VerifiedCheckpoint,
    cosign_checkpoint,
    open_checkpoint,
    parse_checkpoint,
    with_cosignatures,
)
from wwwmarket.ledger.evidence import make_fork
from wwwmarket.ledger.merkle import EMPTY_ROOT, leaf_hash
from wwwmarket.ledger.note import Cosigner, VerifierKey, encode_note, parse_note
from wwwmarket.ledger.proofs import verify_consistency
from wwwmarket.ledger.tiles import Tile, Tiler
from wwwmarket.ledger.witness import CosignRequest
from wwwmarket.mirror.events import (
    Accuse,
    Answer,
    CheckpointOffered,
    Compare,
    Cosigned,
    Covered,
    Effect,
    EntriesFetched,
    Event,
    Fetch,
    FetchFailed,
    Keep,
    Persist,
    Persisted,
    Reason,
    Refused,
    Served,
)
from wwwmarket.mirror.oaths import check_oath, check_quorum_of
from wwwmarket.rules.check import check
from wwwmarket.rules.registry import Registry
from wwwmarket.rules.state import State
from wwwmarket.rules.succession import certified_in, check_succession


class _No(Exception):  # noqa: N818 - an answer within this machine
    def __init__(self, reason: Reason, message: str) -> None:
        super().__init__(message)
        self.reason: Final = reason
        self.message: Final = message


class _Job(Value):
    """The checkpoint at work: ``target`` is what the tree shall become."""

    call: int | None
    target: Checkpoint
    note: bytes


class Mirror:
    def __init__(self, log: VerifierKey, cosigner: Cosigner, registry: Registry, config: MirrorConfig) -> None:
        """``log`` is the key that the log has, or had."""
        self._pinned: Final = log
        self._past: set[VerifierKey] = set()
        self._oath: Succession | None = None
        self._successor: Succession | None = None
        self._successions: list[Certified[Succession]] = []
        self._cosigner = cosigner
        self._config = config
        self._state = State(registry)
        self._tiler = Tiler()
        self._full: list[Tile] = []
        self._marked = True
        """Whether the last entry is a mark; of no entries, vacuously."""
        self._cosigned = Checkpoint(origin=log.name, size=0, root=EMPTY_ROOT)
        self._served: Served | None = None
        self._recent: OrderedDict[int, bytes] = OrderedDict()
        self._waiting: deque[CheckpointOffered] = deque()
        self._job: _Job | None = None
        self._condemned: str | None = None

    @property
    def log(self) -> VerifierKey:
        """By whose key the next checkpoint must be signed."""
        if self._successor is not None:
            return VerifierKey(name=self._successor.successor, account=self._successor.operator)
        return self._key_of_state() if self._pinned in self._past else self._pinned

    @property
    def successions(self) -> tuple[Certified[Succession], ...]:
        """Those that the log has followed, and the one that it is to follow, in order."""
        return tuple(self._successions)

    @property
    def oath(self) -> Succession | None:
        """The succession that this mirror has signed, while the log has not followed it."""
        return self._oath

    @property
    def name(self) -> str:
        return self._cosigner.verifier.name

    @property
    def state(self) -> State:
        return self._state

    @property
    def served(self) -> Served | None:
        return self._served

    @property
    def cosigned_size(self) -> int:
        return self._cosigned.size

    def fellows(self) -> list[Member]:
        """The other mirrors of the committee in office."""
        members = self._state.governance.committee.members
        return [member for member in members if member.cosigner != self._cosigner.verifier.account]

    @property
    def size(self) -> int:
        """Entries that are here, cosigned or not."""
        return self._tiler.size

    @property
    def condemned(self) -> str | None:
        """Why this log is cosigned no more."""
        return self._condemned

    def digest(self) -> tuple[int, bytes, str]:
        """Size, tree root and state root, so that two replays can be compared."""
        return self._tiler.size, self._tiler.root(), self._state.root()

    # Changing hands

    def check_oath(self, succession: Succession) -> None:
        """Whether this mirror may swear to that. Raises as ``oaths.check_oath``."""
        check_oath(succession, self._oath, self._cosigned, self._state.governance, self._cosigner.verifier.account)

    def swear(self, succession: Succession) -> None:
        """Take up an oath that is on the disk."""
        self._oath = succession

    def accept(self, certified: Certified[Succession]) -> int | None:
        """Follow a successor from now on, by the word of a quorum of the committee that this mirror knows.

        Gives None; or, where this mirror holds more or other entries than the successor begins from, of how many it has
        to begin anew: what it had cosigned beyond was never final, and never will be.

        Raises:
            Malformed, Unauthorised, Forbidden: as ``oaths.check_quorum_of``.
        """
        succession, size = certified.body, self._tiler.size
        if succession in self._state.governance.successions:
            return None
        check_quorum_of(certified, self._state.governance)
        if size > succession.size:
            return succession.size
        if size == succession.size and self._tiler.root().hex() != succession.root:
            return 0
        self._successor = succession
        self._successions.append(certified)
        return None

    # Taking up what is stored

    def replay(self, leaves: Sequence[bytes], kept: bytes | None, now_ms: int) -> None:
        """Take up stored entries; ``kept`` is the note of the checkpoint that was cosigned last.

        Raises:
            Refusal: what is stored does not follow, or is not the checkpoint's: restore it, or begin anew.
        """
        size = _size_of(kept)
        for leaf in leaves:
            self._apply(open_entry(leaf))
            if kept is not None and self._tiler.size == size:
                self._take_up(open_checkpoint(kept, self._key_of_state()), now_ms)

    def check_replayed(self, kept: bytes | None) -> None:
        """Raises Conflict when fewer entries are stored than were cosigned."""
        size = _size_of(kept)
        if self._cosigned.size != size:
            raise Conflict(f"{size} entries were cosigned and {self._tiler.size} are stored: restore the database")

    def _take_up(self, covered: VerifiedCheckpoint, now_ms: int) -> None:
        if self._tiler.root() != covered.checkpoint.root:
            raise Conflict("the stored entries are not those of the stored checkpoint: restore the database")
        self._full.clear()
        self.remember(covered.note)
        self._cover(covered.checkpoint, covered.note, tuple(self._tiler.partials()), now_ms)

    # Events

    def step(self, event: Event) -> list[Effect]:
        match event:
            case CheckpointOffered():
                return self._on_offered(event)
            case EntriesFetched():
                return self._on_fetched(event)
            case FetchFailed():
                return self._end(_No("unavailable", event.message))
            case Persisted():
                return self._on_persisted(event)
            case _:
                assert_never(event)

    def _on_offered(self, event: CheckpointOffered) -> list[Effect]:
        try:
            verified = self._open(event.request)
            kept = self._compare(verified)
            if len(self._waiting) >= self._config.waiting_max:
                raise _No("busy", "too many checkpoints wait here already")  # noqa: TRY301 - one place answers
        except _No as no:
            return self._answer(event.call, no)
        self._waiting.append(event)
        return [*kept, *self._next()]

    def _open(self, request: CosignRequest) -> VerifiedCheckpoint:
        try:
            checkpoint = parse_checkpoint(parse_note(request.note).text)
            if checkpoint.origin != self.log.name:
                raise _No("unknown_log", f"this mirror knows the log {self.log.name} and no other")
            if self._oath is not None and self._successor is None:
                raise _No("succeeded", f"this mirror has sworn that {self._oath.successor} follows this log")
            verified = open_checkpoint(request.note, self.log)
        except Malformed as refusal:
            raise _No("malformed", refusal.message) from None
        except Unauthorised as refusal:
            raise _No("bad_signature", refusal.message) from None
        if request.old > checkpoint.size:
            raise _No("malformed", f"a tree of {checkpoint.size} entries does not begin with {request.old}")
        return verified

    def _compare(self, verified: VerifiedCheckpoint) -> list[Effect]:
        """Evidence, where the log has signed another root for a size that is remembered."""
        checkpoint = verified.checkpoint
        first = self._recent.get(checkpoint.size)
        if first is None:
            return []
        if parse_checkpoint(parse_note(first).text).root == checkpoint.root:
            return []
        return [Keep(evidence=make_fork(self.log, [first, _bare(verified.note, self.log)]))]

    def remember(self, note: bytes) -> None:
        """A checkpoint that the log has signed, without others' signatures, to compare others of its size with."""
        self._recent.setdefault(_size_of(note), note)
        if len(self._recent) > self._config.recent_max:
            self._recent.popitem(last=False)

    def _next(self) -> list[Effect]:
        effects: list[Effect] = []
        while self._job is None and self._waiting:
            event = self._waiting.popleft()
            try:
                effects += self._begin(event)
            except _No as no:
                effects += [*self._answer(event.call, no), *self._doubt(event.request.note, no)]
        return effects

    def _doubt(self, note: bytes, no: _No) -> list[Effect]:
        """A proof that fails shows nothing, for anybody can send one; the log's own tiles may."""
        if no.reason != "not_consistent" or self._served is None:
            return []
        return [Compare(first=_bare(self._served.note, self.log), second=_bare(note, self.log))]

    def _begin(self, event: CheckpointOffered) -> list[Effect]:
        request, cosigned = event.request, self._cosigned
        target = parse_checkpoint(parse_note(request.note).text)
        if self._condemned is not None:
            raise _No("does_not_follow", self._condemned)
        if event.call is not None and request.old != cosigned.size:
            raise _No("other_size", f"{cosigned.size} entries were cosigned last, not {request.old}")
        if target.size < cosigned.size or (target.size == cosigned.size and target.root != cosigned.root):
            raise _No("other_size", f"another tree of {cosigned.size} entries was cosigned")
        if event.call is not None:
            self._check_consistent(request.old, target, cosigned.root, request.proof)
        if target.size == cosigned.size:
            if target.origin != cosigned.origin:
                raise _No("other_size", f"{cosigned.size} entries were cosigned under the log's old name")
            return self._agree(event.call, request.note, event.now_ms)
        size = self._tiler.size
        if target.size < size:
            raise _No("busy", f"{size} entries are here already under a later checkpoint of this log")
        if target.size == size and target.root != self._tiler.root():
            raise _No("not_consistent", f"another tree of {size} entries is here under a checkpoint of this log")
        self._job = _Job(call=event.call, target=target, note=_bare(request.note, self.log))
        self.remember(self._job.note)
        if target.size == size:
            nothing = Persist(pending=self._job.note, start=size, leaves=(), ids=(), covered=None)
            return self._judge(self._job, nothing, event.now_ms)
        return [self._fetch(target.size)]

    def _check_consistent(self, old: int, target: Checkpoint, root: bytes, proof: Sequence[bytes]) -> None:
        try:
            verify_consistency(old, target.size, root, target.root, proof)
        except Malformed as refusal:
            raise _No("not_consistent", refusal.message) from None

    def _fetch(self, size: int) -> Fetch:
        start, most = self._tiler.size, self._config.fetch_entries_max
        return Fetch(start=start, end=min(size, start - start % most + most), size=size)

    def _on_fetched(self, event: EntriesFetched) -> list[Effect]:
        job = self._job
        assert job is not None, "entries are fetched for a checkpoint"
        try:
            self._authenticate(event, job.target)
        except _No as no:
            return self._end(no)
        entries: list[VerifiedEntry] = []
        for leaf in event.leaves:
            try:
                entries.append(open_entry(leaf))
                self._apply(entries[-1])
            except Refusal as refusal:
                return self._condemn(job, event.start, entries, leaf, refusal)
        persist = Persist(
            pending=job.note,
            start=event.start,
            leaves=event.leaves,
            ids=tuple(entry.id for entry in entries),
            covered=None,
        )
        if self._tiler.size < job.target.size:
            return [persist, self._fetch(job.target.size)]
        return self._judge(job, persist, event.now_ms)

    def _authenticate(self, event: EntriesFetched, target: Checkpoint) -> None:
        """Before anything is believed of them: these are the entries that the log has signed."""
        tree = self._tiler.frontier()
        if event.start != tree.size or not 0 < len(event.leaves) <= target.size - tree.size:
            raise _No("unavailable", "other entries came than were asked for")
        for leaf in event.leaves:
            tree.append(leaf_hash(leaf))
        self._check_consistent(tree.size, target, tree.root(), event.proof)

    def _apply(self, entry: VerifiedEntry) -> None:
        checked = check(entry)
        body = checked.body
        check_succession(body, self._tiler.root)
        before = self._key_of_state() if self._tiler.size else None
        self._state.apply(checked)
        certified = certified_in(body)
        if before is not None and certified is not None:
            self._past.add(before)
            self._oath = self._successor = None
            self._successions = [*(one for one in self._successions if one.body != certified.body), certified]
        self._full += self._tiler.append(leaf_hash(entry.leaf))
        self._marked = isinstance(body, Mark)

    def _condemn(
        self, job: _Job, start: int, entries: Sequence[VerifiedEntry], leaf: bytes, refusal: Refusal
    ) -> list[Effect]:
        """No later tree can be without that entry."""
        self._condemned = f"the log has signed an entry that does not follow: {refusal.message}"
        index, before = self._tiler.size, self._entry_before(leaf)
        applied = enumerate(entries[: index - start], start)
        beside = next(((place, entry.leaf) for place, entry in applied if entry.id == before), None)
        accuse = Accuse(note=job.note, index=index, leaf=leaf, before=before, beside=beside)
        return [accuse, *self._end(_No("does_not_follow", self._condemned))]

    def _entry_before(self, leaf: bytes) -> EntryId | None:
        """The latest entry of the account that this one is of."""
        try:
            head = self._state.chain_head(open_entry(leaf).entry.account)
        except Refusal:
            return None
        return head.prev if head.next_seq else None

    def _judge(self, job: _Job, persist: Persist, now_ms: int) -> list[Effect]:
        """The tree is the checkpoint's: keep it as cosigned, unless it is no state's, or its time is not ours."""
        if self.log != self._key_of_state():
            self._condemned = f"the entries are those of a log with the key {self._key_of_state().text}"
            return [*([persist] if persist.leaves else []), *self._end(_No("does_not_follow", self._condemned))]
        try:
            self._check_time(now_ms)
        except _No as no:
            return [*([persist] if persist.leaves else []), *self._end(no)]
        covered = Covered(size=job.target.size, note=job.note, tiles=tuple(self._full))
        self._full.clear()
        return [replace(persist, covered=covered)]

    def _check_time(self, now_ms: int) -> None:
        if not self._marked:
            raise _No("does_not_follow", "the last entry under a checkpoint is a mark, which says the state's root")
        ahead_ms = self._state.now_ms - now_ms
        if not -self._config.time_behind_max_ms <= ahead_ms <= self._config.time_ahead_max_ms:
            raise _No("other_time", f"the checkpoint's time is {ahead_ms} ms ahead of this mirror's clock")

    def _on_persisted(self, event: Persisted) -> list[Effect]:
        job = self._job
        assert job is not None, "a checkpoint was to be persisted"
        assert job.target.size == event.size == self._tiler.size, "the one at work"
        self._job = None
        line = self._cover(job.target, job.note, tuple(self._tiler.partials()), event.now_ms)
        answered: list[Effect] = [] if job.call is None else [Answer(call=job.call, answer=Cosigned(lines=line))]
        return [*answered, *self._next()]

    def _cover(self, checkpoint: Checkpoint, note: bytes, partial: tuple[Tile, ...], now_ms: int) -> str:
        """Cosign what is on the disk; gives the signature line."""
        verified = open_checkpoint(note, self._key_of_state())
        cosignature = cosign_checkpoint(self._cosigner, verified, timestamp_s=now_ms // 1_000)
        self._cosigned = checkpoint
        self._served = Served(checkpoint=checkpoint, note=with_cosignatures(note, [cosignature]), partial=partial)
        return cosignature.line

    def _agree(self, call: int | None, note: bytes, now_ms: int) -> list[Effect]:
        """Say again what was said: the same tree, and now."""
        if call is None:
            return []
        verified = open_checkpoint(note, self.log)
        cosignature = cosign_checkpoint(self._cosigner, verified, timestamp_s=now_ms // 1_000)
        return [Answer(call=call, answer=Cosigned(lines=cosignature.line))]

    def _end(self, no: _No) -> list[Effect]:
        """The checkpoint at work is not cosigned; the next one's turn."""
        job, self._job = self._job, None
        assert job is not None, "a checkpoint is at work"
        return [*self._answer(job.call, no), *self._next()]

    def _answer(self, call: int | None, no: _No) -> list[Effect]:
        if call is None:
            return []
        return [Answer(call=call, answer=Refused(reason=no.reason, message=no.message, size=self._cosigned.size))]

    def _key_of_state(self) -> VerifierKey:
        """Whose log the entries say that they are."""
        return VerifierKey(name=self._state.origin, account=self._state.operator)


def _size_of(note: bytes | None) -> int:
    return 0 if note is None else parse_checkpoint(parse_note(note).text).size


def _bare(note: bytes, log: VerifierKey) -> bytes:
    """The note with its log's signature alone: what others added is theirs to keep."""
    parsed = parse_note(note)
    own = [each for each in parsed.signatures if (each.name, each.key_id) == (log.name, log.id)]
    return encode_note(parsed.text, own)
