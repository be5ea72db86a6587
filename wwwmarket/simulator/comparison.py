"""The market beside its rivals, seed by seed: a seed is one world for all rules, so differences are taken within it."""

from collections.abc import Iterator, Sequence
from typing import Final

from wwwmarket.simulator.report import Row, interval
from wwwmarket.simulator.run import BOUND

OURS: Final = "market"
ORACLE: Final = "central-oracle"
ALONE: Final = "single"

Pair = tuple[Row, Row]


def differences_table(measured: Sequence[Row], column: str) -> str:
    """Markdown: rivals down, values of ``column`` across; attainment of the market less the rival's, in points.

    A star marks a difference whose 95 % interval over seeds (of the differences) does not hold 0.
    """
    heads = list(dict.fromkeys(getattr(row, column) for row in measured))
    lines = [f"| market less | {' | '.join(str(head) for head in heads)} |", "|---|" + "---|" * len(heads)]
    for rival in _rivals(measured):
        cells = [_points(_paired([row for row in measured if getattr(row, column) == head], rival)) for head in heads]
        lines.append(f"| {rival} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def summary_table(groups: Sequence[tuple[str, Sequence[Row]]]) -> str:
    """Markdown: a line for each named group of rows, about the market beside the oracle and beside nodes alone.

    Attainment is compared at each objective by means over seeds: the least ratio to the oracle's, and the greatest to
    that of nodes which keep what comes to them, each with its objective.
    """
    lines = [
        "| setting | least share of the oracle's in time | most beside single | latency to the oracle | to single |",
        "|---|---|---|---|---|",
    ]
    for name, rows in groups:
        shares, factors = list(_ratios(rows, ORACLE)), list(_ratios(rows, ALONE))
        cells = [
            "-" if not shares else _ratio(min(shares), "{:.1%}"),
            "-" if not factors else _ratio(max(factors), "{:.2f} x"),
            _latency(rows, ORACLE),
            _latency(rows, ALONE),
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _rivals(measured: Sequence[Row]) -> list[str]:
    return [rule for rule in dict.fromkeys(row.dispatch for row in measured) if rule not in {OURS, BOUND}]


def _paired(measured: Sequence[Row], rival: str) -> list[Pair]:
    """The market's row and the rival's for each seed that has both."""
    theirs = {row.seed: row for row in measured if row.dispatch == rival}
    return [(row, theirs[row.seed]) for row in measured if row.dispatch == OURS and row.seed in theirs]


def _points(pairs: Sequence[Pair]) -> str:
    if not pairs:
        return "-"
    middle, half = interval([100 * (ours.attainment - theirs.attainment) for ours, theirs in pairs])
    sure = len(pairs) > 1 and abs(middle) > half
    return f"{middle:+.1f}" + (f" ± {half:.1f}" if len(pairs) > 1 else "") + ("*" if sure else "")


def _ratios(rows: Sequence[Row], rival: str) -> Iterator[tuple[float, str]]:
    """Ours over the rival's at each objective where the rival meets any."""
    for slo in dict.fromkeys(row.slo for row in rows):
        pairs = _paired([row for row in rows if row.slo == slo], rival)
        theirs = sum(other.attainment for _, other in pairs)
        if theirs:
            yield sum(ours.attainment for ours, _ in pairs) / theirs, slo


def _ratio(found: tuple[float, str], form: str) -> str:
    return f"{form.format(found[0])} ({found[1]})"


def _latency(rows: Sequence[Row], rival: str) -> str:
    first = [row for row in rows if row.slo == rows[0].slo]
    pairs = [
        (ours, theirs)
        for ours, theirs in _paired(first, rival)
        if ours.mean_latency_s is not None and theirs.mean_latency_s
    ]
    if not pairs:
        return "-"
    middle, half = interval(
        [100 * ((ours.mean_latency_s or 0) / (theirs.mean_latency_s or 1) - 1) for ours, theirs in pairs]
    )
    return f"{middle:+.1f} %" + (f" ± {half:.1f}" if len(pairs) > 1 else "")
