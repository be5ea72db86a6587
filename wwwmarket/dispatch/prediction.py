"""When a request would have its first token and its last, on an engine as it is now.

Both kinds of engine are predicted in the same way, by playing the known work forward (``foresight``, or a
``BatchingEngine`` where its KV cache would run out): one with a row in the table from its formula, of which a factor is
learnt online from what was observed; any other from a formula of the same form whose constants are all learnt,
beginning with what was measured or what the offer promises. What leaves this module is integer milliseconds, rounded
up.
"""

from math import ceil
from typing import Final, Protocol

from wwwmarket.dispatch.batching import BatchingEngine, Sequence
from wwwmarket.dispatch.foresight import Part, foresee
from wwwmarket.dispatch.step_time import EngineLimits, StepTimeModel
from wwwmarket.domain.errors import TooLarge
from wwwmarket.domain.quantity import MicroCredits, Millis, Slo, Tokens
from wwwmarket.domain.shape import Value

GRAINS: Final = 12
"""Ends of other sequences are seen at this resolution of the request's own length: what bounds the cost."""
ROUNDS_MAX: Final = 10_000
"""Steps played before the answer is "at least this long"."""
PROMPT_TOKENS_TYPICAL: Final = 1_000
"""Prompt that a promised time to first token is taken to speak of."""
FORGETTING: Final = 0.98
"""Weight of the past at each observation: about the last 50 count."""
PRIOR_VARIANCE: Final = 4.0
"""Trust in the prior: a coefficient counts as known to a factor of three."""
VARIANCE_MAX: Final = 100.0
"""Above it nothing is forgotten: keeps the variance from winding up while nothing new is seen."""
COEFFICIENT_MIN: Final = 0.01
"""Of the prior: nothing is ever predicted to be free."""
CALIBRATING_TOKENS: Final = 16
"""Shorter answers say too little of an engine's pace."""
SMOOTHING: Final = 0.1
"""Least weight of one answer: in the end about the last twenty count."""
OTHERS_MAX: Final = 4_096
"""Sequences of others that are played; an engine that reports more is late enough with these."""


class Work(Value):
    """What this provider knows of one request that it has in hand or has promised to hold a place for."""

    input_tokens_left: Tokens
    output_tokens_left: Tokens
    context_tokens: Tokens = 0
    """Already computed."""
    time_value_micro_per_s: MicroCredits = 0
    """What a second is worth to its client."""


class Load(Value):
    """A live picture of an engine: what it says of itself, and the work known, in order of arrival.

    Sequences that the engine counts beyond those in ``work`` belong to others, and are taken to be like the known ones.
    """

    running: int
    waiting: int
    kv_usage_ppm: int | None = None
    work: tuple[Work, ...] = ()
    """In the engine, sent by this provider."""
    holds: tuple[Work, ...] = ()
    """Promised a place, not yet in the engine."""
    usual: int = 0
    """Sequences that run here as a rule: while so many or fewer run, whoever ends is followed by another."""


class Prediction(Value):
    """Milliseconds from now, rounded up."""

    ttft_ms: Millis
    finish_ms: Millis


class LatencyModel(Protocol):
    def predict(self, load: Load, *, input_tokens: Tokens, output_tokens: Tokens) -> Prediction:
        """Predict a request of ``input_tokens`` that is expected to produce ``output_tokens``.

        Raises:
            TooLarge: it could never fit the engine.
        """
        ...


class LearningModel(LatencyModel, Protocol):
    """A model that is corrected by what it sees."""

    @property
    def limits(self) -> EngineLimits: ...
    def step_time(self) -> StepTimeModel:
        """As it is believed now."""
        ...

    def observe(self, seen: "Observation") -> "LearningModel":
        """The model after one more finished request."""
        ...


class TableLatency(Value):
    """An engine whose step time is known."""

    model: StepTimeModel
    limits: EngineLimits

    def predict(self, load: Load, *, input_tokens: Tokens, output_tokens: Tokens) -> Prediction:
        return _play(self.model, self.limits, load, input_tokens, max(1, output_tokens))


class CalibratedLatency(Value):
    """An engine with a row in the table, of which it takes ``factor`` times as long: the ratio of what was seen of
    answers' pace to what the formula says of the same batch, smoothed. ``answers`` count, and the table as one.
    """

    table: StepTimeModel
    limits: EngineLimits
    factor: float = 1.0
    answers: int = 1

    def step_time(self) -> StepTimeModel:
        return self.table.scaled(self.factor)

    def predict(self, load: Load, *, input_tokens: Tokens, output_tokens: Tokens) -> Prediction:
        return _play(self.step_time(), self.limits, load, input_tokens, max(1, output_tokens))

    def observe(self, seen: "Observation") -> "CalibratedLatency":
        if seen.output_tokens < CALIBRATING_TOKENS:
            return self
        said_ms = self.table.step_ms(seen.concurrency, seen.context_tokens)
        weight = max(SMOOTHING, 1 / (self.answers + 1))
        factor = max(COEFFICIENT_MIN, self.factor + weight * (seen.tpot_ms / said_ms - self.factor))
        return CalibratedLatency(table=self.table, limits=self.limits, factor=factor, answers=self.answers + 1)


