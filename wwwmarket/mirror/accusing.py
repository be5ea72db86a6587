"""What proves a log's fault to a stranger, made of what a mirror saw and of the log's own tiles."""

from collections.abc import Iterator

from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.evidence import Fork, LogEvidence, Misordered, Unfollowed
from wwwmarket.ledger.checkpoint import parse_checkpoint
from wwwmarket.ledger.evidence import judge, make_fork, place
from wwwmarket.ledger.merkle import NodeReader, peaks_of
from wwwmarket.ledger.note import VerifierKey, parse_note
from wwwmarket.ledger.proofs import consistency_nodes, inclusion_nodes
from wwwmarket.mirror.events import Accuse, Compare


def size_of(note: bytes) -> int:
    return parse_checkpoint(parse_note(note).text).size


def nodes_for(case: Compare | Accuse, earlier: int | None) -> list[tuple[int, int]]:
    """The nodes that the evidence is made of, in the tree of the note that is accused."""
    if isinstance(case, Compare):
        old, new = size_of(case.first), size_of(case.second)
        return [*peaks_of(0, old), *consistency_nodes(old, new)]
    size = size_of(case.note)
    indices = [case.index] if earlier is None else [earlier, case.index]
    return [node for index in indices for node in inclusion_nodes(index, size)]


def make_evidence(
    log: VerifierKey, case: Compare | Accuse, node: NodeReader, earlier: tuple[int, bytes] | None = None
) -> LogEvidence | None:
    """What proves the case, if anything does; of an entry, at least what binds the log to what a replay refuses.

    ``earlier`` is the entry that ``case.before`` names, with its index.

    Raises:
        Refusal: ``node`` cannot be read.
    """
    made = list(_candidates(log, case, node, earlier))
    for evidence in made:
        if is_proven(evidence):
            return evidence
    return None if isinstance(case, Compare) else made[0]


def is_proven(evidence: LogEvidence) -> bool:
    try:
        judge(evidence)
    except Refusal:
        return False
    return True


def _candidates(
    log: VerifierKey, case: Compare | Accuse, node: NodeReader, earlier: tuple[int, bytes] | None
) -> Iterator[Fork | Unfollowed | Misordered]:
    if isinstance(case, Compare):
        yield make_fork(log, [case.first, case.second], node)
        return
    size, note = size_of(case.note), case.note.decode()
    placed = place(case.leaf, case.index, size, node)
    yield Unfollowed(log=log.text, note=note, entry=placed)
    if earlier is not None:
        index, leaf = earlier
        yield Misordered(log=log.text, note=note, first=place(leaf, index, size, node), second=placed)
