"""What an attacker with many identities gets: about his share, never all."""

from statistics import mean

import pytest
from overlay_world import World, address, key, profile, views

from wwwmarket.overlay.announcement import announce
from wwwmarket.overlay.records import Announcement, Ping, Pong, Rumour, Shuffle, ShuffleAnswer

HONEST, SYBILS = 42, 18
"""Thirty percent of the identities."""


class Attacker:
    """Answers for all its identities, tells of them alone, and pushes them at every honest node all the time."""

    def __init__(self, world: World, sybils: int) -> None:
        self.world = world
        self.numbers = range(1_000, 1_000 + sybils)
        self.nodes = [address(number).node for number in self.numbers]
        world._numbers |= dict(zip(self.nodes, self.numbers, strict=True))
        world.foreign = self.answer
        self.told = ()

    def renew(self) -> None:
        made = []
        for number in self.numbers:
            own = profile(number)
            said = Announcement(
                address=own.address, serves=own.serves, wants=(), load=own.load, issued_ms=self.world.now_ms
            )
            made.append(announce(key(number), said).signed)
        self.told = tuple(made)

    def some(self):
        return tuple(self.world._chance.sample(self.told, 8))

    def push(self) -> None:
        for node in list(self.world.members):
            sender = self.world._chance.choice(self.nodes)
            kind = self.world._chance.choice((Shuffle, Rumour, ShuffleAnswer))
            self.world.post(sender, node, kind(announcements=self.some()))

    def answer(self, _node, to, message):
        if to not in self.nodes:
            return None
        match message:
            case Ping():
                return Pong(nonce=message.nonce)
            case Shuffle():
                return ShuffleAnswer(announcements=self.some())
        return None

    def run(self, seconds: int) -> None:
        for second in range(seconds):
            if second % 30 == 0:
                self.renew()
            self.push()
            self.world.run(1_000)

    def share(self) -> list[float]:
        """Of each honest node's view."""
        mine = set(self.nodes)
        return [len(views(member) & mine) / len(views(member)) for member in self.world.members.values()]


def besieged(seed, *, honest=HONEST, sybils=SYBILS, latency=None):
    world = World(seed=seed)
    attacker = Attacker(world, sybils)
    attacker.renew()
    if latency is not None:
        usual = world.latency_ms
        mine = set(attacker.nodes)
        world.latency_ms = lambda one, other: latency if {one, other} & mine else usual(one, other)
    world.start_many(honest)
    attacker.run(240)
    return attacker


@pytest.mark.parametrize("seed", range(3))
def test_a_share_of_identities_is_a_share_of_places(seed):
    """Sybils that are 30 % of the identities, and shout, hold at most 36 % of all places, and no view alone."""
    shares = besieged(seed).share()
    assert mean(shares) <= 0.36
    assert max(shares) < 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_more_identities_than_a_reservoir_holds(seed):
    """The same with 100 honest nodes and 43 Sybils, more than are kept: the reservoirs' share is bounded too."""
    attacker = besieged(seed, honest=100, sybils=43)
    mine = set(attacker.nodes)
    held = [
        [peer.node in mine for peer in member._register.reservoir.all()] for member in attacker.world.members.values()
    ]
    shares = attacker.share()
    assert mean(shares) <= 0.36
    assert max(shares) < 1
    assert sum(map(sum, held)) / sum(map(len, held)) <= 0.42


def test_whoever_comes_unasked_does_not_keep_a_newcomer():
    """A newcomer whose contact is silent at first, and whose view an attacker fills meanwhile, finds the honest."""
    world = World(seed=6)
    world.start_many(20)
    world.run(30_000)
    attacker = Attacker(world, 20)
    attacker.renew()
    newcomer = address(50).node
    world.is_cut = lambda one, other: newcomer in {one, other} and not {one, other} & set(attacker.nodes)
    member = world.start(50, address(0))
    attacker.run(20)
    assert views(member)
    assert views(member) <= set(attacker.nodes)
    world.is_cut = lambda _one, _other: False
    world.run_until(lambda: bool(views(member) - set(attacker.nodes)), limit_ms=60_000)


def test_nearness_wins_the_near_places_only():
    """Sybils that are nearer than everybody hold at most the near links and their share of the random ones."""
    attacker = besieged(4, latency=1)
    params = attacker.world.params
    shares = attacker.share()
    assert mean(shares) <= (params.near_links + 0.36 * params.random_links) / params.view_max
    assert max(shares) < 1


def test_no_source_fills_the_reservoir():
    """Where identities without number are told of, strangers' part of the reservoir is full and no more than full."""
    attacker = besieged(5, honest=8, sybils=300)
    params = attacker.world.params
    for member in attacker.world.members.values():
        reservoir = member._register.reservoir.all()
        assert len(reservoir) <= params.reservoir_max
        assert sum(peer.source is None for peer in reservoir) <= params.strangers_max
        for source in {peer.source for peer in reservoir} - {None}:
            assert sum(peer.source == source for peer in reservoir) <= params.source_max
