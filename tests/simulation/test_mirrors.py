"""Committees under a lying orderer, lying members and crashes: thousands of seeds, and never two final histories."""

from collections import defaultdict
from functools import cache
from itertools import pairwise
from random import Random

import pytest

from tests.unit.mirror.world import Disk, House, LyingLog, honest
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PROVIDER, REGISTRY, RIVAL
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign_entry
from wwwmarket.domain.records import Mark, Transfer
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.mirror.events import Answer, Cosigned, Fetch, FetchFailed, Keep, Persist, Persisted
from wwwmarket.rules.check import check
from wwwmarket.rules.state import State

STEPS = 40
BASE = honest(4).leaves


class Crash(Exception):  # noqa: N818 - an event of the story
    """The mirror's machine stopped here."""


class Amnesiac(Disk):
    """A disk that says that it has written, and forgets: the planted bug of a mirror that signs before it stores."""

    def write(self, persist: Persist) -> None:
        """Nothing is kept."""


class Mortal(House):
    """A mirror that can die at every effect: before it, or after it and before its outcome is heard of."""

    def __init__(self, name: str, chance: Random, *, crashes: float, loses: float, disk: Disk | None = None) -> None:
        self._chance, self._crashes, self._loses = chance, crashes, loses
        super().__init__(name, disk)

    def run(self, event, log):
        answers, events = [], [event]
        while events:
            for effect in self.mirror.step(events.pop(0)):
                self._die()
                match effect:
                    case Answer():
                        answers.append(effect)
                    case Fetch():
                        lost = self._chance.random() < self._loses
                        events.append(FetchFailed(message="lost") if lost else log.serve(effect, self.now_ms))
                    case Persist():
                        self.disk.write(effect)
                        self._die()
                        if effect.covered is not None:
                            events.append(Persisted(size=effect.covered.size, now_ms=self.now_ms))
                    case Keep():
                        self.evidence.append(effect)
        return answers

    def _die(self) -> None:
        if self._chance.random() < self._crashes:
            raise Crash


class Story:
    """One seed: branches of one log by one orderer, n = 3f + 1 mirrors of whom f sign everything."""

    def __init__(self, seed: int, faults: int, *, amnesia: bool = False) -> None:
        self.chance = Random(seed)
        self.faults = faults
        self.steps = 5 * STEPS if amnesia else STEPS
        self.branches = [LyingLog(BASE)]
        self.mirrors = [
            Mortal(
                f"mirror.example/{number}",
                self.chance,
                crashes=0.1 if amnesia else 0.03,
                loses=0.1,
                disk=Amnesiac() if amnesia else None,
            )
            for number in range(2 * faults + 1)
        ]
        self.cosigned: defaultdict[tuple[int, bytes], set[str]] = defaultdict(set)
        self.trees: dict[tuple[int, bytes], list[bytes]] = {}

    @property
    def quorum(self) -> int:
        return 2 * self.faults + 1

    def tell(self) -> list[list[bytes]]:
        """Run it; the leaves of each final tree, in ascending order of their sizes."""
        for _ in range(self.steps):
            self.chance.choice([self.grow, self.fork, self.lie, self.ask, self.ask, self.ask, self.ask])()
        final = [key for key, names in self.cosigned.items() if len(names) + self.faults >= self.quorum and names]
        return [self.trees[key] for key in sorted(final)]

    def branch(self) -> LyingLog:
        return self.chance.choice(self.branches)

    def grow(self) -> None:
        log = self.branch()
        if log.forged:
            return
        who = self.chance.choice([CLIENT, PROVIDER, RIVAL])
        to = self.chance.choice([each for each in (CLIENT, PROVIDER, RIVAL) if each is not who])
        log.add(who, Transfer(to=to.account, amount_micro=self.chance.randint(1, 9)))
        log.mark(log.state.now_ms + self.chance.randint(0, 50))

    def fork(self) -> None:
        if len(self.branches) < 4:
            log = self.branch()
            sizes = [size for size in range(len(BASE), len(log.leaves) + 1) if is_mark(log.leaves[size - 1])]
            if not log.forged:
                self.branches.append(log.fork(self.chance.choice(sizes)))

    def lie(self) -> None:
        """A branch with an entry that does not follow: a payment of more than there is, replayed, or out of order."""
        origin = self.branch()
        if origin.forged or len(self.branches) >= 6:
            return
        log = origin.fork()
        head = log.state.chain_head(CLIENT.account)
        seq = head.next_seq + self.chance.randint(0, 1)
        body = Transfer(to=RIVAL.account, amount_micro=10**9)
        log.forge(canonical.encode(sign_entry(CLIENT, seq=seq, prev=head.prev, body=body)))
        place = log.state.chain_head(OPERATOR.account)
        mark = Mark(at_ms=log.state.now_ms, state_root=log.state.root())
        log.forge(canonical.encode(sign_entry(OPERATOR, seq=place.next_seq, prev=place.prev, body=mark)))
        log.forged = True
        self.branches.append(log)

    def ask(self) -> None:
        log, mirror = self.branch(), self.chance.choice(self.mirrors)
        size = self.chance.choice([size for size in range(2, len(log.leaves) + 1) if is_mark(log.leaves[size - 1])])
        mirror.now_ms = NOW + 1_000
        old = mirror.mirror.cosigned_size if self.chance.random() < 0.8 else self.chance.randint(0, size)
        try:
            answer = mirror.ask(log, size, old=old)
        except Crash:
            mirror.revive()
            return
        if isinstance(answer, Cosigned):
            leaves = log.leaves[:size]
            key = (size, root_of(map(leaf_hash, leaves)))
            self.trees[key] = leaves
            self.cosigned[key].add(mirror.cosigner.verifier.name)


@cache
def is_mark(leaf: bytes) -> bool:
    return isinstance(check(open_entry(leaf)).body, Mark)


def violation(final: list[list[bytes]]) -> str | None:
    """What no final history may be: forked, or not what an honest replay makes of it."""
    for shorter, longer in pairwise(final):
        if longer[: len(shorter)] != shorter:
            return "fork"
    if final:
        state = State(REGISTRY)
        for leaf in final[-1]:
            state.apply(check(open_entry(leaf)))
        if conservation_fault(state.accounts(), state.total_micro) or expiry_fault(state):
            return "money"
    return None


def tell(seeds: range, faults: int) -> int:
    """How many checkpoints became final over all seeds, none of them in violation."""
    count = 0
    for seed in seeds:
        final = Story(seed, faults).tell()
        assert violation(final) is None, f"seed {seed}, f = {faults}"
        count += len(final)
    return count


@pytest.mark.parametrize("faults", [1, 2])
def test_no_final_history_forks(faults):
    """150 seeds for each f: f members sign whatever they are shown, the others die at any effect and come back."""
    assert tell(range(150), faults) > 100


@pytest.mark.slow
@pytest.mark.parametrize("faults", [1, 2])
def test_no_final_history_forks_in_thousands_of_seeds(faults):
    """2,500 seeds for each f."""
    assert tell(range(1_000, 3_500), faults) > 2_000


def test_a_mirror_that_signs_before_it_stores_is_caught():
    """The planted bug: disks that forget what was signed. Some seed shows two final histories."""
    assert any(violation(Story(seed, 1, amnesia=True).tell()) == "fork" for seed in range(300))
