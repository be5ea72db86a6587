"""How many are there as a rule."""

from wwwmarket.dispatch.occupancy import Occupancy


def test_a_new_engine_is_empty_as_a_rule():
    """Nothing is assumed before anybody came."""
    assert Occupancy().sequences == 0


def test_the_rule_follows_what_arrivals_see():
    """After some tens of arrivals to the same number it is that number, and after as many to another, the other."""
    occupancy = Occupancy()
    for in_hand in (12, 3):
        for _ in range(40):
            occupancy.arrived(in_hand)
        assert occupancy.sequences == in_hand
