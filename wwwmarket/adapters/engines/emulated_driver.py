"""Drives a ``BatchingEngine`` in real time: one loop for all sequences, so that a token costs microseconds."""

import asyncio
from typing import Final

from wwwmarket.dispatch.batching import BatchingEngine, Sequence

TIMER_MS: Final = 1.0
"""Steps that end this close are delivered together: timers are not finer."""


class Generation:
    """One sequence in the engine; its tokens arrive as a count that grows."""

    def __init__(self, key: int, input_tokens: int, output_tokens: int) -> None:
        self.key = key
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.aborted = False
        self._produced = 0
        self._taken = 0
        self._news: asyncio.Future[None] | None = None

    def produce(self, tokens: int) -> None:
        self._produced += tokens
        self._wake()

    def abort(self) -> None:
        self.aborted = True
        self._wake()

    @property
    def remaining(self) -> int:
        """Tokens not yet taken."""
        return self.output_tokens - self._taken

    async def take(self) -> int:
        """Wait for tokens; how many there are since the last time, 0 when it was aborted. One reader only."""
        while self._produced == self._taken and not self.aborted:
            self._news = asyncio.get_running_loop().create_future()
            await self._news
        tokens = 0 if self.aborted else self._produced - self._taken
        self._taken += tokens
        return tokens

    def _wake(self) -> None:
        # a reader that was cancelled leaves a future that is done
        if self._news is not None and not self._news.done():
            self._news.set_result(None)


class Driver:
    """Runs the engine's steps when they are due. ``speedup`` divides every duration."""

    def __init__(self, engine: BatchingEngine, *, front_end_ms: float, speedup: float) -> None:
        assert speedup > 0, "time goes forward"
        self._engine = engine
        self._front_end_s = front_end_ms / 1e3 / speedup
        self._speedup = speedup
        self._generations: dict[int, Generation] = {}
        self._keys = 0
        self._work = asyncio.Event()
        self.input_tokens = 0
        self.output_tokens = 0

    @property
    def running(self) -> int:
        return self._engine.running

    @property
    def waiting(self) -> int:
        return self._engine.waiting

    @property
    def sequences_max(self) -> int:
        return self._engine.limits.sequences_max

    @property
    def kv_usage(self) -> float:
        return self._engine.kv_tokens / self._engine.limits.kv_tokens_max

    def start(self, input_tokens: int, output_tokens: int) -> Generation:
        """Send a request through the front end to the engine."""
        self._keys += 1
        generation = Generation(self._keys, input_tokens, output_tokens)
        self._generations[generation.key] = generation
        asyncio.get_running_loop().call_later(self._front_end_s, self._admit, generation)
        return generation

    def abort(self, generation: Generation) -> None:
        """Stop a generation and free its place; nothing happens where it has finished."""
        if self._generations.pop(generation.key, None) is not None:
            self._engine.abort(generation.key)
            generation.abort()

    def _admit(self, generation: Generation) -> None:
        if generation.aborted:
            return
        self._engine.admit(
            Sequence(key=generation.key, input_tokens=generation.input_tokens, output_tokens=generation.output_tokens)
        )
        self._work.set()

    async def run(self) -> None:
        """The loop, until cancelled."""
        due_ms = self._now_ms()
        while True:
            outcome = self._engine.next_step(due_ms)
            if outcome is None:
                self._work.clear()
                await self._work.wait()
                due_ms = self._now_ms()
                continue
            due_ms = outcome.ended_ms
            ahead_ms = (due_ms - self._now_ms()) / self._speedup
            if ahead_ms > TIMER_MS:
                await asyncio.sleep(ahead_ms / 1e3)
            self._deliver(outcome.emitted, outcome.finished)
            if ahead_ms < 0:
                await asyncio.sleep(0)  # an engine that runs late still lets its answers out

    def _now_ms(self) -> float:
        """Emulated time."""
        return asyncio.get_running_loop().time() * 1e3 * self._speedup

    def _deliver(self, emitted: tuple[int, ...], finished: tuple[int, ...]) -> None:
        for key in emitted:
            generation = self._generations.get(key)
            if generation is not None:
                generation.produce(1)
                self.output_tokens += 1
        for key in finished:
            generation = self._generations.pop(key, None)
            if generation is not None:
                self.input_tokens += generation.input_tokens


class FixedDriver(Driver):
    """Answers whole after a fixed time whatever the load: what some published measurements stood in for an engine."""

    def __init__(self, engine: BatchingEngine, *, fixed_ms: float) -> None:
        super().__init__(engine, front_end_ms=0.0, speedup=1.0)
        self._fixed_s = fixed_ms / 1e3

    @property
    def running(self) -> int:
        return len(self._generations)

    def start(self, input_tokens: int, output_tokens: int) -> Generation:
        self._keys += 1
        generation = Generation(self._keys, input_tokens, output_tokens)
        self._generations[generation.key] = generation
        asyncio.get_running_loop().call_later(self._fixed_s, self._finish, generation)
        return generation

    def _finish(self, generation: Generation) -> None:
        if self._generations.pop(generation.key, None) is not None:
            generation.produce(generation.output_tokens)
            self.input_tokens += generation.input_tokens
            self.output_tokens += generation.output_tokens
