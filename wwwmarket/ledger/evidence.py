"""Whether a piece of evidence proves that who signs for a log did wrong: from itself, and nobody's word.

Whoever signs is known by a key alone; whose key that is, the reader knows or does not care. Evidence is refused
(``Malformed``, ``Unauthorised``, ``Conflict``) unless, of each kind, all of this holds:

``fork/v1``: both notes are checkpoints of one log, and the signer's valid signature is on both; of equal sizes, the
roots differ; else the proof shows that the larger tree begins with another root than the smaller one's. A log only
grows, and an honest mirror cosigns only what begins with what it cosigned before; so neither ever signs both. (That a
proof fails shows nothing: anybody can make one that does. So the root that *is* there is proven.)

``misordered/v1``, ``unfollowed/v1``: the checkpoint is the log's, the entries are proven to be in its tree, and no
state of any market has them follow: a chain counts upwards, the operator's time does not go back, an author signs. An
honest operator admits only what follows.

``broken-promise/v1``: the promise is signed by the key that signs the checkpoint, under its name, and the entries are
in its tree. If another entry stands at the index, the promise is broken for good. Time is the operator's own, in the
marks that it signs: no checkpoint of a tree that ends in a mark past the deadline was due in time, nor is any larger
one, since marks never go back; so a tree that ends before the index shows that nothing covered it in time. And two
entries of the operator's that follow each other in its chain have no third between them, hence no mark, hence no
checkpoint. An honest operator promises later than the last mark's time, so it has to mark in time and no more. A
machine that stood still for longer than it promised has broken its promise: delay needs no intent.

``forked-chain/v1``: both entries are signed by one account, have one place and the same entry before, and differ. The
first place of a chain is left out: one key may begin several logs. This shows what the account signed and no more: who
was refused may sign for the same place again, and a key at work on two machines does so too.

``two-oaths/v1``: the statements differ, are about one log, and one account signed each.
"""

from collections.abc import Sequence
from typing import Final, Literal, TypeAlias, assert_never

from msgspec.structs import replace

from wwwmarket.crypto import canonical
from wwwmarket.crypto.digest import digest
from wwwmarket.crypto.signing import VerifiedEntry, entry_id, open_entry, verify, verify_certified
from wwwmarket.domain.errors import Conflict, Malformed, Refusal
from wwwmarket.domain.evidence import (
    BrokenPromise,
    Fork,
    ForkedChain,
    LogEvidence,
    Misordered,
    Placed,
    TwoOaths,
    Unfollowed,
)
from wwwmarket.domain.identity import NO_ENTRY, AccountId, Digest, EntryId
from wwwmarket.domain.records import Entry, Inclusion, Mark
from wwwmarket.domain.shape import Value
from wwwmarket.ledger.checkpoint import Checkpoint, parse_checkpoint
from wwwmarket.ledger.merkle import Frontier, NodeReader, leaf_hash
from wwwmarket.ledger.note import SignatureType, VerifierKey, open_note, parse_note, parse_verifier_key
from wwwmarket.ledger.proofs import consistency_proof, inclusion_proof, verify_consistency, verify_inclusion

EVIDENCE_BYTES_MAX: Final = 524_288
"""Two entries, whose quotes are escaped once more inside, and a few notes."""

Fault: TypeAlias = Literal[
    "log_forked",
    "mirror_cosigned_both",
    "time_went_back",
    "order_went_back",
    "entry_forged",
    "promise_displaced",
    "promise_overdue",
    "promise_late",
    "chain_forked",
    "sworn_twice",
]


class Guilt(Value):
    """A fault of whoever signs with the key ``accused``, under ``name`` where the key has one."""

    fault: Fault
    accused: AccountId
    name: str
    message: str


def judge(evidence: LogEvidence) -> Guilt:
    """What it proves. Raises a Refusal, as listed above, where it proves nothing."""
    match evidence:
        case Fork():
            guilt = _judge_fork(evidence)
        case Misordered():
            guilt = _judge_order(evidence)
        case Unfollowed():
            guilt = _judge_unfollowed(evidence)
        case BrokenPromise():
            guilt = _judge_promise(evidence)
        case ForkedChain():
            guilt = _judge_chain(evidence)
        case TwoOaths():
            guilt = _judge_oaths(evidence)
        case _:
            assert_never(evidence)
    return guilt


