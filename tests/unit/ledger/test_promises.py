"""Promises watched against a log as it comes: each broken one is proven once, and no kept one is ever accused."""

import pytest

from tests.unit.mirror.world import LyingLog, honest
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, RIVAL
from wwwmarket.crypto.signing import open_entry, sign
from wwwmarket.domain.records import Inclusion, Signed, Transfer
from wwwmarket.ledger.evidence import judge
from wwwmarket.ledger.promises import Promises, make_evidence
from wwwmarket.rules.check import check

ORIGIN = honest().signer.verifier.name


def pay(log: LyingLog, amount: int = 1) -> int:
    log.add(CLIENT, Transfer(to=RIVAL.account, amount_micro=amount))
    return len(log.leaves) - 1


def promise(log: LyingLog, index: int, covered_by_ms: int) -> Signed[Inclusion]:
    name = open_entry(log.leaves[index]).id
    return sign(OPERATOR, Inclusion(entry=name, origin=ORIGIN, index=index, covered_by_ms=covered_by_ms)).signed


def watched(log: LyingLog, promises, *, sizes=None) -> list[str]:
    """The faults that are proven when the log comes entry by entry, with a checkpoint after each mark."""
    watch, faults = Promises(), []
    for each in promises:
        watch.promised(each)
    for index, leaf in enumerate(log.leaves):
        entry = open_entry(leaf)
        body = check(entry).body
        watch.applied(index, entry.id, entry.entry.account, body, OPERATOR.account)
        size = index + 1
        if type(body).__name__ == "Mark" and (sizes is None or size in sizes):
            for breach in watch.covered(size):
                leaves = [log.leaves[place] for place in breach.indices]
                faults.append(judge(make_evidence(breach, log.note(size), size, leaves, log.node)).fault)
    return faults


def test_a_kept_promise_is_forgotten():
    """Covered in time, be it at the last millisecond."""
    log = honest()
    index = pay(log)
    log.mark(NOW + 5_000)
    assert watched(log, [promise(log, index, NOW + 5_000)]) == []


def test_another_entry_in_the_place_is_proven():
    """By the next checkpoint that covers it."""
    log, other = honest(), honest()
    index = pay(log)
    pay(other, 5)
    other.mark(NOW + 2)
    other.mark(NOW + 3)
    assert watched(other, [promise(log, index, NOW + 5_000)]) == ["promise_displaced"]


@pytest.mark.parametrize("between", [0, 1, 3])
def test_a_late_mark_is_proven(between):
    """By it and the operator's entry before; once, whatever follows."""
    log = honest()
    indices = [pay(log) for _ in range(1 + between)]
    log.mark(NOW + 5_001)
    log.mark(NOW + 6_000)
    promises = [promise(log, indices[0], NOW + 5_000), promise(log, indices[-1], NOW + 6_000)]
    assert watched(log, promises[:1]) == ["promise_late"]
    assert watched(log, promises[1:]) == []


def test_a_withheld_entry_is_proven():
    """Marks go on past the deadline, and the promised index is not there yet."""
    log, other = honest(), honest()
    pay(log)
    index = pay(log)
    other.mark(NOW + 4_000)
    other.mark(NOW + 5_001)
    beyond = promise(log, index, NOW + 5_000)
    assert index == len(other.leaves) - 1
    late = sign(OPERATOR, Inclusion(entry=beyond.body.entry, origin=ORIGIN, index=index + 1, covered_by_ms=NOW + 5_000))
    assert watched(other, [late.signed]) == ["promise_overdue"]
    assert watched(other, [late.signed], sizes={len(other.leaves) - 1}) == []


def test_an_entry_may_be_here_before_its_promise():
    """Until a mark covers it, it is held to the promise all the same; after that it can be looked up."""
    log, other = honest(), honest()
    index = pay(log)
    pay(other, 5)
    said = promise(log, index, NOW + 5_000)
    other.mark(NOW + 5_001)
    for told_at, faults in ((index + 1, ["promise_displaced"]), (index + 2, [])):
        watch = Promises()
        for place, leaf in enumerate(other.leaves):
            if place == told_at:
                watch.promised(said)
            entry = check(open_entry(leaf))
            watch.applied(place, entry.id, entry.account, entry.body, OPERATOR.account)
        if told_at == len(other.leaves):
            watch.promised(said)
        size = len(other.leaves)
        shown = watch.covered(size)
        made = [
            make_evidence(one, other.note(), size, [other.leaves[at] for at in one.indices], other.node)
            for one in shown
        ]
        assert [judge(each).fault for each in made] == faults


def test_of_two_entries_that_are_promised_one_place_one_is_displaced():
    """Whichever comes first, and whichever stands there in the end."""
    log, other = honest(), honest()
    index = pay(log)
    pay(other, 5)
    log.mark(NOW + 2)
    both = [promise(each, index, NOW + 5_000) for each in (log, other)]
    assert watched(log, both) == watched(log, both[::-1]) == ["promise_displaced"]


def test_a_second_promise_of_an_entry_takes_nothing_back():
    """The earlier deadline holds, be it said first or last."""
    log = honest()
    index = pay(log)
    log.mark(NOW + 5_001)
    both = [promise(log, index, NOW + within_ms) for within_ms in (5_000, 9_000)]
    assert watched(log, both) == watched(log, both[::-1]) == ["promise_late"]


def test_the_operator_own_entries_cover_nothing():
    """Until a mark does, a promise is taken though the operator wrote after its place."""
    log, other = honest(), honest()
    index = pay(log)
    pay(other, 5)
    other.add(OPERATOR, Transfer(to=RIVAL.account, amount_micro=1))
    watch = Promises()
    for place, leaf in enumerate(other.leaves):
        entry = check(open_entry(leaf))
        watch.applied(place, entry.id, entry.account, entry.body, OPERATOR.account)
    watch.promised(promise(log, index, NOW + 5_000))
    assert [each.indices for each in watch.covered(len(other.leaves))] == [(index,)]
