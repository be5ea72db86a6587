"""What a run comes to: rows for programs, tables for people. Errors and refusals are misses, for every rule."""

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import mean, stdev
from typing import Final

from wwwmarket.domain.shape import Value
from wwwmarket.simulator.run import BOUND, Run, Served
from wwwmarket.simulator.scenario import Built

_STUDENT: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160, 2.145)
"""Quantiles at 0.975 of Student's distribution by degrees of freedom from 1 (NIST/SEMATECH e-Handbook, 1.3.6.7.2)."""


class Row(Value):
    """One measurement. Latencies are of answered requests; None where there are none, or for the bound."""

    experiment: str
    setting: str
    nodes: int
    load: float | None
    dispatch: str
    slo: str
    attainment: float
    mean_latency_s: float | None
    p50_s: float | None
    p99_s: float | None
    ttft_p99_s: float | None
    messages_per_request: float
    requests: int
    seed: int


def rows(  # noqa: PLR0913 - what a row is labelled with
    run: Run,
    built: Built,
    *,
    experiment: str,
    setting: str,
    load: float | None,
    seed: int,
    thresholds_s: Sequence[int] = (),
) -> list[Row]:
    """One row for the requests' own objectives, or one for each threshold of end-to-end latency."""
    measured = [served for served in run.served if served.request.at_us >= built.measured_from_us]
    known = run.dispatch != BOUND
    latencies = sorted(s.latency_us / 1e6 for s in measured if s.latency_us is not None) if known else []
    firsts = sorted(s.ttft_us / 1e6 for s in measured if s.ttft_us is not None)
    polled = run.polled_messages / max(1, len(run.served))
    met = {f"{t}s": _within(measured, t) for t in thresholds_s} or {built.slo: _in_time(measured)}
    return [
        Row(
            experiment=experiment,
            setting=setting,
            nodes=len(built.setup.nodes),
            load=load,
            dispatch=run.dispatch,
            slo=slo,
            attainment=round(count / max(1, len(measured)), 5),
            mean_latency_s=round(mean(latencies), 3) if latencies else None,
            p50_s=_percentile(latencies, 0.5),
            p99_s=_percentile(latencies, 0.99),
            ttft_p99_s=_percentile(firsts, 0.99),
            messages_per_request=round(sum(s.messages for s in measured) / max(1, len(measured)) + polled, 3),
            requests=len(measured),
            seed=seed,
        )
        for slo, count in met.items()
    ]


def _in_time(measured: Iterable[Served]) -> int:
    return sum(s.latency_us is not None and s.request.at_us + s.latency_us <= s.request.deadline_us for s in measured)


def _within(measured: Iterable[Served], threshold_s: int) -> int:
    return sum(s.latency_us is not None and s.latency_us <= threshold_s * 1_000_000 for s in measured)


def _percentile(ordered: Sequence[float], share: float) -> float | None:
    """Nearest rank."""
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its 95 % interval (Student's; 0 for a single value)."""
    count = len(values)
    if count < 2:
        return mean(values), 0.0
    quantile = _STUDENT[count - 2] if count - 2 < len(_STUDENT) else 1.96
    return mean(values), quantile * stdev(values) / sqrt(count)


def attainment_table(measured: Sequence[Row], column: str) -> str:
    """Markdown: dispatch rules down, values of ``column`` across, mean attainment in percent with its interval."""
    return _table(measured, column, lambda row: 100 * row.attainment, "{:.1f}")


def latency_table(measured: Sequence[Row], column: str) -> str:
    """Markdown: the same with mean latencies in seconds."""
    return _table(measured, column, lambda row: row.mean_latency_s, "{:.2f}")


def messages_table(measured: Sequence[Row], column: str) -> str:
    return _table(measured, column, lambda row: row.messages_per_request, "{:.2f}")


def _table(measured: Sequence[Row], column: str, value, form: str) -> str:  # type: ignore[no-untyped-def]  # noqa: ANN001
    heads = list(dict.fromkeys(getattr(row, column) for row in measured))
    rules = list(dict.fromkeys(row.dispatch for row in measured))
    lines = [f"| dispatch | {' | '.join(str(head) for head in heads)} |", "|---|" + "---|" * len(heads)]
    for rule in rules:
        cells = []
        for head in heads:
            found = [value(r) for r in measured if r.dispatch == rule and getattr(r, column) == head]
            values = [one for one in found if one is not None]
            if not values:
                cells.append("-")
                continue
            middle, half = interval(values)
            cells.append(form.format(middle) + (" ± " + form.format(half) if len(values) > 1 else ""))
        lines.append(f"| {rule} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
