"""Whether another source shows the same log: what the audit of one copy cannot see (check 17).

A log that shows one history to you and another to me passes every other check with both of us. Here two checkpoints of
it are held against each other by the tiles of the larger tree: that begins with the smaller one, or the log's own
signatures prove what it did (``fork/v1``). A few tiles are read, however long the log is.

A checkpoint under a name that the log had before (``succession/v1``) may cover more than the log went on from: that was
never final, and is nobody's fault.
"""

from collections.abc import Iterator, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

from wwwmarket.domain.committee import Committee
from wwwmarket.domain.errors import Malformed, Refusal, Unauthorised
from wwwmarket.domain.evidence import Fork
from wwwmarket.ledger.checkpoint import Checkpoint, open_checkpoint, parse_checkpoint
from wwwmarket.ledger.evidence import judge, make_fork
from wwwmarket.ledger.merkle import EMPTY_ROOT, Frontier, NodeReader
from wwwmarket.ledger.note import VerifierKey, parse_note
from wwwmarket.ledger.proofs import consistency_proof, verify_consistency
from wwwmarket.ledger.quorum import cosigner_keys
from wwwmarket.ledger.tiles import TileId, TileReader, path_of
from wwwmarket.market.audit.reading import Log, read_note, read_tile

Verdict: TypeAlias = Literal["agrees", "differs", "unproven", "other_log", "superseded", "out_of_reach"]
"""``unproven``: its tiles do not show what its checkpoint covers. ``superseded``: it goes on under a former name."""

FAULTS: Final = frozenset({"differs", "unproven", "other_log"})


class Shown(NamedTuple):
    """What a source shows: its checkpoint's bytes, and where its tiles are read."""

    note: bytes
    log: Log


class Copy(NamedTuple):
    """What came of a comparison, in words for people; ``size`` is that of the other source's checkpoint."""

    verdict: Verdict
    message: str
    size: int | None = None
    evidence: tuple[Fork, ...] = ()


def compare(audited: Shown, other: Log, keys: Sequence[VerifierKey], committee: Committee) -> Copy:
    """Hold ``other`` against what was audited; ``keys`` are those that the log has had, the one in force last.

    Raises:
        Malformed, Unauthorised: what was audited is no checkpoint by one of them, and there is nothing to hold to.
    """
    mine = _open(audited.note, keys)
    try:
        shown = Shown(read_note(other), other)
        theirs = _open(shown.note, keys)
    except (Malformed, Unauthorised) as refusal:
        return Copy("other_log", refusal.message)
    except Refusal as refusal:
        return Copy("out_of_reach", refusal.message)
    small, large, source = (mine, theirs, shown) if mine.size < theirs.size else (theirs, mine, audited)
    node = TileReader(large.size, lambda tile: _fetch(source.log, tile))
    try:
        agrees = _beginning(small.size, large, node) == small.root
    except Malformed as refusal:
        whose = "its" if source is shown else "the audited source's"
        message = f"{whose} tiles do not show a tree of {large.size} entries: {refusal.message}"
        return Copy("unproven", message, theirs.size)
    except Refusal as refusal:
        return Copy("out_of_reach", refusal.message, theirs.size)
    if agrees:
        message = f"{theirs.size} entries, consistent with the {mine.size} that were audited"
        return Copy("agrees", message, theirs.size)
    return _differs(
        (mine, audited.note), (theirs, shown.note), node, [_key_named(mine.origin, keys), *cosigner_keys(committee)]
    )


def _differs(
    mine: tuple[Checkpoint, bytes], theirs: tuple[Checkpoint, bytes], node: NodeReader, signers: Sequence[VerifierKey]
) -> Copy:
    """Two trees of which neither is the beginning of the other."""
    (ours, first), (other, second) = mine, theirs
    if ours.origin != other.origin:
        message = f"{other.size} entries under another of the log's names, {other.origin}, not all of them final"
        return Copy("superseded", message, other.size)
    message = f"{other.size} entries that do not agree with the {ours.size} that were audited, signed by the same log"
    return Copy("differs", message, other.size, tuple(_proven(signers, [first, second], node)))


def _open(note: bytes, keys: Sequence[VerifierKey]) -> Checkpoint:
    """Raises Malformed, Unauthorised."""
    origin = parse_checkpoint(parse_note(note).text).origin
    return open_checkpoint(note, _key_named(origin, keys)).checkpoint


def _key_named(origin: str, keys: Sequence[VerifierKey]) -> VerifierKey:
    key = next((key for key in keys if key.name == origin), None)
    if key is None:
        raise Malformed(f"it shows the log {origin}, and not {keys[-1].name}: has the log changed hands since?")
    return key


def _beginning(size: int, whole: Checkpoint, node: NodeReader) -> bytes:
    """The root that the tree had at ``size`` entries, proven under ``whole``. Raises Malformed, Unavailable."""
    if size == 0:
        return EMPTY_ROOT
    if size == whole.size:
        return whole.root
    root = Frontier.read(size, node).root()
    verify_consistency(size, whole.size, root, whole.root, consistency_proof(size, whole.size, node))
    return root


def _proven(signers: Sequence[VerifierKey], notes: Sequence[bytes], node: NodeReader) -> Iterator[Fork]:
    """Against the log, and against each who cosigned both."""
    for signer in signers:
        fork = make_fork(signer, notes, node)
        try:
            judge(fork)
        except Refusal:
            continue
        yield fork


def _fetch(log: Log, tile: TileId) -> bytes:
    content = read_tile(log, tile)
    if content is None:
        raise Malformed(f"{path_of(tile)} is missing")
    return content