def _judge_fork(evidence: Fork) -> Guilt:
    signer = parse_verifier_key(evidence.signer)
    first, second = _open(evidence.first, signer), _open(evidence.second, signer)
    if first.origin != second.origin:
        raise Conflict("the two checkpoints are of different logs", reason="other_log")
    if first.size > second.size:
        raise Malformed("the first checkpoint is the smaller one")
    if first.size == second.size:
        if first.root == second.root:
            raise Conflict("the two checkpoints say the same", reason="same_tree")
    else:
        if evidence.root is None:
            raise Malformed("of trees of two sizes a proof is due")
        root = bytes.fromhex(evidence.root)
        verify_consistency(first.size, second.size, root, second.root, _hashes(evidence.proof))
        if root == first.root:
            raise Conflict("the larger tree begins with the smaller one", reason="same_tree")
    fault: Fault = "log_forked" if signer.type is SignatureType.ED25519 else "mirror_cosigned_both"
    return Guilt(
        fault=fault,
        accused=signer.account,
        name=signer.name,
        message=f"{signer.name} signed trees of {first.size} and {second.size} entries of {first.origin}, of which "
        "one is not the beginning of the other",
    )


def _judge_order(evidence: Misordered) -> Guilt:
    log, checkpoint = _log(evidence.log, evidence.note)
    first, second = evidence.first, evidence.second
    if first.index >= second.index:
        raise Malformed("the first entry stands before the second")
    before, after = (open_entry(_placed(each, checkpoint)).entry for each in (first, second))
    where = f"entry {second.index} of {log.name}"
    if before.account == after.account and after.seq <= before.seq:
        message = f"{where} is number {after.seq} of its chain, after number {before.seq} at {first.index}"
        return Guilt(fault="order_went_back", accused=log.account, name=log.name, message=message)
    if before.account == after.account == log.account:
        times = [_mark(each).at_ms for each in (before, after)]
        if times[1] < times[0]:
            message = f"{where} marks {times[1]} ms, after {times[0]} ms at {first.index}"
            return Guilt(fault="time_went_back", accused=log.account, name=log.name, message=message)
    raise Conflict("these two entries can follow each other", reason="in_order")


def _judge_unfollowed(evidence: Unfollowed) -> Guilt:
    log, checkpoint = _log(evidence.log, evidence.note)
    leaf = _placed(evidence.entry, checkpoint)
    try:
        open_entry(leaf)
    except Refusal as refusal:
        message = f"entry {evidence.entry.index} of {log.name}: {refusal.message}"
        return Guilt(fault="entry_forged", accused=log.account, name=log.name, message=message[:400])
    raise Conflict(
        "that entry is signed by its author, and stands in the log: audit the log to see whether it follows",
        reason="needs_the_log",
    )


def _judge_promise(evidence: BrokenPromise) -> Guilt:
    promised = verify(evidence.promise)
    promise, log = promised.body, VerifierKey(name=promised.body.origin, account=promised.by)
    checkpoint = _open(evidence.note, log)
    leaves = [_placed(each, checkpoint) for each in evidence.entries]
    fault, message = _breach(promise, log, checkpoint, evidence.entries, leaves)
    return Guilt(fault=fault, accused=log.account, name=log.name, message=message)


def _breach(
    promise: Inclusion, log: VerifierKey, checkpoint: Checkpoint, placed: Sequence[Placed], leaves: Sequence[bytes]
) -> tuple[Fault, str]:
    index = promise.index
    if len(placed) == 1 and placed[0].index == index:
        if _name_of(leaves[0]) == promise.entry:
            raise Conflict("the promised entry stands in its place", reason="kept")
        return "promise_displaced", f"another entry stands at {index} than {promise.entry}, which was promised there"
    last = _own(leaves[-1], log)
    at_ms = _mark(last.entry).at_ms
    if at_ms <= promise.covered_by_ms:
        raise Conflict("that mark is not past the deadline", reason="in_time")
    late_ms = at_ms - promise.covered_by_ms
    if len(placed) == 1:
        if not placed[0].index == checkpoint.size - 1 < index:
            raise Malformed("a mark shows a promise overdue as the last entry of a tree that ends before its index")
        return "promise_overdue", f"{checkpoint.size} entries {late_ms} ms past the deadline of number {index}"
    before = _own(leaves[0], log)
    if not placed[0].index < index < placed[1].index:
        raise Malformed("the promised index is between the two entries")
    if (last.entry.seq, last.entry.prev) != (before.entry.seq + 1, before.id):
        raise Conflict("these two entries do not follow each other in the operator's chain", reason="not_next")
    return "promise_late", f"entry {index} was covered {late_ms} ms past its deadline at the earliest"


