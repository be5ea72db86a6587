"""The overlay's own machines in the simulated network: who is drawn, who is forgotten, what heals."""

import pytest
from msgspec.structs import replace

from wwwmarket.simulator.live_views import LiveViews
from wwwmarket.simulator.marketplace import Market
from wwwmarket.simulator.outcome import Pass
from wwwmarket.simulator.overlay_health import health, table
from wwwmarket.simulator.run import simulate, twice
from wwwmarket.simulator.scenario import build, load_scenario
from wwwmarket.simulator.world import Cut

SMALL = replace(load_scenario("mixed"), nodes=16, requests=150, overlay="live")


@pytest.fixture(scope="module")
def measured():
    """Thirty nodes, of which three crash; then they are cut into halves for a minute."""
    return health(30, 1)


def in_time(run):
    return sum(s.latency_us is not None and s.request.at_us + s.latency_us <= s.request.deadline_us for s in run.served)


def test_draws_are_spread_over_who_sells(measured):
    """Nobody is left out of the first rounds, and nobody has three times an even share of them."""
    assert measured.draws_min > 0
    assert measured.draws_max < 3


def test_the_dead_leave_the_views_within_ten_seconds(measured):
    """When nodes crash, nobody has one of them in view ten seconds later."""
    assert measured.dead_unseen_s <= 10


def test_a_cut_heals_within_two_minutes(measured):
    """Halves that have forgotten each other in a minute know each other again within two."""
    assert measured.cut_apart < 0.05
    assert measured.healed_s <= 120


def test_an_idle_node_sends_little(measured):
    """A node with nothing to do sends less than 2 KB a second."""
    assert measured.bytes_per_s < 2_000


def test_health_is_told_in_a_row(measured):
    """One row an overlay, below its heads."""
    assert table([measured, replace(measured, healed_s=None, dead_unseen_s=None)]).count("\n") == 4


def test_live_views_serve_nearly_as_well_as_known_ones():
    """Requests in time with the overlay's own views are within three points of those with views that know who lives."""
    reached = {}
    for overlay in ("static", "live"):
        built = build(replace(SMALL, nodes=24, overlay=overlay, requests=500), 2)
        reached[overlay] = in_time(simulate(built.setup, built.requests, "market")) / len(built.requests)
    assert reached["live"] > reached["static"] - 0.03, reached


def test_a_live_overlay_has_one_history():
    """From one seed the market on the overlay's own views goes the same way twice."""
    built = build(replace(SMALL, requests=60), 3)
    assert isinstance(twice(built.setup, built.requests, "market"), Pass)


@pytest.mark.parametrize("trouble", [{"churn": 0.2}, {"loss": 0.05}, {"cuts": (Cut(from_s=1, until_s=4),)}], ids=str)
def test_every_request_ends_on_live_views(trouble):
    """Through churn, loss and a cut every request ends, and no checker finds a breach."""
    built = build(replace(SMALL, **trouble), 4)
    run = simulate(built.setup, built.requests, "market")
    assert isinstance(run.outcome, Pass), run.outcome
    assert all((s.latency_us is None) != (s.failed is None) for s in run.served)


def test_the_overlay_mixes_before_the_market_opens():
    """When the first request comes, every node has neighbours."""
    seen = []

    class Looking(Market):
        def arrive(self, trip):
            seen.append([len(self.views.viewed(node)) for node in self.world.nodes])
            super().arrive(trip)

    built = build(replace(SMALL, requests=2), 1)
    simulate(built.setup, built.requests, "market", make=Looking)
    assert min(seen[0]) == 8


def test_who_leaves_is_known_to_nobody():
    """A node that says farewell has no view, and is in none some seconds later."""
    built = build(replace(SMALL, requests=1), 1)
    markets = []

    def make(world):
        markets.append(Market(world))
        return markets[0]

    simulate(built.setup, built.requests, "market", make=make)
    market = markets[0]
    leaver, views = market.world.nodes[5], market.views
    assert isinstance(views, LiveViews)
    views.gone(leaver, crash=False)
    until_us = market.world.loop.now_us + 10_000_000
    while market.world.loop.now_us < until_us:
        market.world.loop.step()
    assert views.viewed(leaver) == []
    assert not any(leaver in views.viewed(node) for node in market.world.nodes)
