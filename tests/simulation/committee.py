"""One seed's story of a committee: an operator that lies or does not, mirrors that die, authors that hold it to its word.

Each checker has bugs to catch (``Planted``).
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, permutations
from random import Random
from typing import Literal

from msgspec.structs import replace

from tests.unit.mirror.world import Disk, House, LyingLog, honest
from tests.unit.rules.world import CLIENT, NOW, OPERATOR, PROVIDER, REGISTRY, RIVAL
from wwwmarket.crypto import canonical
from wwwmarket.crypto.signing import open_entry, sign, sign_entry
from wwwmarket.domain.errors import Refusal
from wwwmarket.domain.records import Entry, Inclusion, Mark, Signed, Transfer
from wwwmarket.ledger.evidence import Guilt, judge
from wwwmarket.ledger.merkle import leaf_hash, root_of
from wwwmarket.ledger.promises import Promises, make_evidence
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
from wwwmarket.mirror.machine import Mirror
from wwwmarket.rules.check import Checked, check
from wwwmarket.rules.state import State
from wwwmarket.simulator.outcome import Diverged, NoProgress, Outcome, Pass, Violated

STEPS = 40
BASE = honest(4).leaves
COVERED_WITHIN_MS = 30
"""What the operator promises. One that lies takes up to 50 ms."""


@dataclass(frozen=True)
class Planted:
    """Which bug this world has; by default none."""

    amnesia: bool = False
    """Mirrors sign before they store: their disks say that they have written, and forget."""
    discreet: bool = False
    """Mirrors keep no evidence."""
    rules: type[State] = State
    """How everybody follows entries."""
    rules_of_one: type[State] | None = None
    """How the first mirror does, where that is another way."""
    watch: type[Promises] = Promises
    """How authors hold the operator to its promises."""
    breaks: Literal["drops", "dawdles"] | None = None
    """How an operator, honest otherwise, breaks some of its promises."""


NOTHING = Planted()


class Crash(Exception):  # noqa: N818 - an event of the story
    """The mirror's machine stopped here."""


class Amnesiac(Disk):
    """A disk that says that it has written, and forgets."""

    def write(self, persist: Persist) -> None:
        """Nothing is kept."""


class Mortal(House):
    """A mirror that can die at every effect: before it, or after it and before its outcome is heard of."""

    def __init__(self, name: str, chance: Random, planted: Planted, rules: type[State]) -> None:
        self._chance, self._rules = chance, rules
        self._crashes = 0.1 if planted.amnesia else 0.03
        self._discreet = planted.discreet
        self.refused: list[list[bytes]] = []
        """Logs of which this mirror says that the last entry does not follow the others."""
        super().__init__(name, Amnesiac() if planted.amnesia else None)

    def make(self) -> Mirror:
        mirror = super().make()
        mirror._state = self._rules(REGISTRY)
        return mirror

    def run(self, event, log):
        answers, events = [], [event]
        while events:
            for effect in self.mirror.step(events.pop(0)):
                if isinstance(effect, Accuse):
                    self.refused.append(log.leaves[: effect.index + 1])
                self._die()
                match effect:
                    case Answer():
                        answers.append(effect)
                    case Fetch():
                        lost = self._chance.random() < 0.1
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
        if self._discreet:
            return
        if isinstance(effect, Keep):
            self.evidence.append(effect.evidence)
        else:
            self.prove(effect, log)

    def _die(self) -> None:
        if self._chance.random() < self._crashes:
            raise Crash


class Author:
    """Follows one branch, and holds its operator to what it was promised."""

    def __init__(self, log: LyingLog, watch: Promises) -> None:
        self._log = log
        self._watch = watch
        self._mail: list[Signed[Inclusion]] = []
        self._heard: list[tuple[int, Signed[Inclusion]]] = []
        """Promises, each with the number of entries that were here when it came."""
        self._covered: list[int] = []
        self._size = 0
        self.accused: list[Signed[Inclusion]] = []
        self.guilts: list[Guilt] = []

    def promised(self, promise: Signed[Inclusion]) -> None:
        self._mail.append(promise)

    def read(self, chance: Random) -> None:
        """On to some mark, with the promises that came before it; a checkpoint covers it, or does not."""
        sizes = [
            size for size in range(self._size + 1, len(self._log.leaves) + 1) if is_mark(self._log.leaves[size - 1])
        ]
        if not sizes:
            return
        upto = chance.choice(sizes)
        while self._size < upto:
            if self._mail and chance.random() < 0.7:
                self._hear()
            checked = opened(self._log.leaves[self._size])
            self._watch.applied(self._size, checked.id, checked.account, checked.body, OPERATOR.account)
            self._size += 1
            if self._size == upto or (isinstance(checked.body, Mark) and chance.random() < 0.5):
                self._cover()

    def _hear(self) -> None:
        promise = self._mail.pop(0)
        self._heard.append((self._size, promise))
        self._watch.promised(promise)

    def _cover(self) -> None:
        self._covered.append(self._size)
        for breach in self._watch.covered(self._size):
            leaves = [self._log.leaves[index] for index in breach.indices]
            evidence = make_evidence(breach, self._log.note(self._size), self._size, leaves, self._log.node)
            self.guilts.append(judge(evidence))
            self.accused.append(evidence.promise)

    def broken(self) -> list[Signed[Inclusion]]:
        """The promises that this author could see broken, from all that it has seen: the model of ``Promises``."""
        return [promise for size, promise in self._heard if self._is_broken(size, promise.body)]

    def kept(self) -> list[Signed[Inclusion]]:
        """Those that this author could see kept."""
        seen = max(self._covered, default=0)
        broken = self.broken()
        return [each for _, each in self._heard if each.body.index < seen and each not in broken]

    def _is_broken(self, heard_at: int, promise: Inclusion) -> bool:
        leaves, index = self._log.leaves, promise.index
        if any(is_mark(leaf) for leaf in leaves[index:heard_at]):
            return False  # it could be looked up
        overdue = any(
            heard_at < size <= index and opened(leaves[size - 1]).body.at_ms > promise.covered_by_ms
            for size in self._covered
        )
        seen = max(self._covered, default=0)
        if overdue or seen <= index:
            return overdue
        first = next(size for size in range(index + 1, seen + 1) if is_mark(leaves[size - 1]))
        if opened(leaves[index]).id != promise.entry:
            return True
        return opened(leaves[first - 1]).body.at_ms > promise.covered_by_ms


