"""``wwwmarket experiment``: all the measurements, from one command, into one folder."""

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final

import msgspec
import typer

from wwwmarket.cli.options import Json
from wwwmarket.cli.output import emit, fail, say

if TYPE_CHECKING:
    from wwwmarket.domain.shape import Value
    from wwwmarket.simulator.classes import Share
    from wwwmarket.simulator.experiments import Result
    from wwwmarket.simulator.report import Row

_HELP: Final = """Measure the market against its rivals, into tables, plots and rows.

"paper" repeats published settings; "market" lays traces over many nodes all over the world; "incentives" asks what
a provider gains that is not truthful; "adversaries" what many of them gain together, and what it costs the others;
"overlay" how soon the overlay forgets the dead and heals.

\b
  wwwmarket experiment paper --seeds 5 --out results
  wwwmarket experiment market --trace conv.csv --trace mooncake.jsonl --out results
"""


class Which(StrEnum):
    paper = "paper"
    market = "market"
    incentives = "incentives"
    adversaries = "adversaries"
    overlay = "overlay"


def experiment(  # noqa: PLR0913 - a command's options
    *,
    which: Annotated[Which, typer.Argument(help="Which experiment.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Write rows, tables and plots here.", file_okay=False, metavar="DIR")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", help="How many seeds, from 0.", min=1, max=1_000)] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="A small part of it, in seconds.")] = False,
    trace: Annotated[
        list[Path] | None,
        typer.Option("--trace", help="For market: traces; again for more.", exists=True, dir_okay=False),
    ] = None,
    json: Json = False,
) -> None:
    from wwwmarket.simulator import experiments

    match which:
        case Which.incentives:
            _incentives(seeds, out, quick=quick, json=json)
            return
        case Which.adversaries:
            _adversaries(seeds, out, quick=quick, json=json)
            return
        case Which.overlay:
            _overlay(seeds, out, quick=quick, json=json)
            return
        case Which.paper | Which.market:
            pass
    if which is Which.paper:
        cells = experiments.paper(seeds, quick=quick)
    else:
        cells = experiments.market(seeds, trace or [], quick=quick)
    total = len(cells)

    def done(count: int, result: "Result") -> None:
        cell = result.cell
        say(f"{count} of {total}: {cell.setting}, {cell.scenario.nodes} nodes, {cell.dispatch}, seed {cell.seed}")

    results = experiments.measure_all(cells, done)
    rows = [row for result in results for row in result.rows]
    tables = _tables(rows)
    _leave(rows, tables, str(which), out, json=json)
    if out is not None:
        _plot(rows, out)
        _shares([share for result in results for share in result.shares], out)
    broken = experiments.failures(results)
    if broken:
        fail("; ".join(broken))


experiment.__doc__ = _HELP


def _incentives(seeds: int, out: Path | None, *, quick: bool, json: bool) -> None:
    from wwwmarket.simulator import incentives

    gains: list[incentives.Gain] = []
    for question in incentives.questions(seeds, quick=quick):
        gains += incentives.answer(question)
        say(f"{question.clients}, seed {question.seed}: {len(gains)} deviations")
    _leave(gains, incentives.table(gains), "incentives", out, json=json)


def _adversaries(seeds: int, out: Path | None, *, quick: bool, json: bool) -> None:
    from wwwmarket.simulator import adversaries
    from wwwmarket.simulator.experiments import in_parallel

    harms = in_parallel(
        adversaries.answer,
        adversaries.questions(seeds, quick=quick),
        lambda count, harm: say(f"{count}: {harm.adversary}, seed {harm.seed}"),
    )
    _leave(harms, adversaries.table(harms), "adversaries", out, json=json)


def _overlay(seeds: int, out: Path | None, *, quick: bool, json: bool) -> None:
    from wwwmarket.simulator import overlay_health
    from wwwmarket.simulator.experiments import in_parallel

    measured = in_parallel(
        overlay_health.answer,
        overlay_health.questions(seeds, quick=quick),
        lambda count, one: say(f"{count}: {one.nodes} nodes, loss {one.loss:g}, seed {one.seed}"),
    )
    _leave(measured, overlay_health.table(measured), "overlay", out, json=json)


def _leave(rows: "Sequence[Value]", table: str, name: str, out: Path | None, *, json: bool) -> None:
    """Rows and their table, in files where there is a folder, and on standard output."""
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(rows), indent=1) + b"\n")
        (out / f"{name}.md").write_text(table)
    emit(rows if json else table, json)


def _shares(shares: "Sequence[Share]", out: Path) -> None:
    """Of the classes of nodes, where a scenario has some."""
    from wwwmarket.simulator.classes import table

    if shares:
        (out / "classes.json").write_bytes(msgspec.json.format(msgspec.json.encode(shares), indent=1) + b"\n")
        (out / "classes.md").write_text(table(shares))


def _groups(rows: "Sequence[Row]") -> "dict[tuple[str, int], list[Row]]":
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in rows:
        groups.setdefault((row.setting, row.nodes), []).append(row)
    return groups


def _column(rows: "Sequence[Row]") -> str:
    return "slo" if len({row.slo for row in rows}) > 1 else "load"


def _tables(rows: "Sequence[Row]") -> str:
    from wwwmarket.simulator import comparison, report

    groups = _groups(rows)
    named = [(f"{setting}, {nodes} nodes", own) for (setting, nodes), own in groups.items()]
    parts = ["## The market beside central scheduling and beside nodes alone\n", comparison.summary_table(named)]
    for (setting, nodes), own in groups.items():
        column = _column(own)
        first = [row for row in own if row.slo == own[0].slo]
        parts += [
            f"## {setting}, {nodes} nodes\n",
            f"Requests in time (%), by {column}:\n",
            report.attainment_table(own, column),
            "In time, the market less its rivals seed by seed, in points (* where the interval holds no 0):\n",
            comparison.differences_table(own, column),
            "Mean latency (s):\n",
            report.latency_table(first, "load"),
            "Messages per request:\n",
            report.messages_table(first, "load"),
        ]
    return "\n".join(parts)


def _plot(rows: "Sequence[Row]", out: Path) -> None:
    from wwwmarket.domain.errors import Unavailable
    from wwwmarket.simulator.plots import attainment_plot

    for (setting, nodes), own in _groups(rows).items():
        name = "".join(letter if letter.isalnum() else "-" for letter in f"{setting}-{nodes}")
        try:
            attainment_plot(own, _column(own), out / f"{name}.svg")
        except Unavailable as refusal:
            say(refusal.message)
            return
