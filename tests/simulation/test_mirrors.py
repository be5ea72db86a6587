"""Committees under a lying orderer, lying members and crashes: thousands of seeds, and never two final histories."""

from collections import defaultdict
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from msgspec.structs import replace

from tests.unit.mirror.world import Disk, House, LyingLog, honest
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PROVIDER, REGISTRY, RIVAL
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign_entry
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.records import Entry, Mark, Transfer
from wwwmarket.ledger.evidence import judge
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.market.audit.balances import conservation_fault, expiry_fault
from wwwmarket.mirror.events import (
    Accuse,
    Answer,
    Compare,
    Cosigned,
    Fetch,
    FetchFailed,
    Keep,
    Persist,
    Persisted,
    Refused,
)
from wwwmarket.rules.check import check
from wwwmarket.rules.state import State
from wwwmarket.simulator.outcome import NoProgress, Outcome, Pass, Violated

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

    def __init__(
        self,
        name: str,
        chance: Random,
        *,
        crashes: float,
        loses: float,
        disk: Disk | None = None,
        forgetful: bool = False,
    ) -> None:
        self._chance, self._crashes, self._loses = chance, crashes, loses
        self.forgetful = forgetful
        """The planted bug of a mirror that keeps no evidence."""
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
                    case Keep() | Compare() | Accuse():
                        self._keep(effect, log)
        return answers

    def _keep(self, effect, log) -> None:
        if self.forgetful:
            return
        if isinstance(effect, Keep):
            self.evidence.append(effect.evidence)
        else:
            self.prove(effect, log)

    def _die(self) -> None:
        if self._chance.random() < self._crashes:
            raise Crash


class Story:
    """One seed: branches of one log by one orderer, n = 3f + 1 mirrors of whom f sign everything."""

    def __init__(self, seed: int, faults: int, *, amnesia: bool = False, forgetful: bool = False) -> None:
        self.chance = Random(seed)
        self.faults = faults
        self.steps = STEPS * (5 if amnesia else 2 * faults - 1)
        self.branches = [LyingLog(BASE)]
        self.mirrors = [
            Mortal(
                f"mirror.example/{number}",
                self.chance,
                crashes=0.1 if amnesia else 0.03,
                loses=0.1,
                disk=Amnesiac() if amnesia else None,
                forgetful=forgetful,
            )
            for number in range(2 * faults + 1)
        ]
        self.mail: list[tuple[Mortal, LyingLog, int, int]] = []
        self.unproven: list[str] = []
        self.cosigned: defaultdict[tuple[int, bytes], set[str]] = defaultdict(set)
        self.trees: dict[tuple[int, bytes], list[bytes]] = {}

    @property
    def quorum(self) -> int:
        return 2 * self.faults + 1

    def tell(self) -> list[list[bytes]]:
        """Run it; the leaves of each final tree, in ascending order of their sizes."""
        for _ in range(self.steps):
            self.chance.choice([self.grow, self.fork, self.lie, self.send, self.send, self.deliver, self.deliver])()
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
        """A branch with an entry that does not follow."""
        origin = self.branch()
        if origin.forged or len(self.branches) >= 6:
            return
        log = origin.fork()
        for leaf in self.chance.choice(LIES)(log):
            log.forge(leaf)
        place = log.state.chain_head(OPERATOR.account)
        mark = Mark(at_ms=log.state.now_ms, state_root=log.state.root())
        log.forge(canonical.encode(sign_entry(OPERATOR, seq=place.next_seq, prev=place.prev, body=mark)))
        log.forged = True
        self.branches.append(log)

    def send(self) -> None:
        """A request on its way: it may be delayed past others, come twice, or never."""
        log, mirror = self.branch(), self.chance.choice(self.mirrors)
        size = self.chance.choice([size for size in range(2, len(log.leaves) + 1) if is_mark(log.leaves[size - 1])])
        mirror.now_ms = NOW + 1_000
        old = mirror.mirror.cosigned_size if self.chance.random() < 0.8 else self.chance.randint(0, size)
        self.mail.append((mirror, log, size, old))

    def deliver(self) -> None:
        if not self.mail:
            return
        mirror, log, size, old = self.mail[place := self.chance.randrange(len(self.mail))]
        if self.chance.random() < 0.8:
            del self.mail[place]
        if self.chance.random() < 0.1 or size > len(log.leaves):
            return
        known = len(mirror.evidence)
        try:
            answer = mirror.ask(log, size, old=old)
        except Crash:
            mirror.revive()
            return
        if isinstance(answer, Refused) and answer.reason == "does_not_follow" and len(mirror.evidence) == known == 0:
            self.unproven.append(answer.message)
        for evidence in mirror.evidence[known:]:
            assert is_sound(evidence), "no honest mirror keeps what proves nothing and binds nobody"
        if isinstance(answer, Cosigned):
            leaves = log.leaves[:size]
            key = (size, root_of(map(leaf_hash, leaves)))
            self.trees[key] = leaves
            self.cosigned[key].add(mirror.cosigner.verifier.name)


