"""The engine of ``batching`` played forward in segments: the same schedule, at a cost per change of its batch.

Between two changes of the batch all decode steps are alike but for their growing context, so a segment has a closed
form. What it leaves out is preemption: where the KV cache would run out it says None, and the engine itself is played.
"""

from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import Final, NamedTuple

from wwwmarket.dispatch.step_time import EngineLimits, StepTimeModel

SEGMENTS_MAX: Final = 10_000
"""Segments played before the answer is "at least this long"."""


class Part(NamedTuple):
    """A sequence: tokens still to be computed before it decodes, tokens then to come, tokens computed already."""

    input_tokens: int
    output_tokens: int
    computed_tokens: int


class Seen(NamedTuple):
    """Milliseconds from now until the last part's first token, and until its last."""

    first_ms: float
    finish_ms: float


class _Forward:
    """Decoding sequences are kept by the step in which they end; ``kv_tokens`` are those computed by all admitted."""

    def __init__(self, model: StepTimeModel, limits: EngineLimits) -> None:
        self.limits = limits
        self.now_ms = model.front_end_ms
        self.step = 0
        self.ends: list[tuple[int, int]] = []
        self.context = 0
        self.kv_tokens = 0
        self.partial: list[list[int]] = []
        self._fixed_ms = model.step_ms_fixed
        self._sequence_ms = model.sequence_ms
        self._weights = model.weights_ms**model.blend
        self._blend = model.blend
        self._token_ms = model.token_ms
        self._kv_ms = model.kv_token_ms
        self._square_ms = model.prefill_ms_per_token2

    def begin(self, ends: list[tuple[int, int]]) -> None:
        """Begin with sequences that decode already: (tokens to come, tokens known)."""
        self.ends = sorted(ends)
        self.context = sum(known for _, known in ends)
        self.kv_tokens = self.context - len(ends)

    def segment(self, steps: int) -> bool:
        """``steps`` decode steps, during which nobody ends. False where the KV cache would run out."""
        batch = len(self.ends)
        self.kv_tokens += batch * steps
        if self.kv_tokens > self.limits.kv_tokens_max:
            return False
        compute = (self._weights + (self._token_ms * batch) ** self._blend) ** (1 / self._blend)
        context = self.context + batch * (steps - 1) / 2
        self.now_ms += steps * (self._fixed_ms + self._sequence_ms * batch + compute + self._kv_ms * context)
        self._pass(steps, batch)
        return True

    def prefill(self, queue: deque[list[int]]) -> list[list[int]] | None:
        """One step with as much of the prompts as fits; those whose prompts it ends, None where nothing fits.

        A prompt in the queue is [tokens left, tokens to come, tokens computed, its number].
        """
        limits, batch = self.limits, len(self.ends)
        budget = limits.batch_tokens_max - batch
        room = limits.kv_tokens_max - self.kv_tokens - batch
        chunks = tokens = 0
        squares = 0.0
        ended: list[list[int]] = []
        while budget > 0 and (self.partial or queue):
            fresh = not self.partial
            prompt = queue[0] if fresh else self.partial[0]
            chunk = min(prompt[0], budget)
            needed = chunk + (prompt[2] if fresh else 0)
            if needed > room or (fresh and batch + len(ended) >= limits.sequences_max):
                break
            if fresh:
                self.partial.append(queue.popleft())
            squares += chunk * (prompt[2] + chunk / 2)
            chunks += 1
            tokens += chunk
            budget -= chunk
            room -= needed
            self.kv_tokens += needed
            prompt[0] -= chunk
            prompt[2] += chunk
            if prompt[0] == 0:
                ended.append(self.partial.pop())
        if not chunks:
            return None
        compute = (self._weights + (self._token_ms * (batch + tokens)) ** self._blend) ** (1 / self._blend)
        self.now_ms += (
            self._fixed_ms
            + self._sequence_ms * (batch + chunks)
            + compute
            + self._kv_ms * self.context
            + self._square_ms * squares
        )
        self.kv_tokens += batch
        self._pass(1, batch)
        return ended

    def _pass(self, steps: int, batch: int) -> None:
        """``steps`` later: contexts have grown, and whoever ends has left."""
        self.step += steps
        self.context += batch * steps
        gone = 0
        for end, known in self.ends:
            if end > self.step:
                break
            gone += 1
            self.context -= known + self.step
            self.kv_tokens -= known + self.step - 1
        del self.ends[:gone]

    def start(self, prompt: list[int], grain: int) -> None:
        """A prompt is computed and its first token out: it decodes from here on."""
        left = prompt[1] - 1
        if left == 0:
            self.kv_tokens -= prompt[2]
            return
        known = prompt[2] + 1
        insort(self.ends, (self.step + -(-left // grain) * grain, known - self.step))
        self.context += known


def foresee(  # noqa: PLR0913 - an engine, what is in it, and a request
    model: StepTimeModel,
    limits: EngineLimits,
    decoding: Sequence[tuple[int, int]],
    waiting: Sequence[Part],
    own: Part,
    *,
    grain: int = 1,
    usual: int = 0,
) -> Seen | None:
    """When ``own``, behind all others, has its first token and its last; None where KV would run out.

    ``decoding`` are (tokens to come, tokens computed), ``waiting`` come after them in order. Ends of others are rounded
    up to ``grain`` tokens; that bounds the number of segments.
    """
    forward = _Forward(model, limits)
    forward.begin(
        [(-(-output // grain) * grain, computed + 1) for output, computed in decoding[: limits.sequences_max]]
    )
    if forward.kv_tokens > limits.kv_tokens_max:
        return None
    queue = deque(
        [1, -(-output // grain) * grain, computed, 0] for output, computed in decoding[limits.sequences_max :]
    )
    queue.extend(
        [part.input_tokens, -(-part.output_tokens // grain) * grain, part.computed_tokens, 0] for part in waiting
    )
    queue.append([own.input_tokens, own.output_tokens, own.computed_tokens, 1])
    return _play(forward, queue, grain, own, usual)


def _play(forward: _Forward, queue: deque[list[int]], grain: int, own: Part, usual: int) -> Seen | None:
    first_ms, own_end, kept = None, None, 0
    for _ in range(SEGMENTS_MAX):
        ended = forward.prefill(queue) if queue or forward.partial else None
        if ended is None:
            if not forward.ends or forward.partial:
                return None
            steps = forward.ends[0][0] - forward.step
            if not forward.segment(steps if own_end is None else min(steps, own_end - forward.step)):
                return None
        for prompt in ended or ():
            if prompt[3]:
                first_ms, own_end = forward.now_ms, forward.step + prompt[1] - 1
                kept = min(usual, len(forward.ends) + 1)
            forward.start(prompt, 1 if prompt[3] else grain)
        if own_end is not None and forward.step >= own_end and first_ms is not None:
            return Seen(first_ms, forward.now_ms)
        for _ in range(kept - len(forward.ends) - len(forward.partial) - len(queue)):
            queue.append([own.input_tokens, -(-own.output_tokens // grain) * grain, 0, 0])
    return Seen(forward.now_ms if first_ms is None else first_ms, forward.now_ms)
