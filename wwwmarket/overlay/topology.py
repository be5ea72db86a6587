"""Graphs to experiment on, and how far apart their nodes are. The only home of networkx.

Nodes are numbered from 0; the same seed gives the same graph. Latencies are whole milliseconds, one way.
"""

from hashlib import sha256
from math import isqrt
from typing import Final

import networkx as nx

from wwwmarket.domain.quantity import Millis

LATENCY: Final = "latency_ms"
"""The edge attribute that ``assign_latencies`` sets."""
_SIDE: Final = 1 << 20
"""Of the square on which nodes are placed."""


def random_regular(nodes: int, degree: int, *, seed: int) -> nx.Graph:
    """Every node has ``degree`` random neighbours. ``nodes * degree`` must be even, and ``degree < nodes``."""
    return nx.random_regular_graph(degree, nodes, seed=seed)


def small_world(nodes: int, degree: int, *, rewired_percent: int, seed: int) -> nx.Graph:
    """A ring of neighbours with some links rewired at random (Watts and Strogatz, Nature 393, 1998); connected."""
    return nx.connected_watts_strogatz_graph(nodes, degree, rewired_percent / 100, tries=1000, seed=seed)


def scale_free(nodes: int, links: int, *, seed: int) -> nx.Graph:
    """Each newcomer links to ``links`` nodes, rather to the linked (Barabasi and Albert, Science 286, 1999)."""
    return nx.barabasi_albert_graph(nodes, links, seed=seed)


def two_clusters(nodes: int, degree: int, *, bridges: int, seed: int) -> nx.Graph:
    """Two random regular halves, joined by ``bridges`` links between distinct pairs of nodes."""
    half = nodes // 2
    assert 1 <= bridges <= half, "each bridge has ends of its own"
    graph = nx.disjoint_union(
        random_regular(half, degree, seed=seed), random_regular(nodes - half, degree, seed=seed + 1)
    )
    ends = sorted(range(half), key=lambda node: sha256(f"bridge {seed} {node}".encode()).digest())
    graph.add_edges_from((end, half + end) for end in ends[:bridges])
    return graph


class Latencies:
    """Nodes strewn over a square; latency is ``floor_ms`` plus the distance, of which a side takes ``side_ms``.

    Symmetric, and near of a near one is near: what wide-area latencies have and independent draws have not.
    """

    def __init__(self, *, seed: int, floor_ms: Millis = 2, side_ms: Millis = 80) -> None:
        self._seed = seed
        self._floor_ms = floor_ms
        self._side_ms = side_ms

    def one_way_ms(self, one: int, other: int) -> Millis:
        """Zero from a node to itself."""
        if one == other:
            return 0
        (x, y), (u, v) = self._place(one), self._place(other)
        return self._floor_ms + isqrt((x - u) ** 2 + (y - v) ** 2) * self._side_ms // _SIDE

    def _place(self, node: int) -> tuple[int, int]:
        drawn = sha256(f"place {self._seed} {node}".encode()).digest()
        return int.from_bytes(drawn[:8], "big") % _SIDE, int.from_bytes(drawn[8:16], "big") % _SIDE


def assign_latencies(graph: nx.Graph, latencies: Latencies) -> None:
    """Set each edge's ``latency_ms``."""
    nx.set_edge_attributes(graph, {edge: latencies.one_way_ms(*edge) for edge in graph.edges}, LATENCY)
