"""What an engine's own measurements say of it: a few requests of known lengths, fitted to the lines of ``prediction``.

Errors are relative, so that a fast request counts as much as a slow one, and the median of equal requests is fitted, so
that one late answer among them counts for nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Annotated, Final

from msgspec import Meta

from wwwmarket.dispatch.prediction import LearntLatency, Line
from wwwmarket.dispatch.step_time import EngineLimits
from wwwmarket.domain.errors import Malformed
from wwwmarket.domain.quantity import Tokens
from wwwmarket.domain.shape import Value

INPUT_TOKENS: Final = (64, 256, 1024)
"""Prompts of the plan: short, usual, and long enough to be compute bound."""
OUTPUT_TOKENS: Final = 24
REPEATS: Final = 3
CONCURRENCY_MAX: Final = 16
MILLIS_MIN: Final = 0.01
"""Nothing takes less, as far as a clock between two processes can tell."""
SLOPE_MIN: Final = 1e-5
"""Of the intercept: a line that was measured flat can still be learnt to rise."""

_Milliseconds = Annotated[float, Meta(ge=0, le=1e9)]


class Probe(Value):
    """``concurrency`` requests at once, each of so many tokens."""

    input_tokens: Tokens
    output_tokens: Tokens
    concurrency: Annotated[int, Meta(ge=1)] = 1


class Sample(Value):
    """One request as it went. Its tokens are those that the engine counted."""

    input_tokens: Tokens
    output_tokens: Tokens
    concurrency: Annotated[int, Meta(ge=1)]
    ttft_ms: _Milliseconds
    finish_ms: _Milliseconds

    @property
    def tpot_ms(self) -> float:
        return max(MILLIS_MIN, (self.finish_ms - self.ttft_ms) / max(1, self.output_tokens - 1))


class Fit(Value):
    """Two lines in milliseconds: first token over prompt tokens, time per output token over sequences.

    ``*_error_ppm`` are the median relative errors over the samples that each was fitted to.
    """

    ttft_ms: _Milliseconds
    ttft_ms_per_token: _Milliseconds
    tpot_ms: _Milliseconds
    tpot_ms_per_sequence: _Milliseconds
    ttft_error_ppm: Annotated[int, Meta(ge=0)]
    tpot_error_ppm: Annotated[int, Meta(ge=0)]

    def latency(self, limits: EngineLimits) -> LearntLatency:
        """A model that begins with the fit, and goes on learning."""
        return LearntLatency(
            ttft=Line(intercept_unit=self.ttft_ms, slope_unit=self.ttft_ms_per_token),
            tpot=Line(intercept_unit=self.tpot_ms, slope_unit=self.tpot_ms_per_sequence),
            limits=limits,
        )


def plan(*, context_tokens: Tokens, sequences: int) -> tuple[Probe, ...]:
    """What to measure on an engine, the most telling first: one after the other, then more and more at once."""
    prompts = [tokens for tokens in INPUT_TOKENS if tokens + OUTPUT_TOKENS <= context_tokens // 2]
    prompts = prompts or [max(1, context_tokens // 2 - OUTPUT_TOKENS)]
    alone = [Probe(input_tokens=tokens, output_tokens=OUTPUT_TOKENS) for _ in range(REPEATS) for tokens in prompts]
    crowd, many = [], 2
    while many <= min(sequences, CONCURRENCY_MAX):
        crowd.append(Probe(input_tokens=prompts[0], output_tokens=OUTPUT_TOKENS, concurrency=many))
        many *= 2
    return (*alone[: len(prompts)], *crowd, *alone[len(prompts) :])


def fit(samples: Sequence[Sample]) -> Fit:
    """Fit both lines.

    Raises:
        Malformed: no sample of a request that ran alone, or none with more than one token.
    """
    alone = [(sample.input_tokens, max(MILLIS_MIN, sample.ttft_ms)) for sample in samples if sample.concurrency == 1]
    paced = [(sample.concurrency, sample.tpot_ms) for sample in samples if sample.output_tokens > 1]
    if not alone or not paced:
        raise Malformed("too little was measured to fit an engine's latency")
    ttft_ms, ttft_slope = _line(alone)
    tpot_ms, tpot_slope = _line(paced)
    return Fit(
        ttft_ms=ttft_ms,
        ttft_ms_per_token=ttft_slope,
        tpot_ms=tpot_ms,
        tpot_ms_per_sequence=tpot_slope,
        ttft_error_ppm=_error_ppm(alone, ttft_ms, ttft_slope),
        tpot_error_ppm=_error_ppm(paced, tpot_ms, tpot_slope),
    )


def together(fits: Sequence[Fit]) -> Fit:
    """Several engines as one, work spread evenly: a further sequence slows only one of them."""
    count = len(fits)
    return Fit(
        ttft_ms=max(one.ttft_ms for one in fits),
        ttft_ms_per_token=max(one.ttft_ms_per_token for one in fits),
        tpot_ms=max(one.tpot_ms for one in fits),
        tpot_ms_per_sequence=sum(one.tpot_ms_per_sequence for one in fits) / count / count,
        ttft_error_ppm=max(one.ttft_error_ppm for one in fits),
        tpot_error_ppm=max(one.tpot_error_ppm for one in fits),
    )


def _line(points: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """Intercept and slope, both positive, with the least squares of relative errors to the medians at each x."""
    at: defaultdict[int, list[float]] = defaultdict(list)
    for x, y in points:
        at[x].append(y)
    medians = [(x, median(ys)) for x, ys in at.items()]
    weights = [1 / (y * y) for _, y in medians]
    total = sum(weights)
    mean_x = sum(w * x for w, (x, _) in zip(weights, medians, strict=True)) / total
    mean_y = sum(w * y for w, (_, y) in zip(weights, medians, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, (x, _) in zip(weights, medians, strict=True))
    rise = sum(w * (x - mean_x) * (y - mean_y) for w, (x, y) in zip(weights, medians, strict=True))
    slope = max(0.0, rise / spread) if spread > 0 else 0.0
    intercept = max(MILLIS_MIN, mean_y - slope * mean_x)
    if mean_x > 0:
        slope = (mean_y - intercept) / mean_x  # through the middle, also where the intercept was lifted
    return intercept, max(intercept * SLOPE_MIN, slope)


def _error_ppm(points: Sequence[tuple[int, float]], intercept: float, slope: float) -> int:
    return round(1_000_000 * median(abs(intercept + slope * x - y) / y for x, y in points))
