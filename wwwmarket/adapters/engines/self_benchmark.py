"""Measuring an engine with a few requests of known lengths, so that its first promises are its own."""

import asyncio
import random
import time
from collections.abc import Callable
from contextlib import aclosing
from typing import Final

import msgspec

from wwwmarket.dispatch.fitting import Fit, Probe, Sample, fit, plan
from wwwmarket.domain.errors import Refusal, Unavailable
from wwwmarket.domain.model import Label, ModelName
from wwwmarket.domain.quantity import Millis
from wwwmarket.domain.shape import Value
from wwwmarket.ports.engine import (
    Engine,
    EngineDescription,
    EngineRefused,
    Path,
    ResponseFinished,
    ResponsePiece,
    ServedModel,
)

BUDGET_S: Final = 30.0
"""The longest that joining waits for it; what was measured until then is what is fitted."""
WARM_UP_BYTES: Final = 512
LETTERS: Final = "abcdefghijklmnopqrstuvwxyz"
_RETRY_MS: Final = 60_000


class Benchmark(Value):
    """What was measured of one engine, and what follows from it."""

    engine: Label
    version: Label
    gpu_class: Label
    model: ModelName
    took_ms: Millis
    fit: Fit
    samples: tuple[Sample, ...]


async def benchmark(  # noqa: PLR0913 - what to measure, and how long
    engine: Engine,
    description: EngineDescription,
    served: ServedModel,
    *,
    sequences: int,
    budget_s: float = BUDGET_S,
    tell: Callable[[int, int], None] = lambda _done, _total: None,
) -> Benchmark:
    """Measure ``served`` with up to ``sequences`` requests at once; ``tell`` hears how far it has come.

    Raises:
        Unavailable: the engine broke, refused what every engine serves, or answered nothing within the budget.
    """
    begun = time.monotonic()
    probes = plan(context_tokens=served.context_tokens, sequences=sequences)
    samples: list[Sample] = []
    try:
        async with asyncio.timeout(budget_s):
            prober = await _Prober.warmed_up(engine, served.name)
            for done, probe in enumerate(probes):
                tell(done, len(probes))
                samples += await prober.run(probe)
    except TimeoutError:
        pass
    except EngineRefused as refused:
        raise Unavailable(f"the engine refused to be measured: {refused.message}", retry_after_ms=_RETRY_MS) from None
    tell(len(probes), len(probes))
    try:
        fitted = fit(samples)
    except Refusal:
        raise Unavailable(
            f"the engine answered too little within {budget_s:g} s to be measured", retry_after_ms=_RETRY_MS
        ) from None
    return Benchmark(
        engine=description.engine,
        version=description.version,
        gpu_class=description.gpu_class,
        model=served.name,
        took_ms=round((time.monotonic() - begun) * 1_000),
        fit=fitted,
        samples=tuple(samples),
    )


class _Prober:
    """Sends probes. Every prompt begins anew, so that no cache of prefixes helps."""

    def __init__(self, engine: Engine, model: str, path: Path) -> None:
        self._engine = engine
        self._model = model
        self._path = path
        self._chance = random.Random()  # noqa: S311 - words, not secrets
        self._bytes_per_token = 1.0

    @classmethod
    async def warmed_up(cls, engine: Engine, model: str) -> "_Prober":
        """After one request: the engine has compiled what it compiles, and has shown how it counts."""
        prober = cls(engine, model, "/v1/completions")
        try:
            sample = await prober._timed(WARM_UP_BYTES, 8, 1)
        except EngineRefused:
            prober._path = "/v1/chat/completions"
            sample = await prober._timed(WARM_UP_BYTES, 8, 1)
        prober._bytes_per_token = WARM_UP_BYTES / max(1, sample.input_tokens)
        return prober

    async def run(self, probe: Probe) -> list[Sample]:
        size = max(1, round(probe.input_tokens * self._bytes_per_token))
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [
                    group.create_task(self._timed(size, probe.output_tokens, probe.concurrency))
                    for _ in range(probe.concurrency)
                ]
        except* Refusal as refusals:
            raise next(iter(refusals.exceptions)) from None
        return [task.result() for task in tasks]

    async def _timed(self, prompt_bytes: int, output_tokens: int, concurrency: int) -> Sample:
        begun, first = time.monotonic(), None
        answer = self._engine.execute(
            self._path, self._request(prompt_bytes, output_tokens), output_tokens_max=output_tokens
        )
        async with aclosing(answer) as events:  # type: ignore[type-var]
            async for event in events:
                if isinstance(event, ResponsePiece) and event.tokens and first is None:
                    first = time.monotonic()
                elif isinstance(event, ResponseFinished):
                    ended = time.monotonic()
                    return Sample(
                        input_tokens=event.usage.input_tokens,
                        output_tokens=event.usage.output_tokens,
                        concurrency=concurrency,
                        ttft_ms=((first or ended) - begun) * 1_000,
                        finish_ms=(ended - begun) * 1_000,
                    )
        raise Unavailable("the engine's answer ended early", retry_after_ms=_RETRY_MS)

    def _request(self, prompt_bytes: int, output_tokens: int) -> bytes:
        """Words of chance; ``ignore_eos`` is what vLLM, SGLang and llama.cpp call answering to the end."""
        words = " ".join("".join(self._chance.choices(LETTERS, k=4)) for _ in range(prompt_bytes // 5 + 1))
        text = words[:prompt_bytes]
        source: dict[str, object] = {"prompt": text}
        if self._path == "/v1/chat/completions":
            source = {"messages": [{"role": "user", "content": text}]}
        fields = {"model": self._model, "max_tokens": output_tokens, "stream": True, "ignore_eos": True}
        return msgspec.json.encode(fields | source)
