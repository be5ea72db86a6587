"""What each class of nodes comes to: the share of requests that it answers, and how its own clients are served."""

from collections.abc import Sequence
from typing import Protocol

from wwwmarket.domain.shape import Value
from wwwmarket.simulator.report import interval
from wwwmarket.simulator.run import Run
from wwwmarket.simulator.scenario import Scenario


class Share(Value):
    """One class of one run. Attainment and mean latency are of requests that came in at its nodes."""

    setting: str
    dispatch: str
    label: str
    seed: int
    answered: float
    """Of all answered requests."""
    attainment: float
    """At the middle one of the scenario's thresholds."""
    mean_latency_s: float | None


class _Measured(Protocol):
    @property
    def setting(self) -> str: ...
    @property
    def dispatch(self) -> str: ...
    @property
    def seed(self) -> int: ...


def shares(run: Run, scenario: Scenario, measured: _Measured) -> list[Share]:
    """One for each label of the scenario's nodes."""
    labels = [line.label for line in scenario.node]
    threshold_us = scenario.thresholds_s[len(scenario.thresholds_s) // 2] * 1_000_000 if scenario.thresholds_s else 0
    found: list[Share] = []
    for label in dict.fromkeys(label for label in labels if label):
        own = [served for served in run.served if labels[served.request.origin] == label]
        latencies = [served.latency_us for served in own if served.latency_us is not None]
        answered = sum(count for count, other in zip(run.executed, labels, strict=False) if other == label)
        found.append(
            Share(
                setting=measured.setting,
                dispatch=measured.dispatch,
                label=label,
                seed=measured.seed,
                answered=round(answered / max(1, sum(run.executed)), 4),
                attainment=round(sum(one <= threshold_us for one in latencies) / max(1, len(own)), 4),
                mean_latency_s=round(sum(latencies) / len(latencies) / 1e6, 2) if latencies else None,
            )
        )
    return found


def table(measured: Sequence[Share]) -> str:
    """Markdown: a table a setting, a row a rule and class, means over seeds with their 95 % intervals."""
    parts: list[str] = []
    for setting in dict.fromkeys(share.setting for share in measured):
        own = [share for share in measured if share.setting == setting]
        heads = "dispatch | class | requests answered (%) | its clients in time (%) | mean latency (s)"
        lines = [f"## {setting}, by class\n", f"| {heads} |", "|---|---|---|---|---|"]
        for rule, label in dict.fromkeys((share.dispatch, share.label) for share in own):
            these = [share for share in own if (share.dispatch, share.label) == (rule, label)]
            cells = (
                _mean([100 * share.answered for share in these]),
                _mean([100 * share.attainment for share in these]),
                _mean([share.mean_latency_s for share in these if share.mean_latency_s is not None]),
            )
            lines.append(f"| {rule} | {label} | {' | '.join(cells)} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _mean(values: Sequence[float]) -> str:
    if not values:
        return "-"
    middle, half = interval(values)
    return f"{middle:.1f} ± {half:.1f}"
