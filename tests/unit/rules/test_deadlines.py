"""What falls due, against a list that is sorted each time."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wwwmarket.rules.deadlines import Deadlines


@given(st.lists(st.tuples(st.integers(0, 9), st.booleans()), max_size=20), st.integers(0, 9))
def test_what_is_due_comes_by_instant_and_then_by_id(added, now_ms):
    """All that is due and was not removed comes once, in the order of (instant, id)."""
    deadlines, model = Deadlines(), []
    for number, (at_ms, removed) in enumerate(added):
        name = f"{number * 7 % 20:02}"
        deadlines.add(name, at_ms)
        if removed:
            deadlines.remove(name)
        else:
            model.append((at_ms, name))
    assert deadlines.take_due(now_ms) == [name for at_ms, name in sorted(model) if at_ms <= now_ms]
    assert deadlines.take_due(now_ms) == []
    assert len(deadlines) == sum(at_ms > now_ms for at_ms, _ in model)


def test_what_was_removed_is_forgotten():
    """Adding and removing without end takes no more room than what is left."""
    deadlines = Deadlines()
    deadlines.add("kept", 5)
    for number in range(10_000):
        deadlines.add(str(number), 10**9)
        deadlines.remove(str(number))
    assert len(deadlines._heap) < 200
    assert deadlines.take_due(10**9) == ["kept"]


def test_an_id_is_added_once():
    """Adding what is there already is a bug of ours."""
    deadlines = Deadlines()
    deadlines.add("one", 1)
    with pytest.raises(AssertionError, match="once"):
        deadlines.add("one", 2)
