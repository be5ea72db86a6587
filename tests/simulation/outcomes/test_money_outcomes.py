"""The page about what becomes of money when something goes wrong says what happens, case by case."""

from pathlib import Path

import pytest

from tests.simulation.outcomes.table import OUTCOMES, cases, outcome_of, page, read

PAGE = Path(__file__).parents[3] / "docs" / "money-outcomes.md"
SAMPLED = 11
"""Of so many cases one is run each time; all of them with the slow tests."""


def test_the_page_has_a_row_for_each_step_and_each_fault():
    """Every message and every write of a purchase, as it goes today, and every way of leaving it."""
    assert set(read(PAGE.read_text())) == set(cases())


@pytest.mark.parametrize("case", list(read(PAGE.read_text()))[::SAMPLED], ids=lambda case: f"{case.point}, {case.kind}")
def test_a_fault_has_the_outcome_that_the_page_says(case):
    """Run again: credits are conserved, nothing is locked or paid twice, and the outcome is the page's."""
    assert outcome_of(case) == read(PAGE.read_text())[case]


@pytest.mark.slow
def test_the_page_is_what_the_run_gives():
    """To the letter, over all cases; and nothing else comes of any of them."""
    rows = {case: outcome_of(case) for case in cases()}
    assert page(rows) == PAGE.read_text()
    assert set(rows.values()) <= set(OUTCOMES)
