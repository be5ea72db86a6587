"""An engine on simulated time: ``dispatch.BatchingEngine`` stepped when its steps are due, equal steps joined.

A joined run is cut where somebody arrives, at the end of the step that is then under way: nobody joins a step that has
begun.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil
from typing import NamedTuple

from wwwmarket.dispatch.batching import BatchingEngine, Glide, Sequence
from wwwmarket.dispatch.step_time import EngineLimits, StepTimeModel
from wwwmarket.simulator.events import EventLoop


class Seen(NamedTuple):
    """One sequence as its engine's owner sees it: tokens of the prompt left, tokens produced and left, context."""

    key: int
    input_left: int
    produced: int
    output_left: int
    context: int


@dataclass(slots=True)
class _Job:
    input_tokens: int
    output_tokens: int
    on_first: Callable[[], None]
    on_finish: Callable[[], None]
    begun: bool = False
    admitted: bool = False


class EngineTwin:
    def __init__(self, loop: EventLoop, model: StepTimeModel, limits: EngineLimits) -> None:
        self.model = model
        self.limits = limits
        self.over_capacity = False
        self._loop = loop
        self._engine = BatchingEngine(model, limits)
        self._jobs: dict[int, _Job] = {}
        self._keys = 0
        self._clock_ms = 0.0
        self._glide: Glide | None = None
        self._plan = 0
        self._busy = False
        self._leaving: list[int] = []
        self._coming: list[int] = []
        self._fresh: set[int] = set()

    @property
    def in_flight(self) -> int:
        return len(self._jobs)

    @property
    def usage(self) -> float:
        """Share of the KV cache or of the slots in use, whichever is larger: what a poll would read."""
        engine, limits = self._engine, self.limits
        return max(engine.kv_tokens / limits.kv_tokens_max, (engine.running + engine.waiting) / limits.sequences_max)

    def fits(self, input_tokens: int, output_tokens: int) -> bool:
        return max(2, input_tokens) + output_tokens <= self.limits.kv_tokens_max

    def submit(
        self, input_tokens: int, output_tokens: int, on_first: Callable[[], None], on_finish: Callable[[], None]
    ) -> int:
        """Send a request to the front end; ``on_first`` and ``on_finish`` are called when their tokens are out."""
        self._keys += 1
        self._jobs[self._keys] = _Job(max(2, input_tokens), output_tokens, on_first, on_finish)
        self._loop.after(int(self.model.front_end_ms * 1_000), self._admit, self._keys)
        return self._keys

    def abort(self, key: int) -> None:
        """Drop a request; nothing happens where it has ended."""
        if self._jobs.pop(key, None) is None:
            return
        self._fresh.discard(key)
        if self._busy:
            self._leaving.append(key)
            self._cut()
        else:
            self._engine.abort(key)

    def crash(self) -> None:
        """Everything in it is gone, and nobody is told."""
        self._jobs.clear()
        self._engine = BatchingEngine(self.model, self.limits)
        self._plan += 1
        self._busy, self._glide = False, None
        self._leaving.clear()
        self._coming.clear()
        self._fresh.clear()

    def snapshot(self) -> list[Seen]:
        """Everything in hand, now, oldest first."""
        gone = self._steps_gone()
        seen = [
            Seen(
                p.key,
                0 if p.running and self._jobs[p.key].begun else max(1, p.known_tokens - p.computed_tokens),
                self._jobs[p.key].output_tokens - p.output_tokens_left + (gone if p.running else 0),
                max(1, p.output_tokens_left - (gone if p.running else 0)),
                p.computed_tokens + (gone if p.running else 0),
            )
            for p in self._engine.progress()
            if p.key in self._jobs
        ]
        queued = [(key, job) for key, job in self._jobs.items() if not job.admitted]
        return seen + [Seen(key, job.input_tokens, 0, job.output_tokens, 0) for key, job in queued]

    def _admit(self, key: int) -> None:
        job = self._jobs.get(key)
        if job is None:
            return
        self._coming.append(key)
        self._cut()
        if not self._busy:
            self._clock_ms = self._loop.now_us / 1_000
            self._go_on()

    def _duration_ms(self, glide: Glide, steps: int) -> float:
        return self.model.decode_ms(steps, glide.sequences, glide.context_tokens)

    def _steps_gone(self) -> int:
        """Whole steps of the joined run that have ended by now."""
        if self._glide is None:
            return 0
        elapsed_ms = self._loop.now_us / 1_000 - self._clock_ms
        low, high = 0, self._glide.steps
        while low < high:
            middle = (low + high + 1) // 2
            if self._duration_ms(self._glide, middle) <= elapsed_ms:
                low = middle
            else:
                high = middle - 1
        return low

    def _cut(self) -> None:
        """End a joined run with the step that is under way."""
        glide = self._glide
        if glide is None:
            return
        steps = min(self._steps_gone() + 1, glide.steps)
        if steps < glide.steps:
            self._glide = Glide(steps, glide.sequences, glide.context_tokens)
            self._arm(self._clock_ms + self._duration_ms(glide, steps))

    def _arm(self, at_ms: float) -> None:
        self._plan += 1
        self._loop.at(ceil(at_ms * 1_000), self._ended, self._plan, at_ms)

    def _go_on(self) -> None:
        """Begin the next step or joined run at ``_clock_ms``; who was aborted meanwhile leaves, who came enters."""
        for key in self._leaving:
            self._engine.abort(key)
        for key in self._coming:
            job = self._jobs.get(key)
            if job is not None:
                job.admitted = True
                self._fresh.add(key)
                sequence = Sequence(key=key, input_tokens=job.input_tokens, output_tokens=job.output_tokens)
                self._engine.admit(sequence)
        self._leaving.clear()
        self._coming.clear()
        # a prompt's last single token looks like a decode step, but its end is a first token that somebody waits for
        reading = len(self._fresh) > self._engine.waiting
        self._glide = None if reading else self._engine.glide()
        if self._glide is not None:
            self._busy = True
            self._arm(self._clock_ms + self._duration_ms(self._glide, self._glide.steps))
            return
        outcome = self._engine.next_step(self._clock_ms)
        self._busy = outcome is not None
        if outcome is None:
            return
        limits = self.limits
        if self._engine.kv_tokens > limits.kv_tokens_max or self._engine.running > limits.sequences_max:
            self.over_capacity = True
        self._plan += 1
        ended_ms = outcome.ended_ms
        self._loop.at(ceil(ended_ms * 1_000), self._stepped, self._plan, ended_ms, outcome.emitted, outcome.finished)

    def _ended(self, plan: int, at_ms: float) -> None:
        if plan != self._plan or self._glide is None:
            return
        outcome = self._engine.next_step(self._clock_ms, steps_max=self._glide.steps)
        assert outcome is not None, "a joined run has sequences"
        self._glide = None
        self._clock_ms = at_ms
        self._deliver(outcome.emitted, outcome.finished)
        self._go_on()

    def _stepped(self, plan: int, at_ms: float, emitted: tuple[int, ...], finished: tuple[int, ...]) -> None:
        if plan != self._plan:
            return
        self._clock_ms = at_ms
        self._deliver(emitted, finished)
        self._go_on()

    def _deliver(self, emitted: tuple[int, ...], finished: tuple[int, ...]) -> None:
        for key in emitted:
            job = self._jobs.get(key)
            if job is not None and not job.begun:
                job.begun = True
                self._fresh.discard(key)
                job.on_first()
        for key in finished:
            job = self._jobs.pop(key, None)
            if job is not None:
                job.on_finish()
