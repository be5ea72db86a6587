"""Who is asked last, and for how long."""

from typing import NamedTuple

from overlay_world import address

from wwwmarket.domain.identity import NodeId
from wwwmarket.overlay.trust import FIRST_MS, LONGEST_MS, REMEMBERED_MAX, Trust


class Offer(NamedTuple):
    """Something at a node."""

    node: NodeId


ONE, TWO, THREE = (Offer(address(number).node) for number in range(3))


def test_who_let_one_down_is_asked_last():
    """The distrusted come after all others, in the order that was given, and nobody is left out."""
    trust = Trust()
    trust.failed(ONE.node, 0)
    assert trust.order([ONE, TWO, THREE], 1) == [TWO, THREE, ONE]
    assert trust.order([ONE], 1) == [ONE]


def test_distrust_ends():
    """After its time a node has its place again."""
    trust = Trust()
    trust.failed(ONE.node, 0)
    assert trust.distrusts(ONE.node, FIRST_MS - 1)
    assert trust.order([ONE, TWO], FIRST_MS) == [ONE, TWO]


def test_each_failure_doubles_it():
    """Who fails again and again is distrusted twice as long each time, and never longer than an hour."""
    trust, now_ms, lasted = Trust(), 0, []
    for _ in range(20):
        trust.failed(ONE.node, now_ms)
        begun_ms = now_ms
        while trust.distrusts(ONE.node, now_ms):
            now_ms += FIRST_MS
        lasted.append(now_ms - begun_ms)
    assert lasted[:3] == [FIRST_MS, 2 * FIRST_MS, 4 * FIRST_MS]
    assert max(lasted) == lasted[-1] == LONGEST_MS


def test_failures_of_one_outage_count_once():
    """Many requests that a dead node lets down are one reason to distrust it."""
    trust = Trust()
    for at_ms in range(100):
        trust.failed(ONE.node, at_ms)
    assert not trust.distrusts(ONE.node, FIRST_MS)


def test_a_kept_promise_clears_the_name():
    """Whoever serves is trusted at once, as if nothing had been."""
    trust = Trust()
    trust.failed(ONE.node, 0)
    trust.kept(ONE.node)
    assert not trust.distrusts(ONE.node, 1)


def test_memory_is_bounded():
    """However many names fail, so many are remembered."""
    trust = Trust()
    nodes = [NodeId(f"{number:064x}") for number in range(REMEMBERED_MAX + 1)]
    for node in nodes:
        trust.failed(node, 0)
    assert sum(trust.distrusts(node, 1) for node in nodes) == REMEMBERED_MAX
    assert not trust.distrusts(nodes[0], 1)
