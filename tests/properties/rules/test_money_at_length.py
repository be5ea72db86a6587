"""The contracts beside a dumb model, over as many random operations of many parties as there is time for."""

import sys
from collections import Counter

import pytest

from tests.properties.rules.crowd import Crowd

STEPS = 50_000
SEEDS = 30


def live(seed: int, steps: int, *, statements: int) -> Crowd:
    """A market's whole life: every step is compared with the model, and its log with everybody's statement."""
    crowd = Crowd(seed)
    for _ in range(steps):
        crowd.step()
    crowd.mark()
    crowd.crash()
    crowd.compare()
    crowd.check_settlements()
    crowd.check_statements(statements)
    return crowd


@pytest.mark.parametrize("seed", range(1_000, 1_005))
def test_money_moves_as_the_model_says(seed):
    """Twelve parties, entries twice and out of turn, crashes, an upgrade: conserved, settled once, never overdue."""
    crowd = live(seed, 3_000, statements=2)
    for kind in ("award", "settlement", "dispute", "offer", "withdrawal", "transfer", "decree", "crash"):
        assert crowd.done[kind], f"no {kind} was taken in this life: it says nothing of it"
    assert crowd.done["duplicate refused"]
    assert crowd.done["overtaking refused"]


@pytest.mark.slow
def test_money_moves_as_the_model_says_over_more_than_a_million_operations(capsys):
    """The same over many lives; how many operations there were, and of which kind, is printed."""
    done: Counter[str] = Counter()
    for seed in range(SEEDS):
        done += live(seed, STEPS, statements=3).done
    with capsys.disabled():
        sys.stdout.write(f"\n{sum(done.values()):,} operations\n")
        sys.stdout.writelines(f"{count:12,} {kind}\n" for kind, count in done.most_common())
    assert sum(done.values()) > 1_000_000
