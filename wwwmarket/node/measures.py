"""Totals since start, for ``/metrics``: counters and histograms of what this node has done."""

from collections import Counter
from typing import Final

BUCKETS_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000)
"""Upper bounds in milliseconds; from an auction on loopback to a long answer."""


class Measures:
    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._histograms: dict[str, list[int]] = {}
        self._sums: Counter[str] = Counter()

    def count(self, name: str, amount: int = 1) -> None:
        self.counters[name] += amount

    def observe(self, name: str, value_ms: float) -> None:
        """Add one duration to the histogram ``name``."""
        buckets = self._histograms.setdefault(name, [0] * (len(BUCKETS_MS) + 1))
        place = next((place for place, bound in enumerate(BUCKETS_MS) if value_ms <= bound), len(BUCKETS_MS))
        buckets[place] += 1
        self._sums[name] += round(value_ms)

    def histograms(self) -> dict[str, tuple[tuple[float, int], ...]]:
        """Cumulative counts by upper bound, the last one infinite, as Prometheus has them."""
        bounds = [*map(float, BUCKETS_MS), float("inf")]
        cumulative: dict[str, tuple[tuple[float, int], ...]] = {}
        for name, counts in self._histograms.items():
            total = 0
            rows = []
            for bound, count in zip(bounds, counts, strict=True):
                total += count
                rows.append((bound, total))
            cumulative[name] = tuple(rows)
        return cumulative
