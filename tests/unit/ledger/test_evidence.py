"""What evidence about a log proves from itself, and what it does not: each refusal by a near miss."""

import pytest
from msgspec.structs import replace

from tests.unit.mirror.test_succession import NAMES, certified, governed, succession
from tests.unit.mirror.world import LyingLog, honest
from tests.unit.rules.world import ADDRESS, CLIENT, NOW, OPERATOR, PROVIDER, RIVAL, STRANGER, key
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign, sign_entry
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.evidence import BrokenPromise, Fork, ForkedChain, LogEvidence, Misordered, TwoOaths, Unfollowed
from wwwmarket.domain.records import Entry, Inclusion, Mark, Transfer
from wwwmarket.ledger.checkpoint import cosign_checkpoint, open_checkpoint, with_cosignatures
from wwwmarket.ledger.evidence import EVIDENCE_BYTES_MAX, Guilt, judge, make_fork, name_of, place
from wwwmarket.ledger.note import Cosigner

LOG = honest().signer.verifier


def pay(log: LyingLog, amount: int = 1) -> LyingLog:
    log.add(CLIENT, Transfer(to=RIVAL.account, amount_micro=amount))
    return log


def proven(evidence: LogEvidence) -> Guilt:
    """Judged as a file would be: from its bytes."""
    data = canonical.encode(evidence)
    assert len(data) <= EVIDENCE_BYTES_MAX
    return judge(canonical.decode(data, LogEvidence, bytes_max=EVIDENCE_BYTES_MAX))


def refused(evidence: LogEvidence) -> str:
    with pytest.raises(Refusal) as refusal:
        proven(evidence)
    return refusal.value.reason


def placed(log: LyingLog, index: int, size: int | None = None):
    return place(log.leaves[index], index, len(log.leaves) if size is None else size, log.node)


def promise(log: LyingLog, leaf: bytes, index: int, covered_by_ms: int, by=OPERATOR):
    body = Inclusion(
        entry=open_entry(leaf).id, origin=log.signer.verifier.name, index=index, covered_by_ms=covered_by_ms
    )
    return sign(by, body).signed


# Forks


def test_two_notes_of_one_size_with_two_roots_prove_a_fork():
    """Whoever signed both is guilty; the same tree twice is nobody's fault, and another's note accuses nobody."""
    log, other = pay(honest(4)), pay(honest(4), 2)
    evidence = make_fork(LOG, [log.note(), other.note()])
    assert proven(evidence).fault == "log_forked"
    assert proven(evidence).accused == OPERATOR.account
    assert refused(make_fork(LOG, [log.note(), log.note()])) == "same_tree"
    stranger = LyingLog(other.leaves, signer=STRANGER)
    assert refused(make_fork(LOG, [log.note(), stranger.note()])) == "unauthorised"


@pytest.mark.parametrize("old", range(2, 10))
def test_a_longer_tree_with_another_beginning_proves_a_fork(old):
    """By the root that the longer one does begin with, at powers of two as well; one that grew proves nothing."""
    log, other = honest(12), honest(12)
    log.leaves[1], other.leaves[1] = b"one", b"another"
    evidence = make_fork(LOG, [log.note(old), other.note()], other.node)
    assert proven(evidence).fault == "log_forked"
    assert refused(make_fork(LOG, [other.note(old), other.note()], other.node)) == "same_tree"
    assert refused(replace(evidence, root="0" * 64)) == "bad_proof"
    assert refused(replace(evidence, root=None)) == "malformed"
    assert refused(replace(evidence, proof=evidence.proof[:-1])) == "bad_proof"


