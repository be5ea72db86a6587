"""Plots of rows, by matplotlib: the extra ``plots``."""

from collections.abc import Sequence
from pathlib import Path

from wwwmarket.domain.errors import Unavailable
from wwwmarket.simulator.report import Row, interval


def attainment_plot(rows: Sequence[Row], column: str, path: Path) -> None:
    """Attainment over ``column`` (``slo``, ``load`` or ``nodes``), one line a dispatch rule, with 95 % intervals.

    Raises:
        Unavailable: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise Unavailable("plots need matplotlib: pip install 'wwwmarket[plots]'", retry_after_ms=0) from error
    mpl.use("agg")
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for rule in dict.fromkeys(row.dispatch for row in rows):
        own = [row for row in rows if row.dispatch == rule]
        heads = list(dict.fromkeys(getattr(row, column) for row in own))
        points = [interval([100 * row.attainment for row in own if getattr(row, column) == head]) for head in heads]
        places = [_number(head) for head in heads]
        axes.errorbar(
            places,
            [middle for middle, _ in points],
            yerr=[half for _, half in points],
            label=rule,
            marker=".",
            capsize=2,
        )
    axes.set_xlabel({"slo": "latency threshold (s)", "load": "offered load", "nodes": "nodes"}.get(column, column))
    axes.set_ylabel("requests in time (%)")
    axes.legend()
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def _number(head: object) -> float:
    try:
        return float(str(head).rstrip("s"))
    except ValueError:
        return 0.0
