"""Differences are taken within a seed, and what is sure is told from what is not."""

import pytest

from wwwmarket.simulator.comparison import differences_table, summary_table
from wwwmarket.simulator.report import Row, interval


def row(dispatch: str, seed: int, attainment: float, latency: float = 100.0, slo: str = "100s") -> Row:
    return Row(
        experiment="paper",
        setting="s",
        nodes=4,
        load=None,
        dispatch=dispatch,
        slo=slo,
        attainment=attainment,
        mean_latency_s=latency,
        p50_s=latency,
        p99_s=latency,
        ttft_p99_s=1.0,
        messages_per_request=1.0,
        requests=100,
        seed=seed,
    )


def test_interval_is_students() -> None:
    middle, half = interval([1.0, 2.0, 3.0])
    assert middle == 2.0
    assert half == pytest.approx(4.303 / 3**0.5)
    assert interval([5.0]) == (5.0, 0.0)


def test_a_steady_lead_is_sure_though_worlds_differ() -> None:
    """Each world is far from the others, the lead is the same in all: unpaired intervals would hide it."""
    rows = [row(rule, seed, 0.2 * seed + lead) for seed in range(4) for rule, lead in (("market", 0.02), ("single", 0))]
    assert "| single | +2.0 ± 0.0* |" in differences_table(rows, "slo")


def test_a_lead_that_changes_sides_is_not_sure() -> None:
    rows = [row("market", 0, 0.5), row("market", 1, 0.5), row("random", 0, 0.4), row("random", 1, 0.6)]
    line = differences_table(rows, "slo").splitlines()[-1]
    assert line.startswith("| random | +0.0 ±")
    assert "*" not in line


def test_a_seed_that_one_rule_lacks_is_left_out() -> None:
    rows = [row("market", 0, 0.5), row("market", 1, 0.9), row("random", 0, 0.4)]
    assert "| random | +10.0 |" in differences_table(rows, "slo")


def test_the_bound_is_no_rival() -> None:
    assert "bound" not in differences_table([row("market", 0, 0.5), row("bound", 0, 1.0)], "slo")


def test_summary_names_the_worst_and_the_best_objective() -> None:
    rows = [
        row("market", 0, 0.30, 80.0),
        row("market", 0, 0.99, 80.0, "200s"),
        row("central-oracle", 0, 0.40, 100.0),
        row("central-oracle", 0, 1.00, 100.0, "200s"),
        row("single", 0, 0.10, 160.0),
        row("single", 0, 0.90, 160.0, "200s"),
    ]
    line = summary_table([("s", rows)]).splitlines()[-1]
    assert line == "| s | 75.0% (100s) | 3.00 x (100s) | -20.0 % | -50.0 % |"
