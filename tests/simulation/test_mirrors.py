"""Committees under a lying operator, lying members and crashes: thousands of seeds, and never two final histories.

Each checker is shown to catch the bugs that are planted for it.
"""

import pytest
from msgspec.structs import replace

from tests.simulation.committee import Planted, Story, outcome
from wwwmarket.domain.book import AccountRow
from wwwmarket.domain.records import Mark, Transfer
from wwwmarket.ledger.promises import Promises
from wwwmarket.rules.state import State
from wwwmarket.simulator.outcome import Diverged, Pass, Violated

WRONG_FROM_MICRO = 5
"""From how much on a planted bug gets a transfer wrong; the beginning of every log moves less."""


class Minting(State):
    """The receiver gets one more than was sent."""

    error_micro = 1

    def apply(self, checked):
        applied = super().apply(checked)
        if isinstance(checked.body, Transfer) and checked.body.amount_micro >= WRONG_FROM_MICRO:
            account = self.account(checked.body.to)
            changed = replace(account, available_micro=account.available_micro + self.error_micro)
            self._write([AccountRow(id=checked.body.to, value=changed)])
        return applied


class Losing(Minting):
    """The receiver gets one less."""

    error_micro = -1


class Deaf(Promises):
    """Takes no promise to heart."""

    def promised(self, promise):
        """Forgotten at once."""


class Trusting(Promises):
    """Forgets with each mark what was promised before it, as if it had been kept."""

    def applied(self, index, entry, author, body, operator):
        if isinstance(body, Mark):
            self._waiting.clear()
        super().applied(index, entry, author, body, operator)


def tell(seeds: range, faults: int, *, lying: bool = True) -> int:
    """How many stories ended well, and all others without anything final, which may be."""
    outcomes = {seed: outcome(Story(seed, faults, lying=lying)) for seed in seeds}
    wrong = {seed: each for seed, each in outcomes.items() if isinstance(each, Violated | Diverged)}
    assert not wrong, f"f = {faults}"
    return sum(isinstance(each, Pass) for each in outcomes.values())


def checkers(seeds: range, planted: Planted, *, lying: bool = True) -> set[str]:
    """The checkers that catch a planted bug."""
    outcomes = [outcome(Story(seed, 1, planted, lying=lying)) for seed in seeds]
    return {each.checker for each in outcomes if isinstance(each, Violated)}


def test_a_seed_tells_one_story():
    """Told again it ends the same."""
    first, second = (outcome(Story(5, 1)) for _ in range(2))
    assert first == second


@pytest.mark.parametrize("faults", [1, 2])
def test_no_final_history_forks(faults):
    """100 seeds for each f: f members sign whatever they are shown, the others die at any effect and come back."""
    assert tell(range(100), faults) > 10


@pytest.mark.slow
@pytest.mark.parametrize("faults", [1, 2])
def test_no_final_history_forks_in_thousands_of_seeds(faults):
    """2,500 seeds for each f."""
    assert tell(range(1_000, 3_500), faults) > 250


def test_an_honest_operator_is_never_accused():
    """Its promises are kept, whatever its mirrors and f of their committee do; so most of its stories end well."""
    assert tell(range(100), 1, lying=False) > 50


def test_the_stories_break_promises():
    """In each of the three ways, and keep others: so the checker of promises has something to check."""
    stories = [Story(seed, 1) for seed in range(30)]
    for story in stories:
        story.tell()
    authors = [author for story in stories for author in story.authors]
    assert {guilt.fault for author in authors for guilt in author.guilts} == {
        "promise_displaced",
        "promise_late",
        "promise_overdue",
    }
    assert any(author.kept() for author in authors)


def test_a_mirror_that_signs_before_it_stores_is_caught():
    """Disks that forget what was signed: some seed shows two final histories."""
    assert "fork" in checkers(range(150), Planted(amnesia=True))


@pytest.mark.parametrize("rules", [Minting, Losing])
def test_rules_that_make_or_lose_a_credit_are_caught(rules):
    """Everybody follows by them, so no two roots differ; the credits still do not add up."""
    assert checkers(range(20), Planted(rules=rules), lying=False) == {"money"}


@pytest.mark.parametrize("watch", [Deaf, Trusting])
def test_an_author_that_forgets_promises_is_caught(watch):
    """It could see them broken, and has nothing to show."""
    assert checkers(range(20), Planted(watch=watch)) == {"promises"}


@pytest.mark.parametrize("breaks", ["drops", "dawdles"])
def test_an_operator_that_breaks_a_promise_is_caught(breaks):
    """It is honest otherwise: it lets an entry that it promised fall, or takes longer than it promised."""
    assert checkers(range(20), Planted(breaks=breaks), lying=False) == {"promises"}


def test_a_mirror_that_keeps_no_evidence_is_caught():
    """It refuses what does not follow, and nobody can show why."""
    assert checkers(range(20), Planted(discreet=True)) == {"evidence"}


@pytest.mark.parametrize("rules", [Minting, Losing])
def test_honest_mirrors_that_follow_differently_diverge(rules):
    """One of them makes another state of the same entries: that is no fork and no lie, and is told as what it is."""
    outcomes = [outcome(Story(seed, 1, Planted(rules_of_one=rules), lying=False)) for seed in range(30)]
    diverged = [each for each in outcomes if isinstance(each, Diverged)]
    assert diverged
    assert all(each.first != each.second for each in diverged)
    assert not [each for each in outcomes if isinstance(each, Violated)]
