"""What a provider knows of its engine from moment to moment, and what it foresees from it.

Kept alike by live nodes and by the simulator's providers; only who tells it differs. It learns from what passes by
(what was sent to the engine, tokens that came out, when each ended) and from counts that the engine gives of
everybody's work, never from inside the engine. Times are milliseconds of any one steady clock, given by the caller.
"""

from collections.abc import Hashable
from dataclasses import dataclass
from math import ceil
from typing import Generic, TypeVar

from wwwmarket.dispatch.burden import burden
from wwwmarket.dispatch.occupancy import Occupancy
from wwwmarket.dispatch.prediction import LearningModel, Load, Observation, Work
from wwwmarket.dispatch.remaining_length import RemainingLengths
from wwwmarket.domain.errors import TooLarge
from wwwmarket.domain.quantity import Count, MicroCredits, Millis, PartsPerMillion, Tokens
from wwwmarket.domain.shape import Value

K = TypeVar("K", bound=Hashable)


class Foreseen(Value):
    """One request if it came now: its first token and its last, from now; what it takes from the work in hand."""

    ttft_ms: Millis
    finish_ms: Millis
    burden_micro: MicroCredits


class Request(Value):
    """``output_tokens`` are expected of it, at most ``output_tokens_max`` will come; what a second is worth to it."""

    input_tokens: Tokens
    output_tokens: Tokens
    output_tokens_max: Tokens
    time_value_micro_per_s: MicroCredits = 0


@dataclass(slots=True)
class _Job:
    request: Request
    begun_ms: float
    ahead_tokens: Tokens
    waited: bool
    produced: Tokens = 0
    first_ms: float | None = None
    beside: Count = 1
    context_tokens: Tokens = 0


class Knowledge(Generic[K]):
    """Keys name the requests in hand. ``others_*`` count sequences that came to the engine from elsewhere."""

    def __init__(self, model: LearningModel) -> None:
        self._model = model
        self._jobs: dict[K, _Job] = {}
        self._lengths = RemainingLengths()
        self._occupancy = Occupancy()
        self.others_running: Count = 0
        self.others_waiting: Count = 0
        self._kv_usage_ppm: PartsPerMillion | None = None

    @property
    def in_hand(self) -> Count:
        return len(self._jobs)

    def polled(self, *, running: Count, waiting: Count, kv_usage_ppm: PartsPerMillion | None, in_hand: Count) -> None:
        """What the engine counts beyond the ``in_hand`` when it was asked is somebody else's, and stays so until the
        next poll.
        """
        others = max(0, running + waiting - in_hand)
        self.others_running = min(others, running)
        self.others_waiting = others - self.others_running
        self._kv_usage_ppm = kv_usage_ppm

    def forecast(self, *, input_tokens: Tokens, output_tokens: Tokens, held: Count) -> Foreseen | None:
        """A request if it came now, behind all in hand and ``held`` like it. None where it could never fit."""
        work = tuple(self._left(job) for job in self._jobs.values())
        running = sum(1 for job in self._jobs.values() if job.first_ms is not None)
        hold = Work(input_tokens_left=input_tokens, output_tokens_left=output_tokens)
        load = Load(
            running=self.others_running + running,
            waiting=self.others_waiting + len(self._jobs) - running,
            kv_usage_ppm=self._kv_usage_ppm,
            work=work,
            holds=(hold,) * held,
            usual=self._occupancy.sequences,
        )
        try:
            predicted = self._model.predict(load, input_tokens=input_tokens, output_tokens=output_tokens)
        except TooLarge:
            return None
        step_time, limits = self._model.step_time(), self._model.limits
        slower = burden(step_time, limits, load, input_tokens=input_tokens, output_tokens=output_tokens)
        return Foreseen(ttft_ms=predicted.ttft_ms, finish_ms=predicted.finish_ms, burden_micro=slower)

    def next_end_ms(self) -> Millis | None:
        """From now until the first of those in hand that decode ends, at the pace of now; None where none decodes."""
        left = [self._left(job).output_tokens_left for job in self._jobs.values() if job.first_ms is not None]
        return ceil(min(left) * self._model.step_time().step_ms(*self._batch())) if left else None

    def started(self, key: K, request: Request, now_ms: float) -> None:
        """It was sent to the engine."""
        ahead = sum(job.request.input_tokens for job in self._jobs.values() if job.first_ms is None)
        in_hand = len(self._jobs) + 1 + self.others_running + self.others_waiting
        waited = in_hand > self._model.limits.sequences_max
        self._jobs[key] = _Job(request, now_ms, ahead + request.input_tokens, waited)
        self._occupancy.arrived(in_hand)

    def said(self, key: K, tokens: Tokens, now_ms: float) -> None:
        """So many more tokens of it have come, or about so many."""
        job = self._jobs.get(key)
        if job is None:
            return
        job.produced += tokens
        if job.first_ms is None:
            job.first_ms = now_ms
            job.beside, job.context_tokens = self._batch()

    def ended(self, key: K, output_tokens: Tokens | None, now_ms: float) -> None:
        """It is over; ``output_tokens`` where it ran to its end, so that it can be learnt from.

        Of one that came in a single piece nobody saw the first token: nothing is learnt of the engine's pace.
        """
        job = self._jobs.get(key)
        beside, context = self._batch()
        self._jobs.pop(key, None)
        if job is None or output_tokens is None or job.first_ms is None:
            return
        self._lengths.observe(output_tokens)
        if job.produced < 2:
            return
        concurrency = min((job.beside + beside) // 2, self._model.limits.sequences_max)
        self._model = self._model.observe(
            Observation(
                input_tokens_ahead=job.ahead_tokens,
                output_tokens=output_tokens,
                concurrency=max(1, concurrency),
                ttft_ms=max(1.0, job.first_ms - job.begun_ms),
                finish_ms=max(1.0, now_ms - job.begun_ms),
                context_tokens=(job.context_tokens + context) // 2,
                waited=job.waited,
            )
        )

    def _batch(self) -> tuple[Count, Tokens]:
        """Sequences that decode now and their context; those of others are taken to be like the known ones."""
        known = [job.request.input_tokens + job.produced for job in self._jobs.values() if job.first_ms is not None]
        sequences = len(known) + self.others_running
        return sequences, sum(known) * sequences // max(1, len(known))

    def _left(self, job: _Job) -> Work:
        """One that outlasts what was expected of it is not about to end: what others came to says how much is left."""
        request, begun = job.request, job.first_ms is not None
        expected, longest = request.output_tokens, request.output_tokens_max
        left = self._lengths.left(job.produced, expected=expected, prior=expected, longest=longest)
        return Work(
            input_tokens_left=0 if begun else request.input_tokens,
            output_tokens_left=max(1, left),
            context_tokens=request.input_tokens + job.produced if begun else 0,
            time_value_micro_per_s=request.time_value_micro_per_s,
        )
