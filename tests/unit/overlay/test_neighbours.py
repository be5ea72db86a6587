"""Whom to ask: near and random, by model, and more of them in a second round."""

import pytest
from msgspec import structs
from overlay_world import EPOCH_MS, address

from wwwmarket.overlay.neighbours import Member, Neighbourhood
from wwwmarket.overlay.records import Announcement, LoadDigest

MODEL = "org/model"


def member(number, *serves, wants=()):
    said = Announcement(address=address(number), serves=serves, wants=wants, load=LoadDigest(), issued_ms=EPOCH_MS)
    return Member(said=said, round_trip_ms=number)


@pytest.fixture
def hood():
    """Eight neighbours, the even ones serving the model; twenty reserves, of which ten do."""
    return Neighbourhood(
        members=tuple(member(number, MODEL if number % 2 == 0 else "org/other") for number in range(8)),
        reserves=tuple(member(number, MODEL if number % 2 == 0 else "org/other") for number in range(100, 120)),
    )


def numbers(members):
    return [known.round_trip_ms for known in members]


def test_only_who_serves_the_model_is_eligible(hood):
    """Eligible are the neighbours that say they serve it, nearest first."""
    assert numbers(hood.eligible(MODEL)) == [0, 2, 4, 6]
    assert hood.eligible("org/none") == ()


def test_a_draw_mixes_near_and_random(hood):
    """The nearest come always, the random ones vary with chance, and nobody comes twice."""
    draws = [numbers(hood.draw(MODEL, near=1, random=2, chance=bytes([seed]) * 32)) for seed in range(32)]
    assert all(drawn[0] == 0 and len(set(drawn)) == 3 for drawn in draws)
    assert {number for drawn in draws for number in drawn[1:]} == {2, 4, 6}


def test_a_short_view_is_topped_up_from_the_reserves(hood):
    """Where fewer neighbours serve the model than are wanted, reserves that serve it fill up."""
    drawn = numbers(hood.draw(MODEL, near=2, random=5, chance=bytes(32)))
    assert len(drawn) == len(set(drawn)) == 7
    assert all(number % 2 == 0 for number in drawn)


def test_a_second_round_asks_others(hood):
    """Nobody that was asked is asked again, and at most so many as are known and serve it."""
    asked = {address(number).node for number in (0, 2, 4)}
    drawn = numbers(hood.second_round(MODEL, count=8, asked=asked, chance=bytes(32)))
    assert len(drawn) == len(set(drawn)) == 8
    assert not {0, 2, 4} & set(drawn)
    assert len(hood.second_round(MODEL, count=99, asked=asked, chance=bytes(32))) == 11


def test_chance_decides_alone(hood):
    """The same chance draws the same."""
    assert hood.draw(MODEL, near=1, random=2, chance=b"c" * 32) == hood.draw(MODEL, near=1, random=2, chance=b"c" * 32)


def test_demand_is_counted_by_node(hood):
    """A node that names a model twice is one node that is asked for it."""
    asked = structs.replace(hood, reserves=(member(1, wants=("a", "a", "b")), member(2, wants=("b",))))
    assert asked.demand() == {"a": 1, "b": 2}
