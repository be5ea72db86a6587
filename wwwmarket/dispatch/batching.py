"""A continuous-batching engine as a step machine: which sequences compute how many tokens in the next step.

Promises what vLLM's scheduler does (V1: running sequences first, then waiting ones in order of arrival; prompts in
chunks beside decoding ones; on KV exhaustion the last admitted is preempted and recomputed), and refuses to know
what a token says. No clock: a step tells how long it takes, and who drives it decides what time that is.
"""

from collections import deque
from typing import NamedTuple

import msgspec

from wwwmarket.crypto.digest import tagged
from wwwmarket.dispatch.step_time import EngineLimits, PrefillChunk, StepTimeModel
from wwwmarket.domain.errors import TooLarge
from wwwmarket.domain.identity import Digest
from wwwmarket.domain.shape import Value


class Sequence(Value):
    """Event: one completion to compute. ``computed_tokens`` of its input already lie in the KV cache.

    ``output_tokens`` are still to come, at least one.
    """

    key: int
    input_tokens: int
    output_tokens: int
    computed_tokens: int = 0


class StepOutcome(Value):
    """Effect: ``steps`` equal steps (1 unless the driver let them be joined), and who has what at ``ended_ms``.

    Every sequence in ``emitted`` has ``steps`` tokens more; those in ``finished`` have their last.
    """

    started_ms: float
    duration_ms: float
    steps: int
    emitted: tuple[int, ...]
    finished: tuple[int, ...]
    preempted: tuple[int, ...] = ()

    @property
    def ended_ms(self) -> float:
        return self.started_ms + self.duration_ms


class _Running(msgspec.Struct):
    """A sequence inside the engine: ``known`` tokens have a value, ``computed`` of them are in the KV cache."""

    key: int
    known: int
    computed: int
    output_left: int


class Progress(NamedTuple):
    """A sequence in the engine or its queue: tokens with a value, tokens of them computed, tokens still to come."""

    key: int
    known_tokens: int
    computed_tokens: int
    output_tokens_left: int
    running: bool


class Glide(NamedTuple):
    """A run of equal decode steps that lies ahead."""

    steps: int
    sequences: int
    context_tokens: int


class _Scheduled(NamedTuple):
    sequence: _Running
    tokens: int


