"""``wwwmarket simulate`` and ``wwwmarket experiment`` as a person and a program meet them."""

import json
import subprocess
import sys

import msgspec
import pytest

from wwwmarket.simulator.experiments import Cell, market, measure_all, paper
from wwwmarket.simulator.incentives import DEVIATIONS, answer, questions, table
from wwwmarket.simulator.report import Row, attainment_table, interval
from wwwmarket.simulator.run import DISPATCHES
from wwwmarket.simulator.scenario import load_scenario, shipped


def start(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "wwwmarket", *arguments], capture_output=True, text=True, check=False, timeout=120
    )


def small(*arguments):
    return start("simulate", "mixed", "--requests", "40", "--nodes", "6", *arguments)


def test_rows_are_json_on_stdout_and_progress_is_not():
    """With --json stdout is a list of rows with exactly the promised fields; progress goes to stderr."""
    done = small("--dispatch", "single,market,bound", "--json", "--seed", "3")
    assert done.returncode == 0
    rows = msgspec.json.decode(done.stdout, type=list[Row])
    assert [row.dispatch for row in rows] == ["single", "market", "bound"]
    assert list(json.loads(done.stdout)[0]) == list(Row.__struct_fields__)
    assert all(row.seed == 3 and row.nodes == 6 and 0 <= row.attainment <= 1 for row in rows)
    assert "requests" in done.stderr


def test_the_same_command_prints_the_same_twice():
    """One seed, one output."""
    assert small("--dispatch", "market", "--json").stdout == small("--dispatch", "market", "--json").stdout


def test_a_trace_is_replayed(tmp_path):
    """A trace given on the command line is where requests come from."""
    trace = tmp_path / "trace.jsonl"
    trace.write_text(
        "".join(f'{{"timestamp": {i * 100}, "input_length": 50, "output_length": 9}}\n' for i in range(30))
    )
    done = small("--trace", str(trace), "--dispatch", "single", "--json")
    assert json.loads(done.stdout)[0]["attainment"] > 0.5


def test_without_a_scenario_the_shipped_ones_are_listed():
    """`wwwmarket simulate` says what there is."""
    listed = json.loads(start("simulate", "--json").stdout)
    assert [one["scenario"] for one in listed] == list(shipped())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("nowhere",), "nowhere"),
        (("setting-1", "--nodes", "5"), "--nodes"),
        (("mixed", "--dispatch", "magic"), "magic"),
    ],
)
def test_what_makes_no_sense_is_refused_in_one_line(arguments, says):
    """An unknown scenario, a contradiction, an unknown rule: exit code 1, and one line that names it."""
    done = start("simulate", *arguments)
    assert (done.returncode, done.stdout) == (1, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_an_experiment_writes_rows_tables_and_plots(tmp_path):
    """One command leaves rows for programs, tables for people, and plots."""
    pytest.importorskip("matplotlib")
    done = start("experiment", "market", "--quick", "--seeds", "1", "--out", str(tmp_path), "--json")
    assert done.returncode == 0, done.stderr
    rows = msgspec.json.decode((tmp_path / "market.json").read_bytes(), type=list[Row])
    assert {row.dispatch for row in rows} == set(DISPATCHES)
    assert "| market |" in (tmp_path / "market.md").read_text()
    assert list(tmp_path.glob("*.svg"))


def test_the_experiments_cover_what_they_promise():
    """The paper's settings, its joining, leaving, policies and classes; the market's sizes, loads, churn and people."""
    settings = {cell.setting for cell in paper(1)}
    assert {"setting-1", "setting-2", "setting-3", "setting-4", "join", "leave"} <= settings
    assert {"policy-acceptance", "policy-offload", "class-model", "class-precision, cheapest in time"} <= settings
    cells = market(1, [])
    assert {cell.scenario.nodes for cell in cells} == {8, 100, 1_000}
    assert {0.5, 0.9, 1.1} <= {cell.scenario.load for cell in cells}
    assert any(cell.scenario.churn == 0.1 for cell in cells)
    assert any(cell.scenario.people.over_promising for cell in cells)
    assert any(cell.scenario.overlay == "live" for cell in cells)
    assert {cell.scenario.sybils for cell in cells} == {None, "sybil-silent", "sybil-lying", "sybil-selling"}


def test_results_do_not_depend_on_who_runs_beside():
    """One worker or two, in any order of ending: the same results in the same order."""
    scenario = msgspec.structs.replace(load_scenario("mixed"), nodes=6, requests=40)
    cells = [Cell(experiment="e", setting="s", scenario=scenario, dispatch=d, seed=1) for d in ("market", "single")]
    assert measure_all(cells, lambda *_: None, workers=1) == measure_all(cells, lambda *_: None, workers=2)


def test_intervals_shrink_with_agreement():
    """One value has no interval; equal values have none; the table shows mean and half width."""
    assert interval([3.0]) == (3.0, 0.0)
    assert interval([1.0, 1.0]) == (1.0, 0.0)
    assert interval([1.0, 3.0])[1] > 1
    row = Row(
        experiment="e", setting="s", nodes=1, load=0.9, dispatch="market", slo="x", attainment=0.5, mean_latency_s=None,
        p50_s=None, p99_s=None, ttft_p99_s=None, messages_per_request=0, requests=1, seed=1,
    )  # fmt: skip
    assert attainment_table([row], "load").splitlines()[-1] == "| market | 50.0 |"


def test_deviations_are_compared_with_the_honest_run():
    """Each deviation of each chosen node has its honest profit beside it."""
    gains = answer(questions(1, quick=True)[0])
    assert {gain.deviation for gain in gains} == set(DEVIATIONS)
    assert len({(gain.node, gain.honest_micro) for gain in gains}) == len({gain.node for gain in gains})
    assert table(gains).count("\n") == 2 + len(DEVIATIONS)