class Line(Value):
    """``y = intercept + slope x``, fitted by recursive least squares with forgetting (Haykin, Adaptive Filter Theory).

    Both coefficients are in units of their priors, so that one starting variance suits both.
    """

    intercept_unit: float
    slope_unit: float
    intercept: float = 1.0
    slope: float = 1.0
    variance_intercept: float = PRIOR_VARIANCE
    variance_slope: float = PRIOR_VARIANCE
    covariance: float = 0.0

    def at(self, x: float) -> float:
        return self.intercept * self.intercept_unit + self.slope * self.slope_unit * x

    def observe(self, x: float, y: float) -> "Line":
        """The line after one more point; coefficients stay positive."""
        scale = self.intercept_unit + self.slope_unit * x
        a, b = self.intercept_unit / scale, self.slope_unit * x / scale
        gain_a = self.variance_intercept * a + self.covariance * b
        gain_b = self.covariance * a + self.variance_slope * b
        memory = FORGETTING if self.variance_intercept + self.variance_slope < VARIANCE_MAX else 1.0
        spread = memory + a * gain_a + b * gain_b
        error = (y / scale - a * self.intercept - b * self.slope) / spread
        return Line(
            intercept_unit=self.intercept_unit,
            slope_unit=self.slope_unit,
            intercept=max(COEFFICIENT_MIN, self.intercept + gain_a * error),
            slope=max(COEFFICIENT_MIN, self.slope + gain_b * error),
            variance_intercept=(self.variance_intercept - gain_a * gain_a / spread) / memory,
            variance_slope=(self.variance_slope - gain_b * gain_b / spread) / memory,
            covariance=(self.covariance - gain_a * gain_b / spread) / memory,
        )


class Observation(Value):
    """One finished request. ``input_tokens_ahead`` were to be computed before its first token, its own included;
    ``concurrency`` sequences decoded together on average, itself included, with ``context_tokens`` in all. One that
    ``waited`` for a slot shows nothing of how fast first tokens come. Milliseconds, unrounded.
    """

    input_tokens_ahead: Tokens
    output_tokens: Tokens
    concurrency: int
    ttft_ms: float
    finish_ms: float
    context_tokens: Tokens = 0
    waited: bool = False

    @property
    def tpot_ms(self) -> float:
        """Per output token after the first, of which there is one at least."""
        return max(0.0, self.finish_ms - self.ttft_ms) / (self.output_tokens - 1)


class LearntLatency(Value):
    """An engine without a table. ``ttft`` is over input tokens ahead, ``tpot`` over concurrency; both in ms."""

    ttft: Line
    tpot: Line
    limits: EngineLimits

    @classmethod
    def from_promise(cls, slo: Slo, limits: EngineLimits) -> "LearntLatency":
        """Begin with what the offer promises: its TTFT for a typical prompt, its TPOT when all slots are full, half of
        it alone. Slots are the engine's, not the sequences on offer: some of those may have to wait for one.
        """
        ttft_ms, tpot_ms = max(1, slo.ttft_ms), max(1, slo.tpot_ms)
        return cls(
            ttft=Line(intercept_unit=ttft_ms / 4, slope_unit=ttft_ms * 3 / 4 / PROMPT_TOKENS_TYPICAL),
            tpot=Line(intercept_unit=tpot_ms / 2, slope_unit=tpot_ms / 2 / limits.sequences_max),
            limits=limits,
        )

    def observe(self, seen: Observation) -> "LearntLatency":
        """The model after one more finished request."""
        tpot = self.tpot
        if seen.output_tokens > 1:
            tpot = tpot.observe(max(1, seen.concurrency), seen.tpot_ms)
        ttft = self.ttft if seen.waited else self.ttft.observe(seen.input_tokens_ahead, seen.ttft_ms)
        return LearntLatency(ttft=ttft, tpot=tpot, limits=self.limits)

    def step_time(self) -> StepTimeModel:
        """The same in the form of the formula: linear (blend 1), without a term for context."""
        step_ms = self.tpot.intercept * self.tpot.intercept_unit
        token_ms = self.ttft.slope * self.ttft.slope_unit
        return StepTimeModel(
            step_ms_fixed=0.0,
            # decoding tokens are in the formula's T already; what they cost was seen in the time per output token
            sequence_ms=self.tpot.slope * self.tpot.slope_unit - token_ms,
            weights_ms=step_ms,
            blend=1.0,
            token_ms=token_ms,
            kv_token_ms=0.0,
            prefill_ms_per_token2=0.0,
            front_end_ms=max(0.0, self.ttft.intercept * self.ttft.intercept_unit - step_ms),
        )

    def predict(self, load: Load, *, input_tokens: Tokens, output_tokens: Tokens) -> Prediction:
        return _play(self.step_time(), self.limits, load, input_tokens, max(1, output_tokens))


