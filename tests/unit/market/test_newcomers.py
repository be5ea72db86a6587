"""Where a provider without a settlement stands in a draw that is for newcomers."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.rules.world import key, make_offer, named
from wwwmarket.domain.book import ListedOffer
from wwwmarket.market import auction

PEOPLE = [key(f"provider {number}").account for number in range(6)]
RANKED = tuple(
    auction.Candidate(offer=named(person), listed=ListedOffer(provider=person, offer=make_offer())) for person in PEOPLE
)


def seated(seats: int, *new: int) -> list[int]:
    """Who stands where, by number, when these are new."""
    names = {PEOPLE[number] for number in new}
    return [RANKED.index(one) for one in auction.seat_newcomer(RANKED, seats, names.__contains__)]


def test_a_newcomer_gets_the_last_of_the_first_places():
    """The first of the newcomers comes forward, and the others keep their order."""
    assert seated(3, 4, 5) == [0, 1, 4, 2, 3, 5]
    assert seated(1, 2) == [2, 0, 1, 3, 4, 5]


def test_a_newcomer_that_is_seated_stays_where_it_is():
    """One place is enough, and it may be better than the last one."""
    assert seated(3, 0, 5) == [0, 1, 2, 3, 4, 5]


def test_without_newcomers_or_places_nothing_changes():
    """Nobody is moved for nobody, and where no place is given none is taken."""
    assert seated(3) == [0, 1, 2, 3, 4, 5]
    assert seated(0, 4) == [0, 1, 2, 3, 4, 5]


@given(st.integers(0, 8), st.sets(st.integers(0, 5)))
def test_seating_loses_nobody_and_displaces_one_at_most(seats, new):
    """Whoever is new: everybody is still there once, and of the first places at most one has another owner."""
    order = seated(seats, *new)
    assert sorted(order) == list(range(6))
    assert len(set(order[:seats]) - set(range(seats))) <= 1