def _judge_chain(evidence: ForkedChain) -> Guilt:
    first, second = open_entry(evidence.first.encode()), open_entry(evidence.second.encode())
    places = {(each.entry.account, each.entry.seq, each.entry.prev) for each in (first, second)}
    if len(places) > 1:
        raise Conflict("the two entries are not for one place in one chain", reason="other_place")
    if first.id == second.id:
        raise Conflict("the two entries say the same", reason="same_entry")
    if first.entry.prev == NO_ENTRY:
        raise Conflict("with its first entry a key may begin several logs", reason="other_log")
    account, seq = first.entry.account, first.entry.seq
    message = f"account {account} signed two entries for number {seq} of its chain"
    return Guilt(fault="chain_forked", accused=account, name="", message=message)


def _judge_oaths(evidence: TwoOaths) -> Guilt:
    signers = verify_certified(evidence.first) & verify_certified(evidence.second)
    if len(signers) != 1:
        raise Malformed("two oaths are those of one mirror")
    first, second = evidence.first.body, evidence.second.body
    if first.origin != second.origin:
        raise Conflict("the two oaths are about different logs", reason="other_log")
    if first == second:
        raise Conflict("the two oaths say the same", reason="same_oath")
    message = f"one mirror swore that {first.successor} and that {second.successor} follows {first.origin}"
    return Guilt(fault="sworn_twice", accused=min(signers), name="", message=message)


def _log(key: str, note: str) -> tuple[VerifierKey, Checkpoint]:
    log = parse_verifier_key(key)
    if log.type is not SignatureType.ED25519:
        raise Malformed("that is a cosigner's key, and not a log's")
    checkpoint = _open(note, log)
    if checkpoint.origin != log.name:
        raise Conflict(f"a checkpoint of {checkpoint.origin} where one of {log.name} is due", reason="other_log")
    return log, checkpoint


def _open(note: str, signer: VerifierKey) -> Checkpoint:
    """What ``signer`` signed, alone or with others. Raises Malformed, Unauthorised."""
    return parse_checkpoint(open_note(note.encode(), [signer]).text)


def _placed(placed: Placed, checkpoint: Checkpoint) -> bytes:
    """The leaf. Raises Malformed: it is not shown to stand there."""
    proof = _hashes(placed.proof)
    verify_inclusion(placed.index, checkpoint.size, leaf_hash(placed.leaf), proof, checkpoint.root)
    return placed.leaf


def _hashes(proof: Sequence[str]) -> list[bytes]:
    return [bytes.fromhex(each) for each in proof]


def _own(leaf: bytes, log: VerifierKey) -> VerifiedEntry:
    verified = open_entry(leaf)
    if verified.entry.account != log.account:
        raise Conflict("that entry is not the operator's", reason="not_operator")
    return verified


def _mark(entry: Entry) -> Mark:
    return canonical.decode(bytes(entry.body), Mark, bytes_max=canonical.ENTRY_BYTES_MAX)


def _name_of(leaf: bytes) -> EntryId | None:
    try:
        return entry_id(canonical.decode(leaf, Entry, bytes_max=canonical.ENTRY_BYTES_MAX))
    except Refusal:
        return None


# Making it


def make_fork(signer: VerifierKey, notes: Sequence[bytes], node: NodeReader | None = None) -> Fork:
    """Of two notes; ``node`` reads the larger tree, where sizes differ. It proves nothing until ``judge`` says so.

    Raises:
        Malformed: not two checkpoints.
    """
    small, large = sorted(notes, key=lambda note: parse_checkpoint(parse_note(note).text).size)
    old, new = (parse_checkpoint(parse_note(note).text).size for note in (small, large))
    fork = Fork(signer=signer.text, first=small.decode(), second=large.decode())
    if old == new:
        return fork
    assert node is not None, "of two sizes the larger tree is read"
    root = Frontier.read(old, node).root()
    return replace(fork, root=Digest(root.hex()), proof=_texts(consistency_proof(old, new, node)))


def place(leaf: bytes, index: int, size: int, node: NodeReader) -> Placed:
    """An entry in the tree of ``size`` entries that ``node`` reads."""
    return Placed(leaf=leaf, index=index, proof=_texts(inclusion_proof(index, size, node)))


def name_of(evidence: LogEvidence) -> str:
    """What to keep it under: the same thing said twice has one name."""
    kind = str(evidence.__struct_config__.tag).partition("/")[0]
    return f"{kind}-{digest(evidence)[:16]}"


def _texts(proof: Sequence[bytes]) -> tuple[Digest, ...]:
    return tuple(Digest(each.hex()) for each in proof)