def _play(model: StepTimeModel, limits: EngineLimits, load: Load, input_tokens: int, output_tokens: int) -> Prediction:
    """The known work first, the request behind it: when it starts to answer, and when it has ended."""
    own = Part(max(2, input_tokens), output_tokens, 0)
    if own.input_tokens + output_tokens > limits.kv_tokens_max:
        raise TooLarge(f"{own.input_tokens} + {output_tokens} tokens are more than the KV cache holds")
    ahead, room = _ahead(load, input_tokens, output_tokens, limits), limits.kv_tokens_max
    decoding: list[tuple[int, int]] = []
    waiting: list[Part] = []
    for work in ahead:
        left, context = work.output_tokens_left, work.context_tokens
        if context > 0 and work.input_tokens_left <= 1 <= left < room - context:
            decoding.append((left, context))
        else:
            waiting.append(_part(work, room))
    seen = foresee(model, limits, decoding, waiting, own, grain=max(1, output_tokens // GRAINS), usual=load.usual)
    if seen is None:
        parts = [_part(work, room) for work in ahead]
        return _step(BatchingEngine(model, limits), parts, own, model.front_end_ms, load.usual)
    return Prediction(ttft_ms=ceil(seen.first_ms), finish_ms=ceil(seen.finish_ms))


def _step(engine: BatchingEngine, ahead: list[Part], own: Part, now_ms: float, usual: int) -> Prediction:
    """The engine itself, step by step, until the request has ended."""
    grain = max(1, own.output_tokens // GRAINS)
    for key, part in enumerate(ahead):
        known, output = part.computed_tokens + part.input_tokens, -(-part.output_tokens // grain) * grain
        engine.admit(
            Sequence(
                key=key,
                input_tokens=known,
                output_tokens=min(output, engine.limits.kv_tokens_max - known),
                computed_tokens=part.computed_tokens,
            )
        )
    own_key = len(ahead)
    engine.admit(Sequence(key=own_key, input_tokens=own.input_tokens, output_tokens=own.output_tokens))
    first_ms, kept, key = None, 0, own_key
    for _ in range(ROUNDS_MAX):
        joined = first_ms is not None or engine.waiting > 0
        outcome = engine.next_step(now_ms, steps_max=own.output_tokens if joined else 1)
        assert outcome is not None, "the request is still in the engine"
        now_ms = outcome.ended_ms
        if first_ms is None and own_key in outcome.emitted:
            first_ms, kept = now_ms, min(usual, engine.running)
        if own_key in outcome.finished:
            break
        for _ in range(kept - engine.running - engine.waiting):
            key += 1
            engine.admit(Sequence(key=key, input_tokens=own.input_tokens, output_tokens=own.output_tokens))
    return Prediction(ttft_ms=ceil(now_ms if first_ms is None else first_ms), finish_ms=ceil(now_ms))


def _ahead(load: Load, input_tokens: int, output_tokens: int, limits: EngineLimits) -> tuple[Work, ...]:
    """All that is served before the request: running work of others, known work, waiting work of others, holds."""
    known = len(load.work)
    output = ceil(sum(w.output_tokens_left for w in load.work) / known) if known else output_tokens
    known_running = sum(1 for w in load.work if w.context_tokens > 0)
    running = min(OTHERS_MAX, max(0, load.running - known_running))
    waiting = min(OTHERS_MAX, max(0, load.running + load.waiting - known - running))
    context = max(2, input_tokens)
    if load.kv_usage_ppm is not None and running:
        used = limits.kv_tokens_max * load.kv_usage_ppm // 1_000_000 - sum(w.context_tokens for w in load.work)
        context = max(1, used // running)
    other = Work(input_tokens_left=1, output_tokens_left=max(1, output), context_tokens=context)
    queued = Work(input_tokens_left=max(2, input_tokens), output_tokens_left=max(1, output))
    return (other,) * running + load.work + (queued,) * waiting + load.holds


def _part(work: Work, room: int) -> Part:
    """Work of others, cut to what can fit (it did fit, where it runs)."""
    context = max(0, min(work.context_tokens, room - 2))
    left = max(1 if context else 2, min(work.input_tokens_left, room - 1 - context))
    return Part(left, max(1, min(work.output_tokens_left, room - context - left)), context)
