"""Adversaries: what they gain, whom they harm, and what is proven against them."""

import pytest
from msgspec.structs import replace

from wwwmarket.simulator.adversaries import AUCTIONEERS, Question, answer, questions, table
from wwwmarket.simulator.cast import Ring
from wwwmarket.simulator.outcome import Pass
from wwwmarket.simulator.run import simulate
from wwwmarket.simulator.scenario import People, build, load_scenario

SMALL = replace(load_scenario("mixed"), nodes=12, requests=200, load=0.8)


@pytest.fixture(scope="module")
def harms():
    """Every adversary in one small world."""
    return {question.adversary: answer(question) for question in questions(1, quick=True)}


@pytest.mark.parametrize("tactic", ["favouring", "omitting"])
def test_a_favour_that_is_acknowledged_is_proven(harms, tactic):
    """Each better ask that was passed over, listed in the award or not, is proven by the auctioneer's own receipt."""
    assert harms[tactic].wronged > 0
    assert harms[tactic].proven == harms[tactic].wronged


def test_a_favour_that_is_denied_is_suspected_alone(harms):
    """Where the receipt leaves the ask out as well there is no proof, and the provider sees that something is wrong."""
    assert harms["denying"].wronged > 0
    assert harms["denying"].proven == 0
    assert harms["denying"].suspected == harms["denying"].wronged


def test_nothing_is_proven_against_the_honest(harms):
    """No evidence against an honest auctioneer is ever judged to prove anything."""
    assert sum(harm.falsely_proven for harm in harms.values()) == 0


def test_the_honest_are_not_proven_guilty_on_a_bad_network():
    """Also where messages are lost and nodes crash, which leaves many asks unacknowledged."""
    built = build(replace(SMALL, loss=0.05, churn=0.2, people=People(favouring=0.1)), 3)
    run = simulate(built.setup, built.requests, "market")
    assert isinstance(run.outcome, Pass)
    corrupt = [one == "favouring" for one in built.setup.characters]
    assert not any(review.proven for review, bad in zip(run.reviews, corrupt, strict=True) if not bad)
    assert any(review.proven for review, bad in zip(run.reviews, corrupt, strict=True) if bad)


def test_nobody_looks_back_where_nobody_wrongs():
    """Without corrupt auctioneers no receipts are signed, and there is nothing to review."""
    built = build(SMALL, 1)
    assert simulate(built.setup, built.requests, "market").reviews == ()


def test_who_does_no_work_earns_nothing(harms):
    """The silent, the lying, and Sybils of both kinds have no profit."""
    for name in ("silent", "lying", "sybil-silent", "sybil-lying"):
        assert (harms[name].won, harms[name].profit_micro) == (0, 0)


def test_more_names_for_one_engine_win_no_more_than_it_can_do(harms):
    """Selling one engine under many names wins at most half again of what one name wins."""
    assert harms["sybil-selling"].won < 1.5 * harms["sybil-selling"].won_truthful + 0.05


def test_gain_has_a_meaning_only_beside_a_profit(harms):
    """Sybils that had no engine before have nothing to compare with."""
    assert harms["sybil-lying"].gain is None
    assert harms["silent"].gain == -1


def test_the_table_has_a_row_for_each(harms):
    """Every adversary, and the number of false proofs below."""
    told = table(list(harms.values()))
    assert told.count("\n| ") == len(harms)
    assert told.endswith("in all: 0.\n")


def test_a_ring_makes_room_for_whom_a_bid_reached_first():
    """For one bid it is one member's turn, for the next it may be another's."""
    ring = Ring()
    assert [ring.is_turn("a", "one"), ring.is_turn("a", "two"), ring.is_turn("b", "two")] == [True, False, True]
    assert ring.is_turn("a", "one")


def test_the_same_question_has_the_same_answer():
    """Harm depends on the adversary and the seed alone."""
    question = Question(adversary=AUCTIONEERS[0], seed=1, quick=True)
    assert answer(question) == answer(question)