@cache
def is_mark(leaf: bytes) -> bool:
    try:
        return isinstance(check(open_entry(leaf)).body, Mark)
    except Refusal:
        return False


def transfer(log: LyingLog, amount_micro: int, ahead: int = 0) -> bytes:
    head = log.state.chain_head(CLIENT.account)
    body = Transfer(to=RIVAL.account, amount_micro=amount_micro)
    return canonical.encode(sign_entry(CLIENT, seq=head.next_seq + ahead, prev=head.prev, body=body))


def mark(log: LyingLog, at_ms: int, state_root: str) -> bytes:
    head = log.state.chain_head(OPERATOR.account)
    body = Mark(at_ms=at_ms, state_root=state_root)
    return canonical.encode(sign_entry(OPERATOR, seq=head.next_seq, prev=head.prev, body=body))


def unsigned(leaf: bytes) -> bytes:
    return canonical.encode(replace(canonical.decode(leaf, Entry), signature="0" * 128))


LIES = (
    lambda log: [transfer(log, 10**9)],  # overspent
    lambda log: [transfer(log, 1, ahead=1)],  # an entry before it was dropped
    lambda log: [log.leaves[2]],  # replayed
    lambda log: [transfer(log, 1, ahead=1), transfer(log, 1)],  # reordered
    lambda log: [mark(log, NOW - 5, log.state.root())],  # back-dated
    lambda log: [unsigned(transfer(log, 1))],  # forged
    lambda _: [b"\xff"],  # no entry at all
    lambda log: [mark(log, log.state.now_ms, "0" * 64)],  # another state
)


def is_sound(evidence) -> bool:
    """It proves the log's fault; or it binds the log's signature to an entry that a replay refuses."""
    try:
        return judge(evidence).accused == OPERATOR.account
    except Refusal as refusal:
        return refusal.reason == "needs_the_log"


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


def outcome(story: Story) -> Outcome:
    """How a story ended: the first checker that it violates, or that nothing became final, or that it passed."""
    final = story.tell()
    checker = violation(final) or ("evidence" if story.unproven else None)
    if checker is not None:
        return Violated(checker=checker, step=story.steps)
    if not final:
        return NoProgress(waiting=len(story.mail), step=story.steps)
    return Pass(digest=root_of(map(leaf_hash, final[-1])).hex())


def test_a_seed_tells_one_story():
    """Told again it ends the same."""
    first, second = (outcome(Story(5, 1)) for _ in range(2))
    assert first == second


def tell(seeds: range, faults: int) -> int:
    """How many stories ended well, none of them in violation; in the others nothing became final, which may be."""
    outcomes = {seed: outcome(Story(seed, faults)) for seed in seeds}
    assert not {seed: each for seed, each in outcomes.items() if isinstance(each, Violated)}, f"f = {faults}"
    return sum(isinstance(each, Pass) for each in outcomes.values())


@pytest.mark.parametrize("faults", [1, 2])
def test_no_final_history_forks(faults):
    """100 seeds for each f: f members sign whatever they are shown, the others die at any effect and come back."""
    assert tell(range(100), faults) > 10


@pytest.mark.slow
@pytest.mark.parametrize("faults", [1, 2])
def test_no_final_history_forks_in_thousands_of_seeds(faults):
    """2,500 seeds for each f."""
    assert tell(range(1_000, 3_500), faults) > 250


def test_a_mirror_that_keeps_no_evidence_is_caught():
    """The planted bug: it refuses what does not follow, and nobody can show why."""
    caught = [outcome(Story(seed, 1, forgetful=True)) for seed in range(20)]
    assert any(isinstance(each, Violated) and each.checker == "evidence" for each in caught)


def test_a_mirror_that_signs_before_it_stores_is_caught():
    """The planted bug: disks that forget what was signed. Some seed shows two final histories."""
    assert any(violation(Story(seed, 1, amnesia=True).tell()) == "fork" for seed in range(300))
