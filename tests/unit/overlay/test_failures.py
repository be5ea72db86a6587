"""Crashes are noticed, loss is not mistaken for them, and what was parted meets again."""

import networkx as nx
import pytest
from overlay_world import EPOCH_MS, World, address, key, profile, views

from wwwmarket.overlay.events import LeaveRequested, MessageArrived, PeerUnreachable, Started, Ticked
from wwwmarket.overlay.membership import Membership
from wwwmarket.overlay.records import Ping


def settled(count=24, **conditions):
    world = World(**conditions)
    world.start_many(count)
    world.run(60_000)
    return world


def everyone_knows(world, number):
    return {
        node
        for node, member in world.members.items()
        if any(
            known.node == address(number).node
            for known in (*member.neighbourhood().members, *member.neighbourhood().reserves)
        )
    }


@pytest.mark.parametrize("seed", range(3))
def test_a_crash_is_noticed_within_ten_seconds(seed):
    """One turn of probes, a direct and an indirect timeout, and the suspicion: then no neighbour has it in view."""
    world = settled(seed=seed)
    assert world.watchers(5)
    world.crash(5)
    world.run_until(lambda: not world.watchers(5), limit_ms=10_000)


def test_a_suspect_is_not_asked():
    """From suspicion on, before the burial, a crashed neighbour is in no neighbourhood."""
    world = settled(seed=1)
    world.crash(5)
    world.run_until(lambda: not world.watchers(5), limit_ms=7_500)
    removed = [change for _, _, change in world.view_changes if address(5).node in change.removed]
    world.run(5_000)
    later = [change for _, _, change in world.view_changes if address(5).node in change.removed]
    assert len(later) > len(removed)


def test_a_transports_word_shortens_the_wait():
    """Where the transport reports the peer as unreachable, nobody waits for a direct answer to time out."""
    slow, quick = settled(seed=2), settled(seed=2, silent=False)
    took_ms = []
    for world in (slow, quick):
        world.crash(5)
        took_ms.append(world.run_until(lambda world=world: not world.watchers(5), limit_ms=10_000, step_ms=50))
    assert took_ms[1] < took_ms[0]


def test_a_dead_node_is_forgotten_by_all():
    """After the age limit nobody tells of it any more."""
    world = settled(seed=3)
    world.crash(5)
    world.run(world.params.age_max_ms + 30_000)
    assert everyone_knows(world, 5) == set()


def test_loss_kills_nobody():
    """With every tenth message lost, 24 nodes in five minutes declare nobody dead."""
    world = settled(seed=4, loss=0.1)
    before = len(world.view_changes)
    world.run(300_000)
    # A removal without an addition is a death; a rotation has both.
    deaths = [change for _, _, change in world.view_changes[before:] if change.removed and not change.added]
    assert deaths == []


def test_a_partition_heals():
    """Two halves that have buried each other are one overlay again within a minute and a half of the mending."""
    world = settled(seed=5)
    half = {address(number).node for number in range(12)}
    world.is_cut = lambda one, other: (one in half) != (other in half)
    world.run(60_000)
    assert not nx.is_weakly_connected(world.graph())
    world.is_cut = lambda _one, _other: False
    world.run_until(lambda: nx.is_strongly_connected(world.graph()), limit_ms=90_000)


@pytest.mark.slow
def test_a_long_partition_heals():
    """So they are after an hour, when every announcement of the other half has long expired."""
    world = settled(8, seed=6)
    half = {address(number).node for number in range(4)}
    world.is_cut = lambda one, other: (one in half) != (other in half)
    world.run(3_600_000)
    world.is_cut = lambda _one, _other: False
    world.run_until(lambda: nx.is_strongly_connected(world.graph()), limit_ms=90_000)


def test_who_leaves_is_gone_at_once():
    """A farewell reaches those who have the leaver in view without their having to find out."""
    world = settled(seed=7)
    before = world.watchers(5)
    world.leave(5)
    world.run(500)
    assert before
    assert world.watchers(5) == set()


def test_a_farewell_spreads():
    """Within two minutes nobody keeps the leaver in reserve, though its last announcement is still young."""
    world = settled(seed=8)
    world.leave(5)
    world.run_until(lambda: not everyone_knows(world, 5), limit_ms=120_000)


def test_after_leaving_nothing_is_said():
    """A member that has left answers nothing, and leaves once."""
    world = settled(4, seed=9)
    member = world.members[address(2).node]
    assert member.step(LeaveRequested(at_ms=world.now_ms))
    assert member.step(LeaveRequested(at_ms=world.now_ms)) == []
    ping = MessageArrived(at_ms=world.now_ms, peer=address(1).node, message=Ping(nonce="0" * 16), size_bytes=60)
    assert member.step(ping) == []


@pytest.mark.parametrize("ending", ["crash", "leave"])
def test_a_node_comes_back_under_its_key(ending):
    """After a crash or a farewell, a node that starts again with its key is in views within half a minute."""
    world = settled(seed=10)
    getattr(world, ending)(5)
    world.run(20_000)
    assert not world.watchers(5)
    world.start(5, address(0))
    world.run_until(lambda: bool(world.watchers(5)), limit_ms=30_000)


def test_a_node_whose_clock_went_back_overtakes_its_former_self():
    """A restart with a clock a minute slow is told of its own later word, and announces itself after it."""
    world = settled(seed=11)
    former = world.members[address(5).node].announcement.body.issued_ms
    world.crash(5)
    world.run(1_000)
    now_ms = world.now_ms
    world.now_ms = former - 60_000
    member = world.start(5, address(0))
    world.now_ms = now_ms
    assert member.announcement.body.issued_ms < former
    world.run(2_000)
    assert member.announcement.body.issued_ms > former


def test_a_neighbour_behind_a_cut_lives_by_its_helpers():
    """Where only the direct way between two is cut, helpers bring the suspect's own word, and it stays in view."""
    world = settled(8, seed=12)
    pair = {address(2).node, address(3).node}
    assert address(3).node in views(world.members[address(2).node])
    world.is_cut = lambda one, other: {one, other} == pair
    world.run(60_000)
    deaths = [
        change
        for _, node, change in world.view_changes
        if node == address(2).node and address(3).node in change.removed
    ]
    assert deaths == []


def test_an_unreachable_stranger_changes_nothing():
    """The transport may report whom the member has never heard of."""
    world = settled(3, seed=13)
    member = world.members[address(1).node]
    before = member.digest()
    assert member.step(PeerUnreachable(at_ms=world.now_ms, peer=address(77).node)) == []
    assert member.digest() == before


def test_the_same_seed_gives_the_same_state():
    """Two runs with one seed agree in every member's digest; another seed does not."""
    assert settled(10, seed=14, loss=0.1).digests() == settled(10, seed=14, loss=0.1).digests()
    assert settled(10, seed=14).digests() != settled(10, seed=15).digests()


def test_a_member_is_a_function_of_its_events():
    """The same events to two members of one key and chance give the same effects and the same digest."""
    events = [
        Started(at_ms=EPOCH_MS),
        *(Ticked(at_ms=EPOCH_MS + 250 * turn, chance=bytes([turn]) * 32) for turn in range(40)),
    ]
    made = [Membership(key(1), profile(1), (address(0),), at_ms=EPOCH_MS, chance=bytes(32)) for _ in range(2)]
    effects = [[member.step(event) for event in events] for member in made]
    assert effects[0] == effects[1]
    assert made[0].digest() == made[1].digest()
