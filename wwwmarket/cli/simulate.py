"""``wwwmarket simulate``: one scenario under one or several dispatch rules, on one clock and one seed."""

from pathlib import Path
from typing import Annotated, Final

import typer

from wwwmarket.cli.options import Json
from wwwmarket.cli.output import emit, fail, say
from wwwmarket.domain.errors import NotFound

_HELP: Final = """Simulate a market and its rivals: the same machines as a live node runs, on simulated time.

SCENARIO is a shipped scenario or a TOML file; without it the shipped ones are listed.

\b
  wwwmarket simulate setting-1
  wwwmarket simulate mixed --nodes 100 --load 0.9 --dispatch market,power-of-two,bound
  wwwmarket simulate mixed --trace AzureLLMInferenceTrace_conv.csv --seed 7 --json
"""


def simulate(  # noqa: PLR0913 - a command's options
    *,
    scenario: Annotated[str, typer.Argument(metavar="[SCENARIO|FILE]", help="A shipped scenario, or a file.")] = "",
    trace: Annotated[
        Path | None,
        typer.Option(
            "--trace", help="Requests from a trace: Azure CSV or Mooncake JSON lines.", exists=True, dir_okay=False
        ),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="What all chance comes from.", min=0)] = 1,
    nodes: Annotated[int | None, typer.Option("--nodes", help="How many mixed nodes.", min=1, max=10_000)] = None,
    load: Annotated[float | None, typer.Option("--load", help="Work offered over capacity.", min=0.01, max=10)] = None,
    requests: Annotated[int | None, typer.Option("--requests", help="How many requests.", min=1, max=2_000_000)] = None,
    dispatch: Annotated[
        str | None, typer.Option("--dispatch", help="Dispatch rules, separated by commas.", metavar="NAME,…")
    ] = None,
    json: Json = False,
    plot: Annotated[Path | None, typer.Option("--plot", help="Write a plot (.svg, .png) here.", metavar="FILE")] = None,
) -> None:
    from wwwmarket.simulator import scenario as scenarios
    from wwwmarket.simulator.experiments import Cell, Result, failures, measure
    from wwwmarket.simulator.plots import attainment_plot
    from wwwmarket.simulator.run import DISPATCHES

    if not scenario:
        shipped = [scenarios.load_scenario(name) for name in scenarios.shipped()]
        emit([{"scenario": one.name, "says": one.says} for one in shipped], json)
        return
    stated = scenarios.load_scenario(scenario)
    changed = scenarios.changed(stated, nodes=nodes, load=load, requests=requests)
    rules = dispatch.split(",") if dispatch else list(changed.dispatch)
    unknown = [rule for rule in rules if rule not in DISPATCHES]
    if unknown:
        raise NotFound(f"no dispatch rule {unknown[0]}; there are: {', '.join(DISPATCHES)}", param="dispatch")
    results: list[Result] = []
    for rule in rules:
        cell = Cell(
            experiment="simulate", setting=changed.name, scenario=changed, dispatch=rule, seed=seed, trace=trace
        )
        results.append(measure(cell, _Progress(rule)))
    rows = [row for result in results for row in result.rows]
    if plot is not None:
        attainment_plot(rows, "slo", plot)
    emit(rows, json)
    broken = failures(results)
    if broken:
        fail("; ".join(broken))


simulate.__doc__ = _HELP


class _Progress:
    """Says on stderr how far a run is, at every tenth of it."""

    def __init__(self, rule: str) -> None:
        self._rule = rule
        self._told = 0

    def __call__(self, done: int, total: int) -> None:
        tenths = 10 * done // max(1, total)
        if tenths > self._told:
            self._told = tenths
            say(f"{self._rule}: {done} of {total} requests")
