"""From one address to a connected overlay, and what it costs to stay in it."""

import networkx as nx
import pytest
from overlay_world import EPOCH_MS, World, address, profile, views

from wwwmarket.domain.records import NodeAddress
from wwwmarket.overlay.events import Described, RoundTripMeasured


def is_joined(world, count):
    """Everybody is up, has a full view, and reaches everybody else."""
    graph = world.graph()
    full = min(world.params.view_max, count - 1)
    return len(graph) == count and min(d for _, d in graph.out_degree) >= full and nx.is_weakly_connected(graph)


def test_two_nodes_know_each_other_in_a_second():
    """A node that joins by one address is in its contact's view, and the contact in its own, within a second."""
    world = World()
    world.start(0)
    world.start(1, address(0))
    took_ms = world.run_until(lambda: all(views(member) for member in world.members.values()), limit_ms=1_000)
    assert took_ms <= 1_000


@pytest.mark.parametrize(("count", "limit_ms"), [(30, 5_000), (100, 10_000)])
def test_one_address_is_enough(count, limit_ms):
    """All nodes start within a second with one contact; soon every view is full and the union of views connected."""
    world = World(seed=count)
    world.start_many(count)
    world.run_until(lambda: is_joined(world, count), limit_ms=limit_ms)


@pytest.mark.slow
def test_three_hundred_join_at_once():
    """The same with 300, whose contact can answer but some of them a second."""
    world = World(seed=300)
    world.start_many(300)
    world.run_until(lambda: is_joined(world, 300), limit_ms=30_000)


def test_a_newcomer_joins_a_settled_overlay_within_two_seconds():
    """It has a full view, and others have heard of it."""
    world = World(seed=2)
    world.start_many(30)
    world.run(60_000)
    world.start(30, address(7))
    newcomer = world.members[address(30).node]
    world.run_until(lambda: len(views(newcomer)) == world.params.view_max, limit_ms=2_000)
    assert any(
        known.node == address(30).node
        for member in world.members.values()
        for known in (*member.neighbourhood().members, *member.neighbourhood().reserves)
    )


@pytest.mark.slow
def test_views_spread_over_the_nodes():
    """After five minutes hardly anybody is in nobody's view, nobody in three times as many as usual, and all are joined."""
    world = World(seed=3)
    world.start_many(60)
    world.run(300_000)
    graph = world.graph()
    degrees = [degree for _, degree in graph.in_degree]
    assert degrees.count(0) <= len(degrees) // 20
    assert max(degrees) <= 3 * world.params.view_max
    assert nx.is_weakly_connected(graph)


@pytest.mark.slow
def test_views_keep_changing():
    """In a settled overlay a view is renewed, mostly, in five minutes, and none is ever short for it."""
    world = World(seed=4)
    world.start_many(40)
    world.run(120_000)
    before = {node: views(member) for node, member in world.members.items()}
    world.run(300_000)
    kept = [len(before[node] & views(member)) for node, member in world.members.items()]
    assert sum(kept) / len(kept) < world.params.view_max * 3 / 4
    assert all(len(views(member)) == world.params.view_max for member in world.members.values())


@pytest.mark.slow
def test_near_links_are_nearer_than_random_ones():
    """The nearest three of a view are in the mean at less than half the round trip of the others."""
    world = World(seed=5)
    world.start_many(60)
    world.run(300_000)
    near, far = [], []
    for member in world.members.values():
        known = [neighbour.round_trip_ms for neighbour in member.neighbourhood().members]
        near += known[:3]
        far += known[3:]
    assert sum(near) / len(near) < sum(far) / len(far) / 2


def test_an_idle_node_costs_little():
    """An idle node of 30 sends less than 1.5 KiB/s: all 30 less than a tenth of 617 KiB/s."""
    world = World(seed=6)
    world.start_many(30)
    world.run(120_000)
    before = world.sent_bytes.total()
    world.run(60_000)
    per_node = (world.sent_bytes.total() - before) / 60 / 30
    assert per_node < 1_536


def test_a_change_of_profile_is_heard_of():
    """A node that serves another model is known for it to its neighbours within two shuffles."""
    world = World(seed=7)
    world.start_many(10)
    world.run(60_000)
    changed = profile(3, "org/new")
    world.perform(address(3).node, Described(at_ms=world.now_ms, profile=changed))

    def knows(member) -> bool:
        hood = member.neighbourhood()
        return any("org/new" in known.said.serves for known in (*hood.members, *hood.reserves))

    world.run_until(lambda: sum(map(knows, world.members.values())) >= 5, limit_ms=60_000)


def test_measured_round_trips_are_kept_of_known_nodes_only():
    """What the transport measures of a stranger takes no memory."""
    world = World()
    member = world.start(0)
    before = member.digest()
    stranger = address(99).node
    assert member.step(RoundTripMeasured(at_ms=EPOCH_MS, peer=stranger, round_trip_ms=3)) == []
    assert member.digest() == before


def test_a_contact_that_is_oneself_is_no_contact():
    """A node that is given its own address waits to be joined."""
    world = World()
    member = world.start(0, address(0), NodeAddress(node=address(0).node))
    world.run(10_000)
    assert world.sent_bytes.total() == 0
    assert views(member) == set()
