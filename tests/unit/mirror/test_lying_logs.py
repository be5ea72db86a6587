"""What a lying orderer cannot get cosigned, case by case; and what it leaves behind."""

import pytest
from msgspec.structs import replace

from tests.unit.mirror.world import CONFIG, House, LyingLog, honest
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, RIVAL, STRANGER
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign_entry
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.records import Entry, Mark, Transfer
from wwwmarket.ledger.evidence import judge
from wwwmarket.ledger.note import parse_signatures
from wwwmarket.ledger.proofs import Proof
from wwwmarket.ledger.witness import CosignRequest
from wwwmarket.mirror.events import Cosigned, Refused


def refused(answer, reason: str) -> Refused:
    assert isinstance(answer, Refused), answer
    assert answer.reason == reason, answer
    return answer


FAULTS = {
    "forged": "entry_forged",
    "replayed": "order_went_back",
    "reordered": "needs_the_log",
    "back-dated": "time_went_back",
}


def guilt(evidence) -> str:
    try:
        return judge(evidence).fault
    except Refusal as refusal:
        return refusal.reason


def pay(log: LyingLog, amount: int = 1) -> LyingLog:
    log.add(CLIENT, Transfer(to=RIVAL.account, amount_micro=amount))
    return log


def test_an_honest_log_is_cosigned_as_it_grows():
    """Each cosignature is the mirror's own, over the very checkpoint; what was signed is on the disk first."""
    house, log = House(), honest()
    for step in range(3):
        answer = house.ask(log)
        assert isinstance(answer, Cosigned)
        (line,) = parse_signatures(answer.lines)
        assert line.name == house.cosigner.verifier.name
        assert house.disk.leaves == log.leaves
        pay(log).mark(NOW + 10 + step)
    assert not house.evidence


def test_a_fork_is_not_cosigned_and_leaves_both_notes():
    """Two trees of one size: the second is refused, and the two notes are the evidence."""
    house, log = House(), honest()
    other = pay(log.fork(4), 6)
    other.mark(NOW + 1)
    pay(log.fork())
    assert isinstance(house.ask(log), Cosigned)
    while len(other.leaves) < len(log.leaves):
        other.mark(NOW + 2)
    refused(house.ask(other, old=house.mirror.cosigned_size), "other_size")
    (kept,) = house.evidence
    assert judge(kept).fault == "log_forked"


def test_a_rewritten_history_is_not_consistent():
    """A longer log with another past: no proof leads there."""
    house, log = House(), honest()
    house.ask(log)
    other = pay(log.fork(4), 6)
    other.mark(NOW + 5)
    for _ in range(5):
        pay(other)
    other.mark(NOW + 9)
    refused(house.ask(other), "not_consistent")
    assert house.disk.leaves == log.leaves
    (kept,) = house.evidence
    assert judge(kept).fault == "log_forked"


@pytest.mark.parametrize("fault", ["dropped", "reordered", "forged", "replayed", "back-dated", "wrong root"])
def test_entries_that_do_not_follow_condemn_their_log(fault):
    """The tree is right, and what is in it is not: nothing is cosigned, now or ever after."""
    house, log = House(), honest()
    house.ask(log)
    one = log.entry(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
    ahead = log.fork()
    ahead.add_leaf(one)
    two = ahead.entry(CLIENT, Transfer(to=RIVAL.account, amount_micro=2))
    match fault:
        case "dropped":
            log.forge(two)
        case "reordered":
            log.forge(two)
            log.forge(one)
        case "forged":
            entry = canonical.decode(one, Entry)
            log.forge(canonical.encode(replace(entry, signature="0" * 128)))
        case "replayed":
            log.add_leaf(one)
            log.forge(one)
        case "back-dated":
            log.forge(log.entry(OPERATOR, Mark(at_ms=NOW - 5, state_root=log.state.root())))
        case "wrong root":
            log.forge(log.entry(OPERATOR, Mark(at_ms=NOW + 5, state_root="0" * 64)))
    head = log.state.chain_head(OPERATOR.account)
    mark = Mark(at_ms=NOW + 9, state_root=log.state.root())
    log.forge(canonical.encode(sign_entry(OPERATOR, seq=head.next_seq, prev=head.prev, body=mark)))
    refused(house.ask(log), "does_not_follow")
    assert house.mirror.condemned
    (kept,) = house.evidence
    assert guilt(kept) == FAULTS.get(fault, "needs_the_log")
    house.revive()
    refused(house.ask(log), "does_not_follow")


def test_time_is_this_mirrors_within_a_tolerance():
    """A mark far ahead of the clock, or far behind, is not cosigned; once the clock is there it is."""
    house, log = House(), honest()
    log.mark(NOW + CONFIG.time_ahead_max_ms + 1)
    refused(house.ask(log), "other_time")
    house.now_ms = NOW + 1_000
    assert isinstance(house.ask(log), Cosigned)
    late, log = House(), honest()
    late.now_ms = NOW + CONFIG.time_behind_max_ms + 5_000
    refused(late.ask(log), "other_time")


def test_a_checkpoint_ends_in_a_mark():
    """Without it the state of the last entries would be nobody's word."""
    house, log = House(), honest()
    refused(house.ask(pay(log)), "does_not_follow")


def test_another_log_and_another_key_are_strangers():
    """By name not known, by key not signed."""
    house = House()
    refused(house.ask(LyingLog(honest().leaves, origin="other.example/log")), "unknown_log")
    refused(house.ask(LyingLog(honest().leaves, signer=STRANGER)), "bad_signature")


def test_sizes_never_go_back():
    """A smaller tree, or an old size that is not the one cosigned last, is answered with that one."""
    house, log = House(), honest()
    first = len(log.leaves)
    house.ask(log)
    pay(log).mark(NOW + 5)
    house.ask(log)
    assert refused(house.ask(log, first, old=0), "other_size").size == len(log.leaves)
    refused(house.ask(log, old=first), "other_size")
    refused(house.offer(CosignRequest(old=len(log.leaves) + 1, proof=Proof(()), note=log.note()), log), "malformed")


def test_a_proof_of_wrong_length_is_refused():
    """Shorter, longer, or of other hashes."""
    house, log = House(), honest()
    house.ask(log)
    pay(log).mark(NOW + 5)
    right = log.request(house.mirror.cosigned_size)
    for wrong in (right.proof[:-1], (*right.proof, b"\0" * 32), tuple(b"\1" * 32 for _ in right.proof)):
        refused(house.offer(replace(right, proof=Proof(wrong)), log), "not_consistent")
    assert isinstance(house.offer(right, log), Cosigned)


def test_after_a_restart_nothing_else_is_cosigned():
    """What was cosigned is on the disk: another tree of that size is refused by the next life too."""
    house, log = House(), honest()
    house.ask(log)
    other = pay(log.fork(4), 6)
    while len(other.leaves) < len(log.leaves):
        other.mark(NOW + 2)
    house.revive()
    refused(house.ask(other, old=len(log.leaves)), "other_size")
    assert open_entry(house.disk.leaves[0]).entry.account == OPERATOR.account
