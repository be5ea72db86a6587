"""Whole runs: they pass, they repeat, they conserve, and the bound bounds them."""

from dataclasses import dataclass

import pytest
from msgspec.structs import replace

from wwwmarket.domain.errors import NotFound
from wwwmarket.simulator.bound import bound
from wwwmarket.simulator.marketplace import Market
from wwwmarket.simulator.outcome import Diverged, NoProgress, Pass, Violated
from wwwmarket.simulator.run import DISPATCHES, POLICIES, simulate, twice
from wwwmarket.simulator.scenario import People, build, load_scenario
from wwwmarket.simulator.world import Leaving

SMALL = replace(load_scenario("mixed"), nodes=12, requests=150)


def in_time(run):
    return sum(s.latency_us is not None and s.request.at_us + s.latency_us <= s.request.deadline_us for s in run.served)


@pytest.mark.parametrize("dispatch", POLICIES)
def test_the_same_seed_gives_the_same_history(dispatch):
    """Run twice from one seed, every dispatch rule has the same digest; another seed has another."""
    built = build(SMALL, 1)
    outcome = twice(built.setup, built.requests, dispatch)
    assert isinstance(outcome, Pass)
    other = build(SMALL, 2)
    assert simulate(other.setup, other.requests, dispatch).outcome != outcome


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("load", [0.7, 3.0])
def test_no_rule_beats_the_bound(seed, load):
    """On every seed, also far above capacity, each rule meets at most as many objectives as the bound."""
    built = build(replace(SMALL, load=load, slo_factor=1.25, slo_allowance_ms=300), seed)
    most = in_time(simulate(built.setup, built.requests, "bound"))
    reached = {name: in_time(simulate(built.setup, built.requests, name)) for name in POLICIES}
    assert max(reached.values()) <= most, reached


def test_the_bound_sees_capacity():
    """Where far more comes than all engines together could do, the bound is below all."""
    built = build(replace(SMALL, load=40.0, requests=600, slo_factor=1.5), 1)
    assert len(bound(built.requests, built.setup.nodes)) < len(built.requests)


@pytest.mark.parametrize(
    "trouble",
    [
        {"churn": 0.2},
        {"loss": 0.05},
        {"people": People(silent=0.2)},
        {"people": People(slow=0.2, over_promising=0.2)},
        {"people": People(greedy=0.3, under_promising=0.2)},
        {"load": 2.0},
    ],
    ids=str,
)
def test_the_market_survives(trouble):
    """Whatever goes wrong, every request ends, no credit is lost, nothing settles twice, no engine is overfull."""
    built = build(replace(SMALL, **trouble), 5)
    run = simulate(built.setup, built.requests, "market")
    assert isinstance(run.outcome, Pass), run.outcome
    assert all((s.latency_us is None) != (s.failed is None) for s in run.served)


@pytest.mark.parametrize("dispatch", POLICIES)
def test_every_request_ends_under_churn(dispatch):
    """When nodes crash, leave and come, every request still ends, under every rule."""
    built = build(replace(SMALL, churn=0.3, requests=300), 7)
    run = simulate(built.setup, built.requests, dispatch)
    assert isinstance(run.outcome, Pass), run.outcome


def test_a_winner_that_crashes_before_its_first_token_is_replaced():
    """Another answers when the winner is gone before its first token, and only the one that answers is paid."""
    built = build(replace(SMALL, nodes=4, requests=40), 2)
    first_us = built.requests[0].at_us
    leaving = (Leaving(node=built.requests[0].origin, leaves_s=first_us / 1e6 + 0.7),)
    run = simulate(replace(built.setup, comings=leaving), built.requests, "market")
    assert isinstance(run.outcome, Pass)
    gone = built.requests[0].origin
    assert sum(run.executed) >= 30
    assert run.executed[gone] < sum(run.executed)


def test_payment_goes_to_who_worked():
    """Providers earn exactly where they answered, and never lose."""
    built = build(SMALL, 3)
    run = simulate(built.setup, built.requests, "market")
    assert all((earned > 0) == (count > 0) for earned, count in zip(run.earned_micro, run.executed, strict=True))


def test_a_silent_rule_makes_no_progress():
    """A rule that forgets its requests is found out."""

    class Forgetful(POLICIES["single"]):
        def dispatch(self, trip, home):
            self.world.loop.after(10, self.dispatch, trip, home)

    built = build(replace(SMALL, requests=3), 1)
    outcome = simulate(replace(built.setup, seconds_max=1.0), built.requests, "single", make=Forgetful).outcome
    assert outcome == NoProgress(waiting=3, step=outcome.step)


def test_an_overfull_engine_is_a_violation():
    """An engine over its capacity ends the run with the checker's name."""

    class Overfull(POLICIES["single"]):
        def dispatch(self, trip, home):
            home.engine.over_capacity = True
            super().dispatch(trip, home)

    built = build(replace(SMALL, requests=3), 1)
    outcome = simulate(built.setup, built.requests, "single", make=Overfull).outcome
    assert isinstance(outcome, Violated)
    assert outcome.checker == "engine-capacity"


@pytest.mark.parametrize("checker", ["credits-conserved", "one-settlement"])
def test_a_breach_of_the_ledger_is_a_violation(checker, monkeypatch):
    """Credits that appear, and an award that settles twice, are named."""

    class Broken(Market):
        def __init__(self, world):
            super().__init__(world)
            books = self.ledger.books
            if checker == "one-settlement":
                books._twice = True
            else:
                monkeypatch.setattr(type(books.state), "total_micro", property(lambda _self: 1))

    built = build(replace(SMALL, requests=3), 1)
    outcome = simulate(built.setup, built.requests, "market", make=Broken).outcome
    assert outcome == Violated(checker=checker, step=outcome.step)


def test_a_run_that_is_not_the_same_twice_diverges(monkeypatch):
    """Two histories from one seed are told apart."""
    rolls = iter(range(100))

    @dataclass
    class Restless(POLICIES["random"]):
        def __init__(self, world):
            super().__init__(world)
            self.chance.seed(next(rolls))

    monkeypatch.setitem(POLICIES, "random", Restless)
    built = build(SMALL, 1)
    assert isinstance(twice(built.setup, built.requests, "random"), Diverged)


def test_an_unknown_rule_is_refused():
    """The message lists what there is."""
    built = build(replace(SMALL, requests=1), 1)
    with pytest.raises(NotFound, match=DISPATCHES[0]):
        simulate(built.setup, built.requests, "magic")


def test_the_market_beats_what_it_must_under_load():
    """On mixed engines at load 0.9 more requests are in time than by a single node, by chance, or by two probes."""
    built = build(replace(SMALL, nodes=24, requests=700), 1)
    reached = {
        name: in_time(simulate(built.setup, built.requests, name))
        for name in ("market", "single", "random", "power-of-two")
    }
    assert reached["market"] == max(reached.values()), reached
