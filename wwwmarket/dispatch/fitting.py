"""What an engine's own measurements say of it: a few requests of known lengths, fitted to the lines of ``prediction``.

Errors are relative, so that a fast request counts as much as a slow one, and the median of equal requests is fitted, so
that one late answer among them counts for nothing. Pace comes from when long answers ended, not from when their pieces
came: a server short of CPU sends tokens in bursts.
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
OUTPUT_TOKENS_SHORT: Final = 8
OUTPUT_TOKENS_LONG: Final = 64
"""Of answers that show when the first token comes, and of those that show the pace after it."""
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
    room = context_tokens // 2 - OUTPUT_TOKENS_LONG
    prompts = [tokens for tokens in INPUT_TOKENS if tokens <= room] or [max(1, room)]
    first = [Probe(input_tokens=tokens, output_tokens=OUTPUT_TOKENS_SHORT) for tokens in prompts]
    pace = [Probe(input_tokens=prompts[0], output_tokens=OUTPUT_TOKENS_LONG)]
    while (many := 2 * pace[-1].concurrency) <= min(sequences, CONCURRENCY_MAX):
        pace.append(Probe(input_tokens=prompts[0], output_tokens=OUTPUT_TOKENS_LONG, concurrency=many))
    return (*first, *pace) * REPEATS


def fit(samples: Sequence[Sample]) -> Fit:
    """Fit both lines.

    Raises:
        Malformed: no sample of a request that ran alone, or none with more than one token.
    """
    longest = max((sample.output_tokens for sample in samples), default=0)
    long = [sample for sample in samples if sample.output_tokens >= max(2, longest // 2)]
    alone = [one for one in samples if one.concurrency == 1]
    short = [one for one in alone if one not in long] or alone
    if not short or not long:
        raise Malformed("too little was measured to fit an engine's latency")
    first = [(one.input_tokens, max(MILLIS_MIN, one.ttft_ms)) for one in short]
    ttft_ms, ttft_slope = _line(first)
    paced = [
        (one.concurrency, _pace_ms(one, ttft_ms + ttft_slope * one.input_tokens * one.concurrency)) for one in long
    ]
    tpot_ms, tpot_slope = _line(paced)
    return Fit(
        ttft_ms=ttft_ms,
        ttft_ms_per_token=ttft_slope,
        tpot_ms=tpot_ms,
        tpot_ms_per_sequence=tpot_slope,
        ttft_error_ppm=_error_ppm(first, ttft_ms, ttft_slope),
        tpot_error_ppm=_error_ppm(paced, tpot_ms, tpot_slope),
    )


def _pace_ms(sample: Sample, ttft_ms: float) -> float:
    """Milliseconds per output token after the first, which came after ``ttft_ms``."""
    return max(MILLIS_MIN, (sample.finish_ms - ttft_ms) / (sample.output_tokens - 1))


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
