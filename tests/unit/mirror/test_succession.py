"""A log changes hands: what mirrors swear to, and that nobody follows two successors."""

import pytest
from msgspec.structs import replace

from tests.unit.mirror.world import House, LyingLog, committee_of, honest
from tests.unit.rules.world import ADDRESS, CLIENT, NOW, RIVAL, STRANGER, key
from wwwmarket.crypto.signing import certify
from wwwmarket.domain.errors import Conflict, Forbidden
from wwwmarket.domain.records import Certified, Decree, Succession, Transfer
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.mirror.events import Cosigned, Refused

NAMES = [f"mirror.example/{letter}" for letter in "abcd"]
SUCCESSOR = key("successor")
NEXT = "test.example/log2"


def governed(entries: int = 3) -> LyingLog:
    return honest(entries, committee=committee_of(NAMES))


def succession(log: LyingLog, size: int | None = None, **changes) -> Succession:
    count = len(log.leaves) if size is None else size
    proposed = Succession(
        origin=log.state.origin,
        number=log.state.governance.decrees,
        size=count,
        root=root_of(map(leaf_hash, log.leaves[:count])).hex(),
        successor=NEXT,
        operator=SUCCESSOR.account,
        operator_address=ADDRESS,
    )
    return replace(proposed, **changes)


def certified(proposed: Succession, names=NAMES[:3]) -> Certified[Succession]:
    signatures = sorted((certify(key(f"account of {name}"), proposed) for name in names), key=lambda one: one.signer)
    return Certified(body=proposed, signatures=tuple(signatures))


def succeeded(log: LyingLog, decreed: Certified[Succession]) -> LyingLog:
    """The new operator's log: the decree, and a mark."""
    after = LyingLog(log.leaves[: decreed.body.size], signer=SUCCESSOR, origin=decreed.body.successor)
    after.add(SUCCESSOR, Decree(resolution=decreed))
    after.mark(NOW + 20, SUCCESSOR)
    return after


def refused(answer, reason: str) -> None:
    assert isinstance(answer, Refused), answer
    assert answer.reason == reason, answer


def test_a_mirror_that_has_sworn_cosigns_nothing_more_of_the_old_name():
    """Not the checkpoint that it cosigned last, and none that follows; and it swears to no second successor."""
    house, log = House(NAMES[0]), governed()
    assert isinstance(house.ask(log), Cosigned)
    oath = succession(log)
    house.mirror.check_oath(oath)
    house.mirror.swear(oath)
    house.mirror.check_oath(oath)
    with pytest.raises(Conflict) as refusal:
        house.mirror.check_oath(replace(oath, operator=STRANGER.account))
    assert refusal.value.reason == "succeeded"
    refused(house.ask(log), "succeeded")
    log.add(CLIENT, Transfer(to=RIVAL.account, amount_micro=1))
    log.mark(NOW + 5)
    refused(house.ask(log), "succeeded")


def test_a_mirror_swears_to_the_tree_that_it_cosigned_last():
    """No smaller one, no other one, of no other count of decrees, and only in office."""
    house, log = House(NAMES[0]), governed()
    house.ask(log)
    for wrong in (
        succession(log, len(log.leaves) - 1),
        succession(log, root="1" * 64),
        succession(log, origin="another.example/log"),
        succession(log, number=1),
    ):
        with pytest.raises(Conflict):
            house.mirror.check_oath(wrong)
    outsider = House("mirror.example/outsider")
    outsider.ask(log)
    with pytest.raises(Forbidden):
        outsider.mirror.check_oath(succession(log))


def test_mirrors_follow_the_successor_that_a_quorum_has_sworn_to():
    """One that signed, and one that did not and is behind: both cosign the new log, and the old one no more."""
    log = governed()
    signer, behind = House(NAMES[0]), House(NAMES[3])
    signer.ask(log)
    old = log.fork(2)
    behind.ask(old)
    decreed = certified(succession(log))
    signer.mirror.swear(decreed.body)
    after = succeeded(log, decreed)
    for house in (signer, behind):
        assert house.mirror.accept(decreed) is None
        assert isinstance(house.ask(after), Cosigned)
        assert house.mirror.log == after.signer.verifier
        refused(house.ask(log), "unknown_log")
        house.revive()
        assert house.mirror.log == after.signer.verifier
        assert house.mirror.accept(decreed) is None


def test_less_than_a_quorum_gives_the_log_to_nobody():
    """Two of four, or three of whom one is a stranger; and an entry that says so condemns its log."""
    house, log = House(NAMES[0]), governed()
    house.ask(log)
    proposed = succession(log)
    for names in (NAMES[:2], [*NAMES[:2], "stranger"]):
        with pytest.raises(Forbidden):
            house.mirror.accept(certified(proposed, names))
    refused(house.ask(LyingLog(log.leaves, signer=SUCCESSOR, origin=NEXT)), "unknown_log")


def test_what_was_cosigned_beyond_the_succession_was_never_final_and_is_given_up():
    """A mirror that is ahead of the sworn tree, or on another branch, has to begin anew from less."""
    log = governed()
    ahead, fooled = House(NAMES[0]), House(NAMES[1])
    decreed = certified(succession(log))
    longer = log.fork()
    longer.mark(NOW + 5)
    ahead.ask(longer)
    assert ahead.mirror.accept(decreed) == len(log.leaves)
    other = governed(2)
    other.mark(NOW + 1)
    fooled.ask(other)
    assert (len(other.leaves), fooled.mirror.accept(decreed)) == (len(log.leaves), 0)


def test_the_new_operator_cannot_begin_from_another_tree():
    """A decree whose root is not that of the entries before it condemns the log that holds it."""
    log = governed()
    proposed = succession(log)
    house = House(NAMES[0])
    house.ask(log)
    decreed = certified(proposed)
    assert house.mirror.accept(decreed) is None
    false = certified(replace(proposed, root="2" * 64))
    after = LyingLog(log.leaves, signer=SUCCESSOR, origin=NEXT)
    after.add(SUCCESSOR, Decree(resolution=false))
    after.mark(NOW + 20, SUCCESSOR)
    refused(house.ask(after), "does_not_follow")
    assert house.mirror.condemned


def test_the_new_name_says_nothing_of_the_old_tree():
    """The tree that was sworn to, under the new name, without the decree: not cosigned."""
    house, log = House(NAMES[0]), governed()
    house.ask(log)
    house.mirror.accept(certified(succession(log)))
    refused(house.ask(LyingLog(log.leaves, signer=SUCCESSOR, origin=NEXT)), "other_size")


def test_a_new_mirror_follows_the_new_key_from_the_first_entry_on():
    """Pinned to the successor's key it replays all of the log, the old operator's entries too."""
    log = governed()
    decreed = certified(succession(log))
    after = succeeded(log, decreed)
    house = House(NAMES[2], log=after.signer.verifier)
    assert isinstance(house.ask(after), Cosigned)
    refused(House(NAMES[2], log=after.signer.verifier).ask(log), "unknown_log")
    stranger = LyingLog(log.leaves, signer=STRANGER, origin="stranger.example/log")
    fooled = House(NAMES[2], log=stranger.signer.verifier)
    refused(fooled.ask(stranger), "does_not_follow")
    assert fooled.mirror.condemned