class Story:
    """One seed: branches of one log by one operator, n = 3f + 1 mirrors of whom f sign everything."""

    def __init__(self, seed: int, faults: int, planted: Planted = NOTHING, *, lying: bool = True) -> None:
        self.chance = Random(seed)
        self.faults = faults
        self.planted = planted
        self.lying = lying
        self.steps = STEPS * (5 if planted.amnesia else 2 * faults - 1)
        self.branches = [LyingLog(BASE, rules=planted.rules)]
        self.authors = [Author(self.branches[0], planted.watch())]
        ways = [planted.rules_of_one or planted.rules, *[planted.rules] * (2 * faults)]
        self.mirrors = [
            Mortal(f"mirror.example/{number}", self.chance, planted, rules) for number, rules in enumerate(ways)
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
        wrongs = [self.fork, self.lie] if self.lying else []
        for _ in range(self.steps):
            self.chance.choice([self.grow, *wrongs, self.send, self.send, self.deliver, self.deliver])()
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
        leaf = log.entry(who, Transfer(to=to.account, amount_micro=self.chance.randint(1, 9)))
        self.promise(log, leaf)
        breaks = self.planted.breaks if self.chance.random() < 0.2 else None
        if breaks != "drops" and not (self.lying and self.chance.random() < 0.2):
            log.add_leaf(leaf)
        most_ms = 50 if self.lying or breaks == "dawdles" else COVERED_WITHIN_MS
        log.mark(log.state.now_ms + self.chance.randint(0, most_ms))
        self.chance.choice(self.authors).read(self.chance)

    def promise(self, log: LyingLog, leaf: bytes) -> None:
        """To whoever follows this branch, or another."""
        ahead = self.chance.choice([0, 0, 1, 3]) if self.lying else 0
        promise = Inclusion(
            entry=opened(leaf).id,
            origin=log.state.origin,
            index=len(log.leaves) + ahead,
            covered_by_ms=log.state.now_ms + COVERED_WITHIN_MS,
        )
        self.chance.choice(self.authors).promised(sign(OPERATOR, promise).signed)

    def fork(self) -> None:
        if len(self.branches) < 4:
            log = self.branch()
            sizes = [size for size in range(len(BASE), len(log.leaves) + 1) if is_mark(log.leaves[size - 1])]
            if not log.forged:
                self.branches.append(log.fork(self.chance.choice(sizes)))
                self.authors.append(Author(self.branches[-1], self.planted.watch()))

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


@lru_cache(maxsize=4_096)
def opened(leaf: bytes) -> Checked:
    return check(open_entry(leaf))


@lru_cache(maxsize=65_536)
def is_mark(leaf: bytes) -> bool:
    try:
        return isinstance(opened(leaf).body, Mark)
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


# Checkers


def outcome(story: Story) -> Outcome:
    """How a story ended: with mirrors that disagree, in breach of the first checker, without anything final, or well."""
    final = story.tell()
    diverged = divergence(story.mirrors)
    if diverged is not None:
        return diverged
    checker = (
        violation(final, story.planted.rules) or ("evidence" if story.unproven else None) or promise_violation(story)
    )
    if checker is not None:
        return Violated(checker=checker, step=story.steps)
    if not final:
        return NoProgress(waiting=len(story.mail), step=story.steps)
    return Pass(digest=root_of(map(leaf_hash, final[-1])).hex())


def violation(final: Sequence[list[bytes]], rules: type[State] = State) -> str | None:
    """What no final history may be: forked, or one in which credits come into being or are lost."""
    for shorter, longer in pairwise(final):
        if longer[: len(shorter)] != shorter:
            return "fork"
    if final:
        state = rules(REGISTRY)
        for leaf in final[-1]:
            state.apply(opened(leaf))
        if conservation_fault(state.accounts(), state.total_micro) or expiry_fault(state):
            return "money"
    return None


def promise_violation(story: Story) -> str | None:
    """A broken promise that its author cannot show, or a kept one that it accuses; an honest operator breaks none."""
    for author in story.authors:
        broken = author.broken()
        if author.accused and not story.lying:
            return "promises"
        if {each.body.entry for each in broken} != {each.body.entry for each in author.accused}:
            return "promises"
    return None


def divergence(mirrors: Sequence[Mortal]) -> Diverged | None:
    """Two honest mirrors that made two states of one log, or of whom one holds what the other says cannot follow."""
    for one, other in permutations(mirrors, 2):
        held = other.disk.leaves
        refused = any(held[: len(log)] == log for log in one.refused)
        told = [mirror.mirror.digest() for mirror in (one, other)]
        if refused or (told[0][:2] == told[1][:2] and told[0] != told[1]):
            return Diverged(first=told[0][2], second=told[1][2])
    return None