class BatchingEngine:
    """The machine. ``admit`` and ``abort`` take effect at the next step."""

    def __init__(self, model: StepTimeModel, limits: EngineLimits) -> None:
        assert limits.sequences_max >= 1, "an engine carries a sequence"
        assert limits.batch_tokens_max >= limits.sequences_max, "every decoding sequence has a token in every step"
        self._model = model
        self._limits = limits
        self._running: list[_Running] = []
        self._waiting: deque[_Running] = deque()
        self._kv_tokens = 0

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def kv_tokens(self) -> int:
        """Tokens in the KV cache now; never more than ``limits.kv_tokens_max``."""
        return self._kv_tokens

    @property
    def limits(self) -> EngineLimits:
        return self._limits

    def digest(self) -> Digest:
        """Digest of the whole state, to compare two replays."""
        return tagged("batching-engine/v1", msgspec.json.encode([self._running, list(self._waiting)]))

    def progress(self) -> list[Progress]:
        """All that is in the engine, oldest first, then its queue."""
        return [
            Progress(s.key, s.known, s.computed, s.output_left, running)
            for sequences, running in ((self._running, True), (self._waiting, False))
            for s in sequences
        ]

    def glide(self) -> Glide | None:
        """The decode steps that would be joined next; None where the next step is not such, or there is none."""
        running = self._running
        if not running or self._kv_tokens + len(running) > self._limits.kv_tokens_max or self._admits_next():
            return None
        context = 0
        for sequence in running:
            if sequence.known - sequence.computed != 1:
                return None
            context += sequence.known
        to_finish = min(s.output_left for s in running)
        to_exhaustion = (self._limits.kv_tokens_max - self._kv_tokens) // len(running)
        return Glide(min(to_finish, to_exhaustion), len(running), context)

    def _admits_next(self) -> bool:
        """Whether a waiting sequence could join the next step, if all that run only decode."""
        batch, limits = len(self._running), self._limits
        if not self._waiting or batch >= limits.sequences_max or batch >= limits.batch_tokens_max:
            return False
        head = self._waiting[0]
        tokens = min(head.known - head.computed, limits.batch_tokens_max - batch)
        return self._kv_tokens + batch + head.computed + tokens <= limits.kv_tokens_max

    def admit(self, sequence: Sequence) -> None:
        """Queue a sequence.

        Raises:
            TooLarge: it could never fit the KV cache, even alone.
        """
        assert sequence.output_tokens >= 1, "a completion has at least one token"
        known = max(sequence.input_tokens, sequence.computed_tokens + 1, 1)
        if known + sequence.output_tokens > self._limits.kv_tokens_max:
            raise TooLarge(f"{known} + {sequence.output_tokens} tokens are more than the KV cache holds")
        self._waiting.append(
            _Running(
                key=sequence.key,
                known=known,
                computed=sequence.computed_tokens,
                output_left=sequence.output_tokens,
            )
        )

    def abort(self, key: int) -> bool:
        """Drop a sequence and free its KV cache at once. False where it has finished or never was."""
        for sequence in self._running:
            if sequence.key == key:
                self._running.remove(sequence)
                self._kv_tokens -= sequence.computed
                return True
        for sequence in self._waiting:
            if sequence.key == key:
                self._waiting.remove(sequence)
                return True
        return False

    def next_step(self, now_ms: float, *, steps_max: int = 1) -> StepOutcome | None:
        """Compute the step that starts at ``now_ms``; None where there is nothing to do.

        With ``steps_max`` above 1, as many decode steps as would be equal are joined: nobody finishes, is admitted
        or preempted between them.
        """
        preempted: list[int] = []
        scheduled = self._schedule_running(preempted)
        if not preempted:
            self._schedule_waiting(scheduled)
        if not scheduled:
            assert not self._running, "a running sequence is always scheduled"
            assert not self._waiting, "an idle engine admits whatever is queued"
            return None
        decoding = [s for s, _ in scheduled if s.known - s.computed == 1]
        prefill = [PrefillChunk(tokens, s.computed) for s, tokens in scheduled if s.known - s.computed > 1]
        context = sum(s.known for s in decoding)
        if prefill or preempted or steps_max == 1:
            steps, duration = 1, self._model.step_ms(len(decoding), context, prefill)
        else:
            steps = self._equal_steps(decoding, steps_max)
            duration = self._model.decode_ms(steps, len(decoding), context)
        emitted, finished = self._apply(scheduled, steps)
        return StepOutcome(
            started_ms=now_ms,
            duration_ms=duration,
            steps=steps,
            emitted=emitted,
            finished=finished,
            preempted=tuple(preempted),
        )

    def _schedule_running(self, preempted: list[int]) -> list[_Scheduled]:
        """Give each running sequence its tokens, oldest first; take KV from the youngest where it runs out."""
        scheduled: list[_Scheduled] = []
        budget = self._limits.batch_tokens_max
        index = 0
        while index < len(self._running):
            sequence = self._running[index]
            tokens = min(sequence.known - sequence.computed, budget - (len(self._running) - index - 1))
            while self._kv_tokens + tokens > self._limits.kv_tokens_max:
                victim = self._running.pop()
                self._preempt(victim, preempted)
                if victim is sequence:
                    return scheduled
            self._kv_tokens += tokens
            budget -= tokens
            scheduled.append(_Scheduled(sequence, tokens))
            index += 1
        return scheduled

    def _preempt(self, victim: _Running, preempted: list[int]) -> None:
        self._kv_tokens -= victim.computed
        victim.computed = 0
        self._waiting.appendleft(victim)
        preempted.append(victim.key)

    def _schedule_waiting(self, scheduled: list[_Scheduled]) -> None:
        """Admit in order of arrival while a slot, a batch token and KV for the first chunk are left."""
        budget = self._limits.batch_tokens_max - sum(tokens for _, tokens in scheduled)
        while self._waiting and budget > 0 and len(self._running) < self._limits.sequences_max:
            sequence = self._waiting[0]
            tokens = min(sequence.known - sequence.computed, budget)
            if self._kv_tokens + sequence.computed + tokens > self._limits.kv_tokens_max:
                return
            self._waiting.popleft()
            self._running.append(sequence)
            self._kv_tokens += sequence.computed + tokens
            budget -= tokens
            scheduled.append(_Scheduled(sequence, tokens))

    def _equal_steps(self, decoding: list[_Running], steps_max: int) -> int:
        # whoever waits now could not be admitted to this step, and until one finishes there is only less room
        to_finish = min(s.output_left for s in decoding)
        to_exhaustion = 1 + (self._limits.kv_tokens_max - self._kv_tokens) // len(decoding)
        return max(1, min(steps_max, to_finish, to_exhaustion))

    def _apply(self, scheduled: list[_Scheduled], steps: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        emitted: list[int] = []
        finished: list[_Running] = []
        for sequence, tokens in scheduled:
            sequence.computed += tokens
            if sequence.computed < sequence.known:
                continue
            sequence.computed += steps - 1
            sequence.known += steps
            sequence.output_left -= steps
            self._kv_tokens += steps - 1
            emitted.append(sequence.key)
            if sequence.output_left == 0:
                finished.append(sequence)
        for sequence in finished:
            self._kv_tokens -= sequence.computed
        if finished:
            self._running = [s for s in self._running if s.output_left > 0]
        return tuple(emitted), tuple(s.key for s in finished)
