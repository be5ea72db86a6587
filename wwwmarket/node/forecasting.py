"""What this provider knows of its engine from moment to moment: polled state, own work in hand, latencies observed.

Feeds ``dispatch.prediction``. While the engine cannot be polled it is unknown, and an unknown engine is not offered.
"""

import logging
from dataclasses import dataclass
from typing import Final

from wwwmarket.dispatch.burden import burden
from wwwmarket.dispatch.occupancy import Occupancy
from wwwmarket.dispatch.prediction import LearntLatency, Load, Observation, Work
from wwwmarket.dispatch.remaining_length import RemainingLengths
from wwwmarket.domain.errors import Refusal, TooLarge
from wwwmarket.domain.identity import EntryId
from wwwmarket.domain.quantity import MicroCredits
from wwwmarket.market.offer import Forecast
from wwwmarket.ports.clock import Clock
from wwwmarket.ports.engine import Engine, EngineState

_log = logging.getLogger("wwwmarket.forecasting")

POLLS_MISSED_MAX: Final = 4
"""Polls that may fail in a row before the engine is unknown: one lost answer is not a dead engine."""


@dataclass
class _Job:
    input_tokens: int
    output_tokens: int
    output_tokens_max: int
    time_value_micro_per_s: MicroCredits
    begun_ms: float
    ahead_tokens: int
    concurrency: int
    waited: bool
    pieces: int = 0
    first_ms: float | None = None


class Forecasting:
    """Implements ``market.offer.Forecaster``. ``others_*`` count sequences that came from elsewhere."""

    def __init__(self, engine: Engine, model: LearntLatency, clock: Clock, *, poll_ms: int) -> None:
        self._engine = engine
        self._model = model
        self._clock = clock
        self._poll_ms = poll_ms
        self._jobs: dict[EntryId, _Job] = {}
        self._lengths = RemainingLengths()
        self._occupancy = Occupancy()
        self.others_running = 0
        self.others_waiting = 0
        self._kv_usage_ppm: int | None = None
        self._known_until_ms = 0.0

    @property
    def known(self) -> bool:
        """Whether the engine's state is known now."""
        return self._clock.monotonic_ms() <= self._known_until_ms

    async def poll_forever(self) -> None:
        while True:
            await self.poll()
            await self._clock.sleep_until_ms(self._clock.monotonic_ms() + self._poll_ms)

    async def poll(self) -> None:
        known = self.known
        ours = len(self._jobs)
        try:
            state = await self._engine.state()
        except Refusal as refusal:
            if known and not self.known:
                _log.warning("the engine's state is unknown, no asks are made: %s", refusal.message)
            return
        self._took(state, ours)

    def _took(self, state: EngineState, ours: int) -> None:
        """What the engine counts beyond our own work is somebody else's, and stays so until the next poll."""
        others = max(0, state.running + state.waiting - ours)
        self.others_running = min(others, state.running)
        self.others_waiting = others - self.others_running
        self._kv_usage_ppm = state.kv_usage_ppm
        self._known_until_ms = self._clock.monotonic_ms() + (POLLS_MISSED_MAX + 1) * self._poll_ms

    def forecast(self, *, input_tokens: int, output_tokens: int, held: int) -> Forecast | None:
        """Predict a request if it arrived now. None while the engine is unknown, or could never fit it."""
        if not self.known:
            return None
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
        slower = burden(
            self._model.step_time(), self._model.limits, load, input_tokens=input_tokens, output_tokens=output_tokens
        )
        return Forecast(ttft_ms=predicted.ttft_ms, finish_ms=predicted.finish_ms, burden_micro=slower)

    def started(
        self,
        award: EntryId,
        *,
        input_tokens: int,
        output_tokens: int,
        output_tokens_max: int,
        time_value_micro_per_s: MicroCredits = 0,
    ) -> None:
        """``output_tokens`` are expected of it, at most ``output_tokens_max`` will come."""
        ahead = sum(job.input_tokens for job in self._jobs.values() if job.first_ms is None)
        in_hand = len(self._jobs) + 1 + self.others_running + self.others_waiting
        self._jobs[award] = _Job(
            input_tokens=input_tokens,
            output_tokens=output_tokens,
            output_tokens_max=output_tokens_max,
            time_value_micro_per_s=time_value_micro_per_s,
            begun_ms=self._clock.monotonic_ms(),
            ahead_tokens=ahead + input_tokens,
            concurrency=len(self._jobs) + 1 + self.others_running,
            waited=in_hand > self._model.limits.sequences_max,
        )
        self._occupancy.arrived(in_hand)

    def said(self, award: EntryId) -> None:
        """A piece with tokens has come."""
        job = self._jobs.get(award)
        if job is None:
            return
        job.pieces += 1
        if job.first_ms is None:
            job.first_ms = self._clock.monotonic_ms()

    def ended(self, award: EntryId, output_tokens: int | None) -> None:
        """The execution is over; ``output_tokens`` where it ran to its end, so that it can be learnt from."""
        job = self._jobs.pop(award, None)
        if job is None or output_tokens is None or job.first_ms is None:
            return
        self._lengths.observe(output_tokens)
        if job.pieces < 2:
            return
        beside = (job.concurrency + len(self._jobs) + 1 + self.others_running) // 2
        now_ms = self._clock.monotonic_ms()
        seen = Observation(
            input_tokens_ahead=job.ahead_tokens,
            output_tokens=output_tokens,
            concurrency=max(1, min(beside, self._model.limits.sequences_max)),
            ttft_ms=max(1, round(job.first_ms - job.begun_ms)),
            finish_ms=max(1, round(now_ms - job.begun_ms)),
            waited=job.waited,
        )
        self._model = self._model.observe(seen)

    def _left(self, job: _Job) -> Work:
        """One that outlasts what was expected of it is not about to end: what others came to says how much is left."""
        begun = job.first_ms is not None
        left = self._lengths.left(
            job.pieces, expected=job.output_tokens, prior=job.output_tokens, longest=job.output_tokens_max
        )
        return Work(
            input_tokens_left=0 if begun else job.input_tokens,
            output_tokens_left=max(1, left),
            context_tokens=job.input_tokens + job.pieces if begun else 0,
            time_value_micro_per_s=job.time_value_micro_per_s,
        )
