"""The experiments: cells of (scenario, size, load, seed, dispatch), run on all processors, in an order that is stated.

``paper`` repeats the published settings with their thresholds swept; ``market`` lays traces over mixed nodes all over
the world. A cell depends on nothing but itself, so its rows are the same however many run beside it.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from os import sched_getaffinity
from pathlib import Path
from typing import Final, TypeVar

from msgspec.structs import replace

from wwwmarket.domain.shape import Value
from wwwmarket.simulator.classes import Share, shares
from wwwmarket.simulator.outcome import Outcome, Pass
from wwwmarket.simulator.report import Row, rows
from wwwmarket.simulator.run import BOUND, DISPATCHES, simulate
from wwwmarket.simulator.scenario import People, Scenario, Sybils, build, load_scenario

Q = TypeVar("Q")
A = TypeVar("A")

PAPER_SETTINGS: Final = ("setting-1", "setting-2", "setting-3", "setting-4", "join", "leave")
POLICIES: Final = ("policy-acceptance", "policy-offload")
CLASSES: Final = ("class-model", "class-precision", "class-backend", "class-hardware")
CLIENTS: Final = {"": 1_000, ", cheapest in time": 0}
"""What a second is worth to them, in micro-credits."""
LOADS: Final = (0.5, 0.7, 0.9, 1.1)
ERRORS: Final = (0.0, 0.1, 0.2, 0.4, 0.8)
SYBILS: Final[tuple[Sybils, ...]] = ("sybil-silent", "sybil-lying", "sybil-selling")
LARGE: Final = 1_000
"""From so many nodes on only the rules that a comparison needs are run, at one load, for one seed."""
STRONG: Final = ("market", "central-oracle", "power-of-two", "random", BOUND)
REQUESTS: Final = {8: 2_000, 100: 4_000, 1_000: 20_000}


class Cell(Value):
    experiment: str
    setting: str
    scenario: Scenario
    dispatch: str
    seed: int
    trace: Path | None = None


class Result(Value):
    cell: Cell
    outcome: Outcome
    rows: tuple[Row, ...]
    shares: tuple[Share, ...] = ()


def measure(cell: Cell, progress: Callable[[int, int], None] | None = None) -> Result:
    """Run one cell. Raises what ``build`` and ``simulate`` raise."""
    scenario = cell.scenario
    built = build(scenario, cell.seed, cell.trace)
    run = simulate(built.setup, built.requests, cell.dispatch, progress)
    stated = bool(scenario.node) and cell.trace is None
    found = rows(
        run,
        built,
        experiment=cell.experiment,
        setting=cell.setting,
        load=None if stated else scenario.load,
        seed=cell.seed,
        thresholds_s=scenario.thresholds_s if stated else (),
    )
    return Result(cell=cell, outcome=run.outcome, rows=tuple(found), shares=tuple(shares(run, scenario, cell)))


def paper(seeds: int, *, quick: bool = False) -> list[Cell]:
    """The published settings, joining and leaving, policies and classes, under every dispatch rule that they name."""
    names = PAPER_SETTINGS[:1] if quick else (*PAPER_SETTINGS, *POLICIES)
    settings = {name: load_scenario(name) for name in names}
    for name in () if quick else CLASSES:
        for clients, value in CLIENTS.items():
            settings[name + clients] = replace(load_scenario(name), time_value_micro_per_s=value)
    return [
        Cell(experiment="paper", setting=name, scenario=scenario, dispatch=dispatch, seed=seed)
        for name, scenario in settings.items()
        for dispatch in scenario.dispatch
        for seed in range(seeds)
    ]


def market(seeds: int, traces: Sequence[Path], *, quick: bool = False) -> list[Cell]:
    """Traces (without any, a log-normal stream) over 8, 100 and 1,000 mixed nodes at load 0.9; of the first trace other
    loads too, and what may go wrong, at 100 nodes.
    """
    streams: list[Path | None] = list(traces) or [None]
    base = load_scenario("mixed")
    cells: list[Cell] = []
    for place, stream in enumerate(streams):
        name = "synthetic" if stream is None else stream.stem
        for nodes in (8,) if quick else (8, 100, LARGE):
            loads = LOADS if place == 0 and nodes == 100 else (0.9,)
            for load in loads:
                scenario = replace(base, nodes=nodes, load=load, requests=300 if quick else REQUESTS[nodes])
                for dispatch in STRONG if nodes >= LARGE else DISPATCHES:
                    cells += _seeded(name, scenario, dispatch, 1 if nodes >= LARGE else seeds, stream)
        if place == 0 and not quick:
            cells += list(_troubled(name, base, stream, seeds))
    return cells


def _troubled(name: str, base: Scenario, stream: Path | None, seeds: int) -> Iterator[Cell]:
    """Churn, the live overlay, errors of prediction, people and Sybils, at 100 nodes and load 0.9."""
    hundred = replace(base, nodes=100, requests=REQUESTS[100])
    variants = {f"{name} churn 10 %": replace(hundred, churn=0.1)}
    variants |= {f"{name} prediction error {error:g}": replace(hundred, prediction_error=error) for error in ERRORS}
    variants[f"{name} live overlay"] = replace(hundred, overlay="live")
    variants[f"{name} live overlay, churn 10 %"] = replace(hundred, overlay="live", churn=0.1)
    for field in ("greedy", "over_promising", "under_promising", "silent", "slow", "lying", "ring"):
        variants[f"{name} 10 % {field.replace('_', '-')}"] = replace(hundred, people=People(**{field: 0.1}))
    for kind in SYBILS:
        variants[f"{name} 30 % {kind}"] = replace(hundred, sybils=kind)
    for setting, scenario in variants.items():
        for dispatch in (
            ("market", "central-oracle") if "churn" in setting and scenario.overlay == "static" else ("market",)
        ):
            yield from _seeded(setting, scenario, dispatch, seeds, stream)


def _seeded(setting: str, scenario: Scenario, dispatch: str, seeds: int, stream: Path | None) -> list[Cell]:
    return [
        Cell(experiment="market", setting=setting, scenario=scenario, dispatch=dispatch, seed=seed, trace=stream)
        for seed in range(seeds)
    ]


def measure_all(cells: Sequence[Cell], done: Callable[[int, Result], None], workers: int | None = None) -> list[Result]:
    """All cells; results in their order."""
    return in_parallel(measure, cells, done, workers)


def in_parallel(
    answer: Callable[[Q], A], questions: Sequence[Q], done: Callable[[int, A], None], workers: int | None = None
) -> list[A]:
    """All questions, on as many processes as there are processors; answers in the order of the questions."""
    found: dict[int, A] = {}
    with ProcessPoolExecutor(workers or len(sched_getaffinity(0))) as pool:
        waiting = {pool.submit(answer, question): i for i, question in enumerate(questions)}
        for future in as_completed(waiting):
            found[waiting[future]] = future.result()
            done(len(found), future.result())
    return [found[i] for i in range(len(questions))]


def failures(results: Sequence[Result]) -> list[str]:
    """Runs that did not pass, in words."""
    return [
        f"{r.cell.setting}, {r.cell.dispatch}, seed {r.cell.seed}: {r.outcome}"
        for r in results
        if not isinstance(r.outcome, Pass)
    ]
