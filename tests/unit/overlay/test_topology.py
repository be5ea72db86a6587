"""Graphs for experiments are what their names say, by seed."""

import networkx as nx
import pytest

from wwwmarket.overlay.topology import (
    LATENCY,
    Latencies,
    assign_latencies,
    random_regular,
    scale_free,
    small_world,
    two_clusters,
)

MAKERS = {
    "random_regular": lambda seed: random_regular(60, 8, seed=seed),
    "small_world": lambda seed: small_world(60, 8, rewired_percent=10, seed=seed),
    "scale_free": lambda seed: scale_free(60, 4, seed=seed),
    "two_clusters": lambda seed: two_clusters(60, 8, bridges=2, seed=seed),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_a_seed_is_a_graph(make):
    """Each generator gives 60 numbered, connected nodes, the same for a seed, and others for another."""
    graph = make(1)
    assert set(graph) == set(range(60))
    assert nx.is_connected(graph)
    assert nx.utils.graphs_equal(graph, make(1))
    assert not nx.utils.graphs_equal(graph, make(2))


def test_a_regular_graph_is_regular():
    """Every node has as many neighbours."""
    assert {degree for _, degree in random_regular(60, 8, seed=1).degree} == {8}


def test_a_small_world_is_clustered():
    """Neighbours of a node know each other much more often than in a random graph of the same degree."""
    world, control = small_world(60, 8, rewired_percent=10, seed=1), random_regular(60, 8, seed=1)
    assert nx.average_clustering(world) > 2 * nx.average_clustering(control)


def test_a_scale_free_graph_has_hubs():
    """The most linked node has several times the mean degree."""
    degrees = [degree for _, degree in scale_free(200, 4, seed=1).degree]
    assert max(degrees) > 3 * sum(degrees) / len(degrees)


def test_two_clusters_hang_on_their_bridges():
    """Cutting the bridges, and nothing less, parts the halves."""
    graph = two_clusters(61, 8, bridges=3, seed=1)
    bridges = [(one, other) for one, other in graph.edges if (one < 30) != (other < 30)]
    assert len(bridges) == len({one for one, _ in bridges}) == 3
    assert nx.edge_connectivity(graph) == 3
    graph.remove_edges_from(bridges)
    assert not nx.is_connected(graph)


def test_more_bridges_than_ends_are_our_own_bug():
    """A bridge needs an end of its own in each half."""
    with pytest.raises(AssertionError):
        two_clusters(20, 4, bridges=11, seed=1)


def test_latencies_are_distances():
    """Symmetric, nothing to oneself, between the floor and a diagonal above it, and no detour is shorter by much."""
    latencies = Latencies(seed=1, floor_ms=2, side_ms=80)
    for one in range(20):
        assert latencies.one_way_ms(one, one) == 0
        for other in range(one):
            direct_ms = latencies.one_way_ms(one, other)
            assert direct_ms == latencies.one_way_ms(other, one)
            assert 2 <= direct_ms <= 2 + 80 * 1.42
            for third in set(range(20)) - {one, other}:
                assert direct_ms <= latencies.one_way_ms(one, third) + latencies.one_way_ms(third, other)


def test_every_edge_gets_its_latency():
    """The attribute is set on all edges, from the ends' places."""
    graph = random_regular(20, 4, seed=1)
    latencies = Latencies(seed=1)
    assign_latencies(graph, latencies)
    assert all(value == latencies.one_way_ms(one, other) for one, other, value in graph.edges.data(LATENCY))