def test_a_mirror_that_cosigned_both_sides_is_guilty_itself():
    """By its own key, whatever the log did; one cosignature is not two."""
    log, other = pay(honest(4)), pay(honest(4), 2)
    cosigner = Cosigner("mirror.example/a", key("mirror.example/a"))
    notes = []
    for each in (log, other):
        note = open_checkpoint(each.note(), LOG)
        notes.append(with_cosignatures(note.note, [cosign_checkpoint(cosigner, note, timestamp_s=NOW // 1000)]))
    evidence = make_fork(cosigner.verifier, notes)
    assert proven(evidence).fault == "mirror_cosigned_both"
    assert proven(evidence).accused == key("mirror.example/a").account
    assert refused(make_fork(cosigner.verifier, [notes[0], other.note()])) == "unauthorised"


def test_two_logs_are_not_one_fork():
    """One key may sign for two names."""
    log, other = honest(), LyingLog(honest(4).leaves, origin="test.example/other")
    cosigner = Cosigner("mirror.example/a", key("mirror.example/a"))
    notes = []
    for each in (log, other):
        note = open_checkpoint(each.note(), each.signer.verifier)
        notes.append(with_cosignatures(note.note, [cosign_checkpoint(cosigner, note, timestamp_s=NOW // 1000)]))
    assert refused(make_fork(cosigner.verifier, notes, other.node)) == "other_log"


# Entries that cannot stand there


def test_a_log_that_holds_a_forged_entry_is_guilty():
    """Bytes that are no entry, and one that its author did not sign; an honest one is no evidence."""
    log = honest()
    for leaf in (b"\xff\x00", canonical.encode(replace(canonical.decode(log.leaves[2], Entry), signature="0" * 128))):
        false = log.fork()
        false.forge(leaf)
        evidence = Unfollowed(log=LOG.text, note=false.note().decode(), entry=placed(false, len(log.leaves)))
        assert proven(evidence).fault == "entry_forged"
        assert refused(replace(evidence, entry=placed(false, 2))) == "needs_the_log"
        assert refused(replace(evidence, note=log.note().decode())) == "bad_proof"


def test_a_log_that_replays_or_reorders_is_guilty():
    """An account's later entry is no later in its chain."""
    log = honest()
    log.forge(log.leaves[2])
    last = len(log.leaves) - 1
    evidence = Misordered(log=LOG.text, note=log.note().decode(), first=placed(log, 2), second=placed(log, last))
    assert proven(evidence).fault == "order_went_back"
    assert refused(replace(evidence, second=placed(log, 3))) == "in_order"
    assert refused(replace(evidence, first=placed(log, last), second=placed(log, 2))) == "malformed"


def test_a_log_whose_marks_go_back_is_guilty():
    """By the operator's own two marks."""
    log = honest()
    log.forge(log.entry(OPERATOR, Mark(at_ms=NOW - 5, state_root="0" * 64)))
    last = len(log.leaves) - 1
    evidence = Misordered(log=LOG.text, note=log.note().decode(), first=placed(log, 1), second=placed(log, last))
    assert proven(evidence).fault == "time_went_back"
    assert refused(replace(evidence, second=placed(log, last - 1))) == "in_order"


# Promises


def test_another_entry_at_the_promised_index_breaks_the_promise():
    """At any time; the promised one there keeps it."""
    log = honest()
    other = log.fork()
    pay(log)
    pay(other, 5)
    index = len(log.leaves) - 1
    said = promise(log, log.leaves[index], index, NOW + 5_000)
    other.mark(NOW + 2)
    evidence = BrokenPromise(promise=said, note=other.note().decode(), entries=(placed(other, index),))
    assert proven(evidence).fault == "promise_displaced"
    kept = replace(evidence, note=log.note().decode(), entries=(placed(log, index),))
    assert refused(kept) == "kept"
    assert (
        refused(replace(evidence, promise=promise(log, log.leaves[index], index, NOW, by=STRANGER))) == "unauthorised"
    )


def test_a_tree_that_ends_before_the_index_after_the_deadline_breaks_the_promise():
    """By the operator's own time; before the deadline, or with a larger tree, it shows nothing."""
    log = honest()
    leaf = log.entry(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
    log.mark(NOW + 6_000)
    last = len(log.leaves) - 1
    evidence = BrokenPromise(
        promise=promise(log, leaf, last + 1, NOW + 5_000), note=log.note().decode(), entries=(placed(log, last),)
    )
    assert proven(evidence).fault == "promise_overdue"
    assert refused(replace(evidence, promise=promise(log, leaf, last + 1, NOW + 6_000))) == "in_time"
    assert refused(replace(evidence, promise=promise(log, leaf, last - 1, NOW + 5_000))) == "malformed"
    assert refused(replace(evidence, entries=(placed(log, 2),))) == "not_operator"


def test_the_first_mark_after_the_index_past_the_deadline_breaks_the_promise():
    """Two entries of the operator's that follow each other leave no mark between them."""
    log = honest()
    before = len(log.leaves) - 1
    pay(log)
    log.mark(NOW + 6_000)
    index, after = before + 1, before + 2
    log.mark(NOW + 7_000)
    evidence = BrokenPromise(
        promise=promise(log, log.leaves[index], index, NOW + 5_000),
        note=log.note().decode(),
        entries=(placed(log, before), placed(log, after)),
    )
    assert proven(evidence).fault == "promise_late"
    assert refused(replace(evidence, entries=(placed(log, before), placed(log, after + 1)))) == "not_next"
    assert refused(replace(evidence, promise=promise(log, log.leaves[index], index, NOW + 6_000))) == "in_time"
    assert refused(replace(evidence, promise=promise(log, log.leaves[index], before - 1, NOW + 5_000))) == "malformed"


# Accounts and mirrors


def test_two_entries_for_one_place_fork_a_chain():
    """Of one account, after one entry; another place, another account, the first place, or the same entry twice do not."""
    head = honest().state.chain_head(CLIENT.account)
    one, two, later = (
        canonical.encode(sign_entry(CLIENT, seq=seq, prev=prev, body=Transfer(to=RIVAL.account, amount_micro=amount)))
        for seq, prev, amount in ((3, head.prev, 1), (3, head.prev, 2), (4, head.prev, 2))
    )
    evidence = ForkedChain(first=one.decode(), second=two.decode())
    assert proven(evidence).fault == "chain_forked"
    assert proven(evidence).accused == CLIENT.account
    assert refused(replace(evidence, second=later.decode())) == "other_place"
    assert refused(replace(evidence, second=one.decode())) == "same_entry"
    other = sign_entry(PROVIDER, seq=3, prev=head.prev, body=Transfer(to=RIVAL.account, amount_micro=2))
    assert refused(replace(evidence, second=canonical.encode(other).decode())) == "other_place"
    begun = [
        canonical.encode(sign_entry(CLIENT, seq=0, prev="0" * 64, body=Transfer(to=RIVAL.account, amount_micro=n)))
        for n in (1, 2)
    ]
    assert refused(ForkedChain(first=begun[0].decode(), second=begun[1].decode())) == "other_log"


def test_two_oaths_of_one_mirror_are_one_too_many():
    """About one log; the same oath twice, or oaths of two mirrors, are not."""
    log = governed()
    first, second = succession(log), succession(log, operator=STRANGER.account, operator_address=ADDRESS)
    evidence = TwoOaths(first=certified(first, NAMES[:1]), second=certified(second, NAMES[:1]))
    assert proven(evidence).fault == "sworn_twice"
    assert refused(replace(evidence, second=evidence.first)) == "same_oath"
    assert refused(replace(evidence, second=certified(second, NAMES[1:2]))) == "malformed"
    other = replace(second, origin="test.example/other")
    assert refused(replace(evidence, second=certified(other, NAMES[:1]))) == "other_log"


def test_the_same_evidence_has_one_name():
    """So that a fault that is seen again and again is kept once."""
    log, other = pay(honest(4)), pay(honest(4), 2)
    names = {name_of(make_fork(LOG, notes)) for notes in ([log.note(), other.note()], [log.note(), other.note()])}
    assert len(names) == 1
    assert isinstance(make_fork(LOG, [log.note(), other.note()]), Fork)
