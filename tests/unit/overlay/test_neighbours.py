"""Whom to ask, and in what order."""

from typing import NamedTuple

import pytest
from msgspec import structs
from overlay_world import EPOCH_MS, address

from wwwmarket.domain.identity import NodeId
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


class Offer(NamedTuple):
    """Something at a node."""

    node: NodeId


def offers(*numbers):
    return [Offer(address(number).node) for number in numbers]


def test_the_nearest_neighbour_is_asked_first(hood):
    """Of the neighbours among those who sell, the nearest goes first, however they were shuffled."""
    assert hood.order(offers(105, 6, 2, 4))[0] == offers(2)[0]
    assert hood.order(offers(105, 4, 6, 2))[0] == offers(2)[0]


def test_who_was_heard_of_comes_before_the_rest(hood):
    """Strangers go last, and within each part the order stays as chance has made it."""
    assert hood.order(offers(900, 105, 6, 901, 103)) == offers(6, 105, 103, 900, 901)


def test_nobody_is_lost_in_ordering(hood):
    """All are there once, also where nobody is known."""
    some = offers(900, 1, 105, 901)
    assert sorted(hood.order(some)) == sorted(some)
    assert Neighbourhood(members=(), reserves=()).order(some) == some


def test_demand_is_counted_by_node(hood):
    """A node that names a model twice is one node that is asked for it."""
    asked = structs.replace(hood, reserves=(member(1, wants=("a", "a", "b")), member(2, wants=("b",))))
    assert asked.demand() == {"a": 1, "b": 2}
